"""Short ways to ask a daemon for things in tests."""

import contextlib
import os
import select
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from sandboxd.protocol import messages as m
from sandboxd.spec import EnvSpec, Service, Workspace
from tests.daemons import PATIENCE

ENVIRON = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}


def until(condition: Callable[[], object], what: str = "it") -> None:
    """Wait for what nothing tells us of."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} never came"
        time.sleep(0.01)


def spec(command: Any = None, *, path: Path | None = None, services: dict[str, Service] | None = None, **parts: Any) -> EnvSpec:
    """One service `main` that runs command; Service's own fields may be among the parts."""
    own = {key: parts.pop(key) for key in list(parts) if key in Service.__struct_fields__ and key != "env"}
    if services is None:
        services = {"main": Service(command=command, **own)}
    return EnvSpec(services=services, workspace=Workspace(path=str(path) if path else None), **parts)


def run(client: Any, command: Any = None, *, wait: str = "started", exists: str = "error", **parts: Any) -> m.EnvInfo:
    """Create an env and wait."""
    reply = client.call(m.Run(spec=spec(command, **parts), environ=ENVIRON, wait=wait, exists=exists))
    info: m.EnvInfo = reply.env
    return info


def inspect(client: Any, target: str) -> m.EnvInfo:
    """The env, whole."""
    info: m.EnvInfo = client.call(m.Inspect(target=target)).env
    return info


def ended(client: Any, target: str, timeout: float = 30.0) -> m.EnvInfo:
    """Wait for its end."""
    info: m.EnvInfo = client.call(m.Wait(target=target, until="stopped", timeout=timeout)).env
    return info


def logged(client: Any, target: str, **params: Any) -> str:
    """Its output as text."""
    lines = client.call(m.Logs(target=target, **params)).lines
    return "".join(line.text + ("" if line.partial else "\n") for line in lines)


def remove(client: Any, target: str) -> m.Receipt:
    """Remove it whatever it does."""
    receipt: m.Receipt = client.call(m.Remove(target=target, force=True)).receipt
    return receipt


def events(client: Any, name: str) -> list[str]:
    """What happened to it so far, by the names of the events: a state that it was in for a moment only is not missed."""
    return [event.event for event in client.call(m.Events(filters=[f"name={name}"])).events]


@contextlib.contextmanager
def watched(pids: Iterable[int]) -> Iterator[dict[int, int]]:
    """Processes by their pidfds: numbers come again, and a dead one's stays in /proc until its parent takes its status."""
    fds = {pid: os.pidfd_open(pid) for pid in pids}
    try:
        yield fds
    finally:
        for fd in fds.values():
            os.close(fd)


def living(fds: dict[int, int]) -> list[int]:
    """Those of `watched` that have not ended, once each had its time to (pidfd_open(2): its end makes it readable)."""
    return [pid for pid, fd in fds.items() if not select.select([fd], [], [], PATIENCE)[0]]


SERVER = ["python3", "-m", "http.server", "--bind", "127.0.0.1"]

# Answers at once, or in two parts with a pause until there is a file `go`. On port 3000, keeps connections.
TWO_PARTS = """
import http.server, os, socketserver, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "10")
        self.end_headers()
        self.wfile.write(b"first")
        while self.path == "/slow" and not os.path.exists("go"):
            time.sleep(0.02)
        self.wfile.write(b"later")
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
Server(("127.0.0.1", 3000), Handler).serve_forever()
"""
