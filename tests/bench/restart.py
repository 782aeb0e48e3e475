"""What a restart costs: requests failed and the longest gap at 64 connections, for a restart in place and for a killed daemon;
how much longer a daemon's start takes that finds many envs alive; what the journal adds to the creation of an env.

The gap is the longest time in which none of the connections got an answer; the wait is that of the slowest request. There is
no peer: of those that run containers none keeps a daemon between client and service that could be restarted under load.
"""

import argparse
import contextlib
import selectors
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.bench.peers import ENVIRON
from tests.bench.results import Row, row
from tests.daemons import Daemon

CONNECTIONS = 64
ENVS = 500
PUTS = 1000
BODY = b"ready\n"
AROUND = 1.0  # seconds of load before and after
# Answers at once, keeps connections, and has room in its queue: busybox httpd does neither (listen(fd, 9), a process for each
# request), and a SYN that finds a queue full is sent again after a second (tcp_retries, RFC 6298), which is no wait of ours.
SERVER = f"""
import selectors, socket
listener = socket.create_server(("127.0.0.1", 8080), backlog=1024)
listener.setblocking(False)
selector = selectors.DefaultSelector()
selector.register(listener, selectors.EVENT_READ)
while True:
    for key, _ in selector.select():
        sock = key.fileobj
        if sock is listener:
            sock = listener.accept()[0]
            selector.register(sock, selectors.EVENT_READ)
        elif sock.recv(65536):
            sock.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: {len(BODY)}\\r\\n\\r\\n" + {BODY!r})
        else:
            selector.unregister(sock)
            sock.close()
"""


def run(args: argparse.Namespace) -> Iterable[Row]:
    """Under load first, then with many envs."""
    rounds, around = (args.count or 5), args.seconds or AROUND
    with ExitStack() as stack:
        workspace = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        daemon = Daemon()
        stack.callback(daemon.close)
        daemon.start()
        make(daemon, "web", ["python3", "-c", SERVER], workspace, port=8080, wait="ready")
        found: dict[tuple[str, str, str], list[float]] = {}
        for _ in range(rounds):
            for how, restart in (("restart", in_place), ("kill and start", killed)):
                load = Load(daemon.port)
                load.over(around, lambda restart=restart: restart(daemon))  # type: ignore[misc]
                for metric, number, unit in load.result():
                    found.setdefault((metric, how, unit), []).append(number)
        yield from (row(metric, how, numbers, unit) for (metric, how, unit), numbers in found.items())
    yield from adopting(ENVS if args.count is None else 4 * args.count)
    yield row("journal: put of a record", "sandboxd", journal(), "ms")


def make(daemon: Daemon, name: str, command: Any, workspace: Path | None = None, *, wait: Any, **service: Any) -> None:
    """One env."""
    from sandboxd.protocol.messages import Run
    from sandboxd.spec import EnvSpec, Service, Workspace

    with daemon.client() as client:
        place = Workspace(path=str(workspace) if workspace is not None else None)
        spec = EnvSpec(name=name, workspace=place, services={"web": Service(command=command, **service)})
        client.call(Run(spec=spec, environ=ENVIRON, wait=wait))


def in_place(daemon: Daemon) -> None:
    """`sandbox daemon restart`, without the time of the command."""
    from sandboxd.protocol.messages import Shutdown, Status

    with daemon.client() as client:
        before = client.call(Status()).started
        client.call(Shutdown(again=True))
        while client.call(Status()).started == before:
            continue


def killed(daemon: Daemon) -> None:
    """As a crash does it."""
    daemon.kill()
    daemon.start()


class Load:
    """Connections that each ask again as soon as they are answered."""

    def __init__(self, port: int) -> None:
        self.ask = f"GET / HTTP/1.1\r\nHost: web.localhost:{port}\r\n\r\n".encode()
        self.socks = [socket.create_connection(("127.0.0.1", port), 30) for _ in range(CONNECTIONS)]
        self.failed = self.answered = 0
        self.gap = self.wait = 0.0
        self._over = False

    def over(self, around: float, act: Callable[[], None]) -> None:
        """Load before, during and after."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            time.sleep(around)
            self.gap = self.wait = 0.0  # that all connect at once is no part of it
            act()
            time.sleep(around)
        finally:
            self._over = True
            thread.join()

    def result(self) -> list[tuple[str, float, str]]:
        """What was seen."""
        assert self.answered > 0
        return [
            ("requests failed", self.failed, "requests"),
            ("longest gap", self.gap * 1000, "ms"),
            ("longest wait of a request", self.wait * 1000, "ms"),
        ]

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
            asked: dict[Any, float] = {}
            heard = dict.fromkeys(self.socks, b"")
            for one in self.socks:
                stack.enter_context(one)
                selector.register(one, selectors.EVENT_READ)
                one.sendall(self.ask)
                asked[one] = time.perf_counter()
            last = time.perf_counter()
            while not self._over and selector.get_map():
                for key, _ in selector.select(1.0):
                    sock: Any = key.fileobj
                    try:
                        data = sock.recv(65536)
                    except OSError:
                        data = b""
                    heard[sock] += data
                    if data and not heard[sock].endswith(BODY):
                        continue  # head and body may come apart
                    is_good = data and b" 200 " in heard[sock]
                    heard[sock] = b""
                    now = time.perf_counter()
                    self.gap, last = max(self.gap, now - last), now
                    self.wait = max(self.wait, now - asked[sock])
                    if not is_good:
                        self.failed += 1
                        selector.unregister(sock)
                        continue
                    self.answered += 1
                    sock.sendall(self.ask)
                    asked[sock] = time.perf_counter()


def adopting(count: int) -> Iterable[Row]:
    """A start that finds nothing, and one that finds so many envs alive."""
    daemon = Daemon(SANDBOXD_MAX_STARTING="16")
    try:
        daemon.start()
        daemon.kill()
        empty = started(daemon)
        for number in range(count):
            make(daemon, f"n{number}", "sleep 10000", wait="started")
        times = []
        for _ in range(3):
            daemon.kill()
            times.append(started(daemon) - empty)
        yield row("start, nothing to find", "sandboxd", [empty], "ms")
        yield row(f"more with {count} envs alive", "sandboxd", times, "ms")
    finally:
        daemon.close()


def started(daemon: Daemon) -> float:
    """Milliseconds until a daemon says that it is ready."""
    begun = time.perf_counter()
    daemon.start()
    return (time.perf_counter() - begun) * 1000


def journal() -> list[float]:
    """Milliseconds of each of many writes of a record of usual size."""
    from sandboxd.store.journal import Journal

    times = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as place,
        contextlib.closing(Journal(Path(place) / "state.db")) as written,
    ):
        for number in range(PUTS):
            begun = time.perf_counter()
            written.put(f"{number % 100:032x}", b"x" * 2500)
            times.append((time.perf_counter() - begun) * 1000)
    return times
