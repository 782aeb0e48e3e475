"""A SYN flood on a router in a network namespace of its own, as its root: `unshare -Urn python -m tests.router.flood`.

A router listens in there with nothing behind it; what counts is that clients get its answer while thousands of half-open
connections, from addresses that do not exist, arrive at its listener.
"""

import json
import random
import socket
import struct
import subprocess
import tempfile
from pathlib import Path

from tests.router.standin import Bench
from tests.router.talk import Talk

SYNS = 20_000
PORT = 7070


def main() -> None:
    # Addresses of 10.9.0.0/16 are reached over a pair of which nobody serves the far end, and are never asked for by ARP.
    for words in (
        "link set lo up",
        "link add near type veth peer name far",
        "link set near arp off up",
        "link set far arp off up",
        "addr add 10.9.0.1/16 dev near",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory), listen=(f"0.0.0.0:{PORT}",))
        bench.push([])
        served = 0
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind(("far", 0))
            found = json.loads(subprocess.run(["ip", "-j", "link", "show", "near"], check=True, capture_output=True).stdout)
            hardware = bytes.fromhex(found[0]["address"].replace(":", ""))
            ether = hardware + bytes(6) + b"\x08\x00"
            for number in range(20):
                for _ in range(SYNS // 20):
                    wire.send(ether + syn())
                with Talk(socket.create_connection(("127.0.0.1", PORT), 30)) as talk:
                    served += talk.get(host=f"nobody{number}.localhost").status == 404
        half_open = sum(line.split()[3] == "03" for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
        print(f"served {served} of 20; {half_open} half-open")
        bench.close()


def syn() -> bytes:
    """One SYN from an address of nobody."""
    source, target = bytes((10, 9, random.randrange(1, 255), random.randrange(2, 255))), bytes((10, 9, 0, 1))
    segment = struct.pack(">HHIIBBHHH", random.randrange(1024, 65536), PORT, random.getrandbits(32), 0, 0x50, 2, 65535, 0, 0)
    check = checksum(source + target + struct.pack(">BBH", 0, 6, len(segment)) + segment)
    segment = segment[:16] + struct.pack(">H", check) + segment[18:]
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(segment), 0, 0, 64, 6, 0, source, target)
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + segment


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


if __name__ == "__main__":
    main()
