"""What goes out of an env, against the host's own network, pasta and slirp4netns: connect to first byte, connections a second,
bulk download.

The server is on the host's loopback and the client the same for all: blocking, one connection at a time. Bytes come by
sendfile(2) from a file in memory. pasta and slirp4netns reach the host's loopback by their gateway's address; one that cannot
run here is said to be missing, and why, and the others are measured all the same.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from tests.bench.results import Row, row
from tests.daemons import Daemon

SIZE = 256 << 20
CLIENT = """
import json, socket, sys, time
host, port, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def ask(word):
    sock = socket.create_connection((host, port), 30)
    sock.sendall(word)
    return sock
times = []
for _ in range(200):
    begun = time.perf_counter()
    with ask(b"1") as sock:
        sock.recv(1)
    times.append((time.perf_counter() - begun) * 1000)
begun = time.perf_counter()
for _ in range(300):
    with ask(b"1") as sock:
        sock.recv(1)
rate = 300 / (time.perf_counter() - begun)
room = bytearray(1 << 20)
begun = time.perf_counter()
with ask(b"n") as sock:
    left = size
    while left:
        left -= sock.recv_into(room) or sys.exit("cut short")
bulk = size / (time.perf_counter() - begun) / 1e6
print(json.dumps([times, rate, bulk]))
"""
SLIRP = """
exec unshare -Urn sh -c '
    echo $$
    until ip route 2>/dev/null | grep -q default; do sleep 0.05; done
    exec "$@"
' sh "$@"
"""


def serve(listener: socket.socket) -> None:
    """In a child: one byte, or all of them."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    data = os.memfd_create("bulk")
    os.ftruncate(data, SIZE)
    while True:
        connection, _ = listener.accept()
        with connection:
            if connection.recv(1) == b"1":
                connection.sendall(b"1")
                continue
            sent = 0
            while sent < SIZE:
                sent += os.sendfile(connection.fileno(), data, sent, SIZE - sent)


def run(args: argparse.Namespace) -> Iterable[Row]:
    """One round of every subject after another, `count` times."""
    found: dict[str, list[list[object]]] = {}
    with ExitStack() as stack:
        workspace = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        workspace.chmod(0o755)  # root's envs are nobody's
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512))
        port = listener.getsockname()[1]
        child = os.fork()
        if not child:
            try:
                serve(listener)
            finally:
                os._exit(1)
        stack.callback(end, child)
        daemon = Daemon()
        stack.callback(daemon.close)
        daemon.start()
        peers = dict(PEERS)
        for _ in range(args.count or 5):
            words = ["/usr/bin/python3", "-c", CLIENT]
            argv = ["run", "--rm", "--egress", f"host:{port}", "--", *words, "198.51.100.1", str(port), str(SIZE)]
            found.setdefault("sandboxd", []).append(json.loads(daemon.sandbox(*argv, cwd=workspace).stdout))
            found.setdefault("host network", []).append(told([*words, "127.0.0.1", str(port), str(SIZE)]))
            for peer, measure in list(peers.items()):
                try:
                    os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))  # pasta goes on without it, and serves nobody
                    found.setdefault(peer, []).append(measure([*words], str(port)))
                except (OSError, RuntimeError, ValueError, subprocess.SubprocessError) as error:
                    del peers[peer]
                    found.pop(peer, None)
                    sys.stderr.write(f"{peer} is missing: {' '.join(str(error).split())[-300:]}\n")
    rows = []
    for subject, rounds in found.items():
        is_peer = subject in PEERS
        rows.append(row("connect to first byte", subject, [one for times, _, _ in rounds for one in times], "ms", peer=is_peer))  # type: ignore[attr-defined]
        rows.append(row("connections", subject, [float(str(rate)) for _, rate, _ in rounds], "conn/s", peer=is_peer))
        rows.append(row("bulk download", subject, [float(str(bulk)) for _, _, bulk in rounds], "MB/s", peer=is_peer))
    return sorted(rows, key=lambda one: one.metric)


def end(child: int) -> None:
    """The server's."""
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)


def told(argv: list[str]) -> list[object]:
    """What a client says; raises RuntimeError with its last words, as for one that hangs."""
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as client:
        try:
            out, err = client.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(client.pid, signal.SIGKILL)
            raise RuntimeError(f"no answer in {PATIENCE} s: {client.communicate()[1]}") from None
    if client.returncode:
        raise RuntimeError(err or f"exit status {client.returncode}")
    found: list[object] = json.loads(out)
    return found


def pasta(words: list[str], port: str) -> list[object]:
    """The client in a network namespace of pasta's, which maps the gateway's address to the host's loopback."""
    route = "import os, sys; g = os.popen('ip route').read().split('via ')[1].split()[0]; "
    route += "os.execvp(sys.argv[1], [*sys.argv[1:4], g, *sys.argv[4:]])"
    root = [] if os.getuid() else ["--runas", "0"]  # else it becomes nobody, who may not write the maps
    return told(["pasta", *root, "--config-net", "-q", "--", sys.executable, "-c", route, *words, port, str(SIZE)])


def slirp(words: list[str], port: str) -> list[object]:
    """The client in a network namespace that slirp4netns serves. It says its process id before all else."""
    argv = ["timeout", str(PATIENCE), "sh", "-c", SLIRP, "sh", *words, "10.0.2.2", port, str(SIZE)]
    pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True) as client:
        assert client.stdout is not None
        pid = client.stdout.readline().strip()
        if not pid:
            raise RuntimeError(client.communicate()[1])
        with subprocess.Popen(["slirp4netns", "--configure", pid, "tap0"], stdout=quiet, stderr=pipe, text=True) as net:
            out, err = client.communicate()
            net.terminate()
            said = net.communicate()[1]
    if client.returncode:
        raise RuntimeError(said or err)
    found: list[object] = json.loads(out)
    return found


TUN = "/dev/net/tun"
PATIENCE = 60  # seconds
PEERS = {"pasta": pasta, "slirp4netns": slirp}
