"""Stand-ins for envs, and a router to point at them: the parent's half of `inside`."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from sandboxd.router.handle import RouterHandle
from sandboxd.routing.framing import Bounds
from sandboxd.routing.rules import Rule
from sandboxd.routing.table import Change, Endpoint, Route, RouteTable
from tests.router.talk import Talk

ROOT = Path(__file__).parent.parent.parent
Server = tuple[str, str, int]
HTTP: tuple[Server, ...] = (("http", "127.0.0.1", 3000),)
Result = TypeVar("Result")


class Standin:
    """An env that is none: namespaces, servers and dial.sock in a process of its own."""

    def __init__(
        self,
        name: str,
        directory: Path,
        *,
        serve: Sequence[tuple[str, str, int]] = HTTP,
        dial: str = "good",
        run: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.env_id = name.encode().hex().ljust(32, "0")[:32]
        directory.mkdir(parents=True, exist_ok=True)
        self.path = str(directory / "dial.sock")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        here = os.open(directory, os.O_PATH)
        listener.bind(f"/proc/self/fd/{here}/dial.sock")
        os.close(here)
        listener.listen(64)
        ready, told = os.pipe()
        given = {"name": name, "serve": serve, "dial": dial, "ready": told, "listen": listener.fileno(), "run": list(run)}
        command = [sys.executable, "-S", "-m", "tests.router.inside", json.dumps(given)]
        fds = [told, listener.fileno()]
        self.process = subprocess.Popen(command, pass_fds=fds, start_new_session=True, cwd=ROOT)
        listener.close()
        os.close(told)
        with os.fdopen(ready, "rb") as file:
            line = file.readline()
        if not line:
            raise RuntimeError(f"the stand-in ended: {self.process.wait()}")
        self.cookie = int(line)

    def endpoint(self, **changes: Any) -> Endpoint:
        """How the table names it."""
        values: dict[str, Any] = {
            "env_id": self.env_id,
            "name": self.name,
            "service": "web",
            "state": "ready",
            "dial": self.path,
            "port": 3000,
            "netns_cookie": self.cookie,
            "owner": os.getuid(),
        }
        return Endpoint(**{**values, **changes})

    def close(self) -> None:
        """End it and all it started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, 9)
        self.process.wait()


class Bench:
    """A router, driven from a plain function: its loop runs while something is asked of it."""

    def __init__(
        self, directory: Path, *, bounds: Bounds | None = None, listen: Sequence[str] = ("127.0.0.1:0",), workers: int = 1
    ) -> None:
        self.directory = directory
        self.runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self.version = 0
        try:
            self.handle = self.run(
                RouterHandle.start_or_adopt(dir=directory, listen=list(listen), bounds=bounds, workers=workers)
            )
        except BaseException:
            self.runner.close()
            raise
        self.port = int(self.handle.listen[0].rpartition(":")[2]) if self.handle.listen else 0

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run the daemon's loop until this is done."""
        return self.runner.run(coroutine)

    def call(self, function: Callable[[], Result]) -> Result:
        """Run a plain function on the daemon's loop."""

        async def body() -> Result:
            return function()

        return self.run(body())

    def push(
        self,
        endpoints: Sequence[Endpoint],
        *,
        hold: float = 30.0,
        hosts: dict[str, int] | None = None,
        rules: Sequence[Rule] = (),
    ) -> None:
        """Push a table and wait until the router has it."""
        self.version += 1
        named = hosts or {f"{endpoint.name}.localhost": number for number, endpoint in enumerate(endpoints)}
        routes = [Route(host=host, endpoint=number) for host, number in named.items()]
        table = RouteTable(version=self.version, endpoints=list(endpoints), routes=routes, hold=hold, rules=list(rules))
        self.call(lambda: self.handle.push(table))
        assert self.run(self.handle.release("nobody")) is True  # orders are carried out in turn

    def spin(self, seconds: float) -> None:
        """Let the daemon's loop take what the router reports."""
        self.run(asyncio.sleep(seconds))

    def change(self, **changes: Any) -> bool:
        """Push a change of the table that was pushed last, and wait until the router has it."""
        self.version += 1
        change = Change(base=self.version - 1, version=self.version, **changes)
        taken = self.call(lambda: self.handle.change(change))
        assert self.run(self.handle.release("nobody")) is True
        return taken

    def connect(self) -> socket.socket:
        """A connection to the router."""
        return socket.create_connection(("127.0.0.1", self.port), 30)

    def descriptors(self) -> dict[int, str]:
        """The open descriptors of the router's worker."""
        (pid,) = self.workers()
        found = {}
        for number in os.listdir(f"/proc/{pid}/fd"):
            try:
                found[int(number)] = os.readlink(f"/proc/{pid}/fd/{number}")
            except FileNotFoundError:
                continue
        return found

    def workers(self) -> list[int]:
        """The pids of the router's workers as they are now."""
        return [int(pid) for pid in Path(f"/proc/{self.handle.pid}/task/{self.handle.pid}/children").read_text().split()]

    def close(self) -> None:
        """Stop the router."""
        self.run(self.handle.stop())
        self.runner.close()


def rested(bench: Bench, *hosts: str) -> int:
    """How many descriptors the router has once each env was asked and has let go: its ready sockets are among them."""
    for host in hosts or ("shop.localhost",):
        with Talk(bench.connect()) as talk:
            talk.get(host=host)
    counts = [-1, -2]
    while counts[-1] != counts[-2]:
        bench.spin(0.05)
        counts.append(len(bench.descriptors()))
    return counts[-1]


def settle(bench: Bench, most: int, *, rounds: int = 1000) -> None:
    """Until the router has no more descriptors than that; fails with what it has when that does not come."""
    for _ in range(rounds):
        if len(bench.descriptors()) <= most:
            return
        bench.spin(0.02)
    raise AssertionError(f"more than {most} descriptors: {sorted(bench.descriptors().values())}")
