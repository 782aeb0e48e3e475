"""A control server with toy handlers, on a real socket under uvloop, in this process."""

import asyncio
import contextlib
import json
import os
import queue
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import uvloop

from sandboxd.daemon.control import USUAL, Bounds, Call, ClientGone, ControlServer, Handler, Peer, is_own_or_root
from sandboxd.errors import NotFound
from sandboxd.protocol import messages as m

PATIENCE = 20.0

uvloop.new_event_loop().close()  # libuv keeps one pipe of the process's from its first loop on; no test is to be blamed for it


def under_uvloop(main: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine as the daemon runs, with a bound on how long."""

    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE):
            await main

    uvloop.run(bounded())


def env(name: str, **more: Any) -> m.EnvInfo:
    return m.EnvInfo(id="0" * 32, name=name, state="ready", created="2026-11-23T04:38:22Z", **more)


def event(number: int) -> m.Event:
    return m.Event(time="2026-11-23T04:38:22Z", event="started", id="0" * 32, name=f"env-{number}")


class Toy:
    """Handlers that behave as their method's parameters say, and remember what became of them."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.began = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.go = asyncio.Event()
        self.sent = 0

    @property
    def handlers(self) -> dict[str, Handler]:
        return {
            "List": self.list,
            "Inspect": self.inspect,
            "Events": self.events,
            "Exec": self.exec,
            "Stop": self.stop,
            "Kill": self.kill,
            "Logs": self.logs,
            "Run": self.run,
            "Prune": self.prune,
        }

    async def list(self, call: Call) -> m.Reply:
        assert isinstance(call.params, m.List)
        self.calls.append("List")
        return m.ListReply(envs=[env(f"{word}{call.peer.uid}") for word in call.params.filters or ["shop"]])

    async def run(self, call: Call) -> m.Reply:
        assert isinstance(call.params, m.Run)
        spec = call.params.spec
        return m.RunReply(env=env(spec.name or "unnamed", labels=spec.labels, spec=spec))

    async def inspect(self, call: Call) -> m.Reply:
        assert isinstance(call.params, m.Inspect)
        self.calls.append(call.params.target)
        if call.params.target == "slow":
            self.began.set()
            await self.go.wait()
        if call.params.target == "odd":
            raise ZeroDivisionError("a fault of ours")
        if call.params.target == "big":
            return m.InspectReply(env=env("x" * (8 << 20)))
        if call.params.target == "cancelled":
            raise asyncio.CancelledError
        if call.params.target == "late":
            await asyncio.sleep(0.05)
        if call.params.target == "missing":
            raise NotFound("no env `missing`", hint="`sandbox ps` lists them", matches=[])
        return m.InspectReply(env=env(call.params.target))

    async def events(self, call: Call) -> m.Reply | None:
        """follow: for ever. Else three, the last one being the end."""
        assert isinstance(call.params, m.Events)
        try:
            self.began.set()
            number = 0
            while call.params.follow or number < 2:
                await call.reply(m.EventsReply(events=[event(number)] * (500 if call.params.follow else 1)), continues=True)
                self.sent += 1
                number += 1
                await asyncio.sleep(0)
            return m.EventsReply(events=[event(number)])
        except (asyncio.CancelledError, ClientGone):
            self.cancelled.set()
            raise

    async def stop(self, call: Call) -> m.Reply:
        """Waits to be told, or to be cancelled; cleans up with an await."""
        self.began.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            self.cancelled.set()
            raise
        self.calls.append("Stop")
        return m.InspectReply(env=env("stopped"))

    async def kill(self, call: Call) -> m.Reply | None:
        """Answers wrongly."""
        assert isinstance(call.params, m.Kill)
        if call.params.target == "nothing":
            return None
        await call.reply(m.InspectReply(env=env("once")))
        return m.InspectReply(env=env("twice"))

    async def prune(self, call: Call) -> m.Reply:
        """Two tasks answer at once."""
        await asyncio.gather(
            *(call.reply(m.PruneReply(removed=[letter * 300_000] * 2), continues=True) for letter in "abcd" if call.more)
        )
        return m.PruneReply(removed=[])

    async def logs(self, call: Call) -> m.Reply:
        assert isinstance(call.params, m.Logs)
        return m.LogsReply(lines=[m.LogLine(time="", service="", stream="", text=call.params.target)])

    async def exec(self, call: Call) -> m.Reply:
        """Gives the read end of a pipe away that holds the command, or with one word a closed descriptor."""
        assert isinstance(call.params, m.Exec)
        read, write = os.pipe()
        try:
            os.write(write, " ".join(call.params.argv).encode())
            fds = [read, 999_999] if call.params.argv == ["bad"] else [read]
            await call.reply(m.SessionReply(session="s", fds=["stdout"]), continues=True, fds=fds)
        finally:
            os.close(read)
            os.close(write)
        if call.params.argv[-1] == "wait":
            await self.stop(call)
        return m.SessionReply(session="s", exit_code=7)


@contextlib.asynccontextmanager
async def serving(
    path: Path, toy: Toy, bounds: Bounds = USUAL, allowed: Callable[[Peer], bool] = is_own_or_root
) -> AsyncIterator[ControlServer]:
    """A server on path."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(512)
    server = ControlServer(listener, toy.handlers, bounds=bounds, allowed=allowed)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
        listener.close()


@contextlib.contextmanager
def threaded(path: Path, toy: type["Toy"] | None = None) -> Iterator[Toy]:
    """A server on path in a thread of its own, for clients that block."""
    ready: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Event, Toy]] = queue.SimpleQueue()

    async def main() -> None:
        stop, made = asyncio.Event(), (toy or Toy)()
        async with serving(path, made):
            ready.put((asyncio.get_running_loop(), stop, made))
            await stop.wait()

    thread = threading.Thread(target=lambda: uvloop.run(main()))
    thread.start()
    loop, stop, made = ready.get(timeout=PATIENCE)
    try:
        yield made
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(PATIENCE)


async def settle(condition: Callable[[], bool]) -> None:
    """Let the loop turn until this holds; the test's own bound ends it otherwise."""
    while not condition():  # noqa: ASYNC110 - what is waited for is another's state
        await asyncio.sleep(0.002)


class Raw:
    """A client that writes what it likes."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.setblocking(False)
        self.sock.connect(str(path))
        self.loop = asyncio.get_running_loop()
        self.left = b""

    async def send(self, data: bytes) -> None:
        await self.loop.sock_sendall(self.sock, data)

    async def call(self, method: str, parameters: object = None, **flags: object) -> None:
        message: dict[str, object] = {"method": method if "." in method else f"io.sandboxd.Control.{method}", **flags}
        if parameters is not None:
            message["parameters"] = parameters
        await self.send(json.dumps(message).encode() + b"\0")

    async def answer(self) -> Any:
        """The next reply; EOFError when there is none."""
        while b"\0" not in self.left:
            data = await self.loop.sock_recv(self.sock, 1 << 16)
            if not data:
                raise EOFError(self.left)
            self.left += data
        frame, _, self.left = self.left.partition(b"\0")
        return json.loads(frame)

    async def ask(self, method: str, parameters: object = None, **flags: object) -> Any:
        await self.call(method, parameters, **flags)
        return await self.answer()

    async def readable(self) -> None:
        """Until something is there to be read."""
        there = asyncio.Event()
        self.loop.add_reader(self.sock, there.set)
        await there.wait()
        self.loop.remove_reader(self.sock)

    async def ended(self) -> bool:
        """Whether the server has closed, with nothing more said."""
        try:
            return not await self.loop.sock_recv(self.sock, 1)
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.sock.close()

    async def __aenter__(self) -> "Raw":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
