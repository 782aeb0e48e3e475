"""The client for asyncio (and uvloop): the blocking one's twin, awaitable.

Moves bytes and descriptors for session.Exchange under `add_reader`, since uvloop's streams drop descriptors. A connection
carries one call at a time; calls at the same time have connections of their own. Cancelling a call hangs up, which cancels
it in the daemon too.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sandboxd.client.dial import READ_SIZE, Daemon, receive
from sandboxd.client.env import AsyncEnv, Command, Completed, run_params
from sandboxd.client.holding import Idle, Opened
from sandboxd.client.session import Exchange, asked_again, with_descriptors
from sandboxd.errors import DaemonUnreachable, NotOffered, TimedOut
from sandboxd.protocol.messages import (
    Attach,
    Ensure,
    Exec,
    Inspect,
    List,
    Params,
    Reply,
    Run,
    SessionInput,
    SessionResize,
    SessionSignal,
)

if TYPE_CHECKING:
    from typing import Literal, Unpack

    from sandboxd.client import signatures
    from sandboxd.client.env import RunOptions

KEPT = 4  # idle connections
SILENCE = 0.2  # s without a byte after the end before a pipe that something in the background still holds is left alone


async def _when(add: Callable[..., Any], remove: Callable[..., Any], fd: int) -> None:
    """Until a descriptor is ready, told by `loop.add_reader` or `loop.add_writer`."""
    ready = asyncio.get_running_loop().create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    add(fd, wake)
    try:
        await ready
    finally:
        remove(fd)


async def readable(fd: int) -> None:
    """Until there is something to read, or the end."""
    loop = asyncio.get_running_loop()
    await _when(loop.add_reader, loop.remove_reader, fd)


async def writable(fd: int) -> None:
    """Until there is room, or nobody reads any more."""
    loop = asyncio.get_running_loop()
    await _when(loop.add_writer, loop.remove_writer, fd)


class Wire:
    """A connected socket: frames out, bytes and descriptors in. One task at a time."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.fds: list[int] = []  # received and not taken

    async def send(self, exchange: Exchange) -> None:
        """Send the request."""
        left = memoryview(exchange.request)
        while left:
            try:
                left = left[self.sock.send(left) :]
            except BlockingIOError:
                await writable(self.sock.fileno())
            except (BrokenPipeError, ConnectionResetError):
                return  # the daemon may have said why before it closed: that is still there to be read

    async def next_reply(self, exchange: Exchange) -> Reply:
        """Wait for the next answer; raises the error that came instead."""
        while (reply := exchange.next_reply()) is None:
            exchange.feed(await self._receive())
        return reply

    async def _receive(self) -> bytes:
        while True:
            try:
                data, fds = receive(self.sock)
            except BlockingIOError:
                await readable(self.sock.fileno())
                continue
            self.fds += fds
            return data

    @property
    def is_fresh(self) -> bool:
        """Whether an idle connection is still good: nothing may have come, not even its end."""
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Hang up."""
        self.sock.close()
        while self.fds:
            os.close(self.fds.pop())


class AsyncClient:
    """A client of the daemon. socket: its path, by default as the environment says; autostart: start one if none answers;
    host: that of a box, as "ssh://user@box".

    Each method raises the classes of sandboxd.errors: what the daemon answered, or DaemonUnreachable.
    """

    def __init__(self, socket: Path | None = None, *, autostart: bool = True, host: str = "") -> None:
        self._daemon = Daemon(socket, autostart=autostart, host=host)
        self._idle: Idle[Wire] = Idle(KEPT)

    if TYPE_CHECKING:
        call: signatures.AsyncCall
        stream: signatures.AsyncStream
    else:

        async def call(self, params: Params) -> Reply:
            """Ask, and wait for the answer."""
            wire, exchange, reply = await self.ask(params)
            self._idle.give_back(wire, exchange)
            return reply

        async def stream(self, params: Params) -> AsyncIterator[Reply]:
            """Ask, and give the answers as they come; closing the iterator (`contextlib.aclosing`) ends the call."""
            wire, exchange, reply = await self.ask(params, more=True)
            try:
                yield reply
                while not exchange.done:
                    try:
                        reply = await wire.next_reply(exchange)
                    except DaemonUnreachable as error:
                        params = asked_again(params, error, begun=True)
                        following = await self.ask(params, more=True)
                        wire.close()
                        wire, exchange, reply = following
                    yield reply
            finally:
                self._idle.give_back(wire, exchange)

    async def open(self, params: Run | Exec | Attach) -> "AsyncSession":
        """Open a session whose descriptors come to this process. A Run is attached."""
        if self._daemon.remote is not None:
            raise NotOffered("AsyncClient opens no session over ssh", hint="Client does")
        params = with_descriptors(params)
        return AsyncSession(self, params, *await self.ask(params, more=True))

    async def run(self, command: Command | None = None, **options: "Unpack[RunOptions]") -> AsyncEnv:
        """Create an env with one service (or `spec=`) and start it; see client.env.RunOptions."""
        return AsyncEnv(self, (await self.call(run_params(command, options, os.environ, os.getcwd()))).env)

    async def ensure(
        self,
        template: str,
        key: str,
        *,
        wait: "Literal['created', 'started', 'ready']" = "ready",
        timeout: float | None = None,
    ) -> AsyncEnv:
        """The env of a template for a key, made if there is none; `call(Ensure(...))` also gives the cookie of a session."""
        return AsyncEnv(self, (await self.call(Ensure(template=template, key=key, wait=wait, timeout=timeout))).env)

    async def list(self, *, all: bool = False, filters: "list[str] | None" = None) -> "list[AsyncEnv]":
        """The envs, newest first. all: also those that ended. filters: as `sandbox ps --filter`."""
        return [AsyncEnv(self, info) for info in (await self.call(List(all=all, filters=filters or []))).envs]

    async def get(self, target: str) -> AsyncEnv:
        """One env, by id, unique id prefix, or name; raises NotFound."""
        return AsyncEnv(self, (await self.call(Inspect(target=target))).env)

    async def close(self) -> None:
        """Close the connections that are idle; sessions and streams have their own."""
        self._idle.close()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def ask(self, params: Params, *, more: bool = False) -> tuple[Wire, Exchange, Reply]:
        """A connection with a call under way, and the call's first answer."""
        while True:
            exchange = Exchange(params, more=more)
            wire = await self._take()
            try:
                await wire.send(exchange)
                return wire, exchange, await wire.next_reply(exchange)
            except DaemonUnreachable as error:
                wire.close()
                params = asked_again(params, error)
            except BaseException:
                self._idle.give_back(wire, exchange)
                raise

    async def _take(self) -> Wire:
        wire = self._idle.take()
        if wire is not None:
            return wire
        sock = self._daemon.connect_at_once()
        if sock is not None:
            return Wire(sock)
        # A full backlog and a daemon's start take time.
        connecting = asyncio.get_running_loop().run_in_executor(None, self._daemon.connect)
        try:
            return Wire(await asyncio.shield(connecting))
        except asyncio.CancelledError:
            connecting.add_done_callback(_close_late)
            raise


def _close_late(connecting: "asyncio.Future[socket.socket]") -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result().close()


class AsyncSession(Opened[Wire]):
    """A command's stdio, awaitable; see holding.Opened."""

    def __init__(self, client: AsyncClient, params: Params, wire: Wire, exchange: Exchange, first: Reply) -> None:
        super().__init__(wire, exchange, first)
        self._client = client
        self._params = params

    async def replies(self) -> AsyncIterator[Any]:
        """The answers after the first, as they come."""
        while not self._exchange.done:
            yield self._seen(await self._next_reply())

    async def _next_reply(self) -> Reply:
        """The next answer, from the next daemon should this one make way: the descriptors are ours, and lead to the env."""
        try:
            return await self._wire.next_reply(self._exchange)
        except DaemonUnreachable as error:
            params = asked_again(self._params, error, begun=True)
            before = self._wire
            self._wire, self._exchange, reply = await self._client.ask(params, more=True)
            before.close()
            if self.is_closed:
                self._wire.close()
                raise
            return reply

    async def wait(self) -> Any:
        """The last answer, which has the exit code."""
        while not self._exchange.done:
            self._seen(await self._next_reply())
        return self.last

    async def resize(self, rows: int, cols: int) -> None:
        """Tell the terminal's new size."""
        await self._client.call(SessionResize(session=self.session, rows=rows, cols=cols))

    async def signal(self, signal: str) -> None:
        """Signal the foreground process group."""
        await self._client.call(SessionSignal(session=self.session, signal=signal))

    async def write(self, data: bytes, *, eof: bool = False) -> None:
        """Input for a session without descriptors."""
        from base64 import b64encode  # noqa: PLC0415 - with descriptors nobody comes here

        await self._client.call(SessionInput(session=self.session, data=b64encode(data).decode(), eof=eof))

    async def __aenter__(self) -> "AsyncSession":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


# -- a session to its end --------------------------------------------------------------------------------------------------


async def run_to_end(session: AsyncSession, input: bytes | None, timeout: float | None) -> Completed:
    """Feed `input`, gather output, until the command has ended; raises TimedOut (the session's close ends the command)."""
    gathered = {name: bytearray() for name in ("stdout", "stderr", "pty")}
    readers = [asyncio.create_task(_gather(session.fds[name], into)) for name, into in gathered.items() if name in session.fds]
    writer = asyncio.create_task(_feed(session, input or b""))
    try:
        try:
            async with asyncio.timeout(timeout):
                last = await session.wait()
        except TimeoutError:
            raise TimedOut(
                f"the command still ran after {timeout:g} seconds, and was ended", hint="give it a longer `timeout`"
            ) from None
        # What was written before the end is drained; a pipe that something in the background still holds is not waited for.
        before = -1
        while any(not reader.done() for reader in readers) and before != sum(map(len, gathered.values())):
            before = sum(map(len, gathered.values()))
            await asyncio.wait(readers, timeout=SILENCE)
    finally:
        for task in (writer, *readers):
            task.cancel()
        await asyncio.gather(writer, *readers, return_exceptions=True)
    output = bytes(gathered["stdout"] or gathered["pty"])
    return Completed(last.exit_code or 0, output, bytes(gathered["stderr"]), last.reason)


async def _gather(fd: int, into: bytearray) -> None:
    os.set_blocking(fd, False)
    while True:
        try:
            data = os.read(fd, READ_SIZE)
        except BlockingIOError:
            await readable(fd)
            continue
        except OSError:  # EIO: a pty whose other side is closed (pty(7))
            return
        if not data:
            return
        into += data


async def _feed(session: AsyncSession, data: bytes) -> None:
    fd = session.fds.pop("stdin", None)
    if fd is None:
        return
    try:
        os.set_blocking(fd, False)
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(fd, left[:READ_SIZE]) :]
            except BlockingIOError:
                await writable(fd)
            except BrokenPipeError:  # it reads no more
                return
    finally:
        os.close(fd)
