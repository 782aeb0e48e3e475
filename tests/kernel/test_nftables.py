"""The way out of a namespace, `sandboxd.kernel.nftables`: what goes out arrives at the relay, or is refused at once."""

import json
import subprocess
import sys

import pytest

from sandboxd.launch.probes import probe_features

ROOT = __file__.rpartition("/tests/")[0]
# Run in namespaces of its own; prints what each attempt came to.
PROGRAM = """
import errno, json, os, socket, sys, traceback
sys.path.insert(0, sys.argv[1])
from sandboxd.kernel import namespaces, nftables
from sandboxd.launch.attempts import attempt
from sandboxd.launch.dialer import open_ways

def tried(family, kind, address, port):
    with socket.socket(family, kind) as sock:
        sock.settimeout(20)
        try:
            sock.connect((address, port))
            if kind == socket.SOCK_DGRAM:
                sock.send(b"x")
                sock.send(b"x")
            return "ok"
        except OSError as error:
            return errno.errorcode.get(error.errno, str(error))

def act():
    try:
        look()
    except BaseException:
        traceback.print_exc()
        raise

def look():
    ways = open_ways()
    namespaces.loopback_up()
    if sys.argv[2] == "way":
        nftables.open_way()
    found = {}
    T, D, V4, V6 = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.AF_INET, socket.AF_INET6
    for name, where in {
        "tcp": (V4, T, "93.184.216.34", 443), "tcp6": (V6, T, "2606:2800::1", 443),
        "dns": (V4, D, "8.8.8.8", 53), "dns6": (V6, D, "2001:4860:4860::8888", 53),
        "udp": (V4, D, "93.184.216.34", 443), "udp6": (V6, D, "2606:2800::1", 443), "own": (V4, T, "198.18.83.66", 80),
        "loopback": (V4, T, "127.0.0.1", 80), "loopback6": (V6, T, "::1", 80), "loopback dns": (V4, D, "127.0.0.1", 53),
    }.items():
        found[name] = tried(*where)
    led = []
    for way in [socket.socket(fileno=way.detach()) for way in ways]:
        way.setblocking(False)
        try:
            if way.type == T:
                sock, _ = way.accept()
                level, size = (41, 28) if way.family == V6 else (0, 16)
                told = sock.getsockopt(level, 80, size)
                packed = told[8:24] if way.family == V6 else told[4:8]
                led.append([socket.inet_ntop(way.family, packed), int.from_bytes(told[2:4], "big")])
            else:
                led.append(len(way.recv(100)))
        except OSError as error:
            led.append(errno.errorcode[error.errno])
    os.write(1, json.dumps([found, led]).encode())

raise SystemExit(attempt(namespaces.NEWNET, act))
"""


def seen(how: str) -> tuple[dict[str, str], list[object]]:
    """What came of every attempt."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, ROOT, how], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    found, led = json.loads(done.stdout)
    return found, led


def test_all_that_goes_out_arrives_or_is_refused(require) -> None:
    require("userns", "nft", "ipv6")
    found, led = seen("way")
    assert {name: found[name] for name in ("tcp", "tcp6", "dns", "dns6")} == dict.fromkeys(("tcp", "tcp6", "dns", "dns6"), "ok")
    refused = {name: came for name, came in found.items() if came != "ok"}
    # sendmsg(2) of what a rule refuses is EPERM, before any ICMP message could say more
    assert {refused.pop("udp"), refused.pop("udp6")} <= {"EPERM", "ECONNREFUSED"}
    assert refused == dict.fromkeys(("own", "loopback", "loopback6", "loopback dns"), "ECONNREFUSED")
    assert led == [["93.184.216.34", 443], 1, ["2606:2800::1", 443], 1]


def test_without_it_there_is_no_way(require) -> None:
    require("userns")
    found, led = seen("none")
    assert found["tcp"] == found["udp"] == "ENETUNREACH"
    assert set(led) == {"EAGAIN"}


@pytest.mark.parametrize("feature", ["nft"])
def test_the_host_is_asked_by_trying(require, feature: str) -> None:
    require("userns", "nft")
    assert probe_features()[feature] == 0
