"""The corpus's stage: a router, the env under test with three servers, another env, and the way to ask what they saw."""

import json
import os
import select
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from sandboxd.kernel import fds
from tests.router.corpus.backends import PORTS
from tests.router.standin import Bench, Standin
from tests.router.talk import Talk

HOSTS = {"h11": "shop.localhost", "node": "node.localhost", "nginx": "ngnx.localhost"}  # all of one length
UP = 60.0


def env(name: str, directory: Path, *others: str) -> Standin:
    """A stand-in env with witnesses, once they are up."""
    directory.mkdir()
    os.mkfifo(directory / "ready")
    ready = os.open(directory / "ready", os.O_RDONLY | os.O_NONBLOCK)
    command = [sys.executable, "-m", "tests.router.corpus.backends", str(directory), name, *others]
    made = Standin(name, directory, serve=(), run=command)
    up, _, _ = select.select([ready], [], [], UP)
    os.close(ready)
    if not up:
        made.close()
        raise RuntimeError(f"the servers in {name} did not come up")
    return made


class Stage:
    """See above."""

    def __init__(self, directory: Path, *kinds: str) -> None:
        self.shop = env("shop", directory / "shop", *kinds)
        self.blog = env("blog", directory / "blog")
        self.bench = Bench(directory)
        places = {HOSTS[kind]: self.shop.endpoint(service=kind, port=PORTS[kind][0]) for kind in ("h11", *kinds)}
        places["blog.localhost"] = self.blog.endpoint(port=PORTS["h11"][0])
        self.bench.push(list(places.values()), hosts={host: number for number, host in enumerate(places)})
        self.canary = Talk(self.bench.connect())

    def close(self) -> None:
        """All of it."""
        self.canary.close()
        self.bench.close()
        self.shop.close()
        self.blog.close()

    def seen(self, kind: str) -> list[list[str]]:
        """Method, target and body of each request that came, since it was asked last, once nobody is connected any more."""
        return self._ask(self.shop, kind)

    def seen_by_other(self) -> list[list[str]]:
        """The same of the other env; the canary's requests are not among them."""
        return [what for what in self._ask(self.blog, "h11") if what[1] != "/canary"]

    def _ask(self, env: Standin, kind: str) -> list[list[str]]:
        with straight(env, PORTS[kind][1]) as sock:
            found: list[list[str]] = json.loads(b"".join(iter(lambda: sock.recv(1 << 16), b"")))
        return found

    def sing(self) -> None:
        """Another client, of the other env, gets its own answer whatever happened elsewhere."""
        with Talk(self.bench.connect()) as canary:
            told = json.loads(canary.get("/canary", "blog.localhost").body)
        assert told == {"who": "blog h11", "what": ["GET", "/canary", ""]}


def straight(env: Standin, port: int) -> socket.socket:
    """A connection that goes past the router, by a socket born in the env as the router's are."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dial:
        dial.connect(env.path)
        dial.send(bytes((4, 1)))
        _, passed = fds.recv(dial, 64, max_fds=1)
    sock = socket.socket(fileno=passed[0])
    sock.settimeout(30)
    sock.connect(("127.0.0.1", port))
    return sock


def exchange(sock: socket.socket, data: bytes) -> bytes:
    """All that comes back for these bytes and no more; a reset is an end like others."""
    received = b""
    with sock:
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # refused before all was sent; what it said is still read
        try:
            while piece := sock.recv(1 << 16):
                received += piece
        except OSError:
            pass
    return received


def answers(received: bytes, methods: list[str]) -> Iterator[tuple[int, bytes]]:
    """Status and body of each answer; methods: of the requests, as a HEAD's answer has no body. 1xx are passed over."""
    turn = iter(methods)
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        version, status = lines[0].split(b" ")[:2]
        assert version == b"HTTP/1.1", lines[0]
        if status.startswith(b"1"):
            continue
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
        length = 0 if next(turn, "GET") == "HEAD" else int(fields.get(b"content-length", len(received)))
        assert len(received) >= length, "an answer broke off"
        yield int(status), received[:length]
        received = received[length:]
