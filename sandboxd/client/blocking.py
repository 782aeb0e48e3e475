"""The blocking client: what `sandbox` itself speaks through, and what a script uses.

Moves bytes and descriptors for session.Exchange. Imported on every `sandbox ps`, so it imports next to nothing (no asyncio,
no subprocess). A connection carries one call at a time; one that is idle is kept for the next call. Safe for threads.
"""

import os
import select
import socket
from collections.abc import Iterator
from threading import Lock
from typing import TYPE_CHECKING, Any

from sandboxd.client.dial import Daemon, receive
from sandboxd.client.holding import Idle, Opened
from sandboxd.client.session import Exchange, asked_again, with_descriptors
from sandboxd.errors import DaemonUnreachable
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
    from pathlib import Path
    from typing import Literal, Unpack

    from sandboxd.client import signatures
    from sandboxd.client.env import Command, Env, RunOptions

KEPT = 2  # idle connections


class Wire:
    """A connected socket: frames out, bytes and descriptors in."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fds: list[int] = []  # received and not taken
        self._receiving = Lock()

    def send(self, exchange: Exchange) -> None:
        """Send the request."""
        try:
            self.sock.sendall(exchange.request)
        except (BrokenPipeError, ConnectionResetError):
            return  # the daemon may have said why before it closed: that is still there to be read

    def next_reply(self, exchange: Exchange) -> Reply:
        """Wait for the next answer; raises the error that came instead."""
        while (reply := exchange.next_reply()) is None:
            exchange.feed(self._receive())
        return reply

    def _receive(self) -> bytes:
        with self._receiving:
            data, fds = receive(self.sock)
            self.fds += fds
        return data

    @property
    def is_fresh(self) -> bool:
        """Whether an idle connection is still good: nothing may have come, not even its end."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        """Hang up; another thread that waits for an answer is woken first, and the socket is closed when it has left."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        with self._receiving:
            self.sock.close()
        while self.fds:
            os.close(self.fds.pop())


class Client:
    """A client of the daemon. socket: its path, by default as the environment says; autostart: start one if none answers;
    host: that of a box, as "ssh://user@box".

    Each method raises the classes of sandboxd.errors: what the daemon answered, or DaemonUnreachable.
    """

    def __init__(self, socket: "Path | None" = None, *, autostart: bool = True, host: str = "") -> None:
        self._daemon = Daemon(socket, autostart=autostart, host=host)
        self._idle: Idle[Wire] = Idle(KEPT)

    if TYPE_CHECKING:
        call: signatures.Call
        stream: signatures.Stream
    else:

        def call(self, params: Params) -> Reply:
            """Ask, and wait for the answer."""
            wire, exchange, reply = self.ask(params)
            self._idle.give_back(wire, exchange)
            return reply

        def stream(self, params: Params) -> Iterator[Reply]:
            """Ask, and give the answers as they come; leaving the loop ends the call."""
            wire, exchange, reply = self.ask(params, more=True)
            try:
                yield reply
                while not exchange.done:
                    try:
                        reply = wire.next_reply(exchange)
                    except DaemonUnreachable as error:
                        params = asked_again(params, error, begun=True)
                        following = self.ask(params, more=True)
                        wire.close()
                        wire, exchange, reply = following
                    yield reply
            finally:
                self._idle.give_back(wire, exchange)

    def open(self, params: Run | Exec | Attach) -> "Session":
        """Open a session whose descriptors come to this process. A Run is attached."""
        if self._daemon.remote is not None:
            from sandboxd.client.inband import InBandSession, streams  # noqa: PLC0415 - as above

            asked = with_descriptors(params, passed=False)
            return InBandSession(self, asked, *self.ask(asked, more=True)).begin(streams(params))
        params = with_descriptors(params)
        return Session(self, params, *self.ask(params, more=True))

    def run(self, command: "Command | None" = None, **options: "Unpack[RunOptions]") -> "Env":
        """Create an env with one service (or `spec=`) and start it; see client.env.RunOptions."""
        from sandboxd.client.env import Env, run_params  # noqa: PLC0415 - `ps` needs no env objects

        return Env(self, self.call(run_params(command, options, os.environ, os.getcwd())).env)

    def ensure(
        self,
        template: str,
        key: str,
        *,
        wait: "Literal['created', 'started', 'ready']" = "ready",
        timeout: float | None = None,
    ) -> "Env":
        """The env of a template for a key, made if there is none; `call(Ensure(...))` also gives the cookie of a session."""
        from sandboxd.client.env import Env  # noqa: PLC0415 - as above

        return Env(self, self.call(Ensure(template=template, key=key, wait=wait, timeout=timeout)).env)

    def list(self, *, all: bool = False, filters: "list[str] | None" = None) -> "list[Env]":
        """The envs, newest first. all: also those that ended. filters: as `sandbox ps --filter`."""
        from sandboxd.client.env import Env  # noqa: PLC0415 - as above

        return [Env(self, info) for info in self.call(List(all=all, filters=filters or [])).envs]

    def get(self, target: str) -> "Env":
        """One env, by id, unique id prefix, or name; raises NotFound."""
        from sandboxd.client.env import Env  # noqa: PLC0415 - as above

        return Env(self, self.call(Inspect(target=target)).env)

    def close(self) -> None:
        """Close the connections that are idle; sessions and streams have their own."""
        self._idle.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, params: Params, *, more: bool = False) -> tuple[Wire, Exchange, Reply]:
        """A connection with a call under way, and the call's first answer."""
        while True:
            exchange = Exchange(params, more=more)
            wire = self._take()
            try:
                wire.send(exchange)
                return wire, exchange, wire.next_reply(exchange)
            except DaemonUnreachable as error:
                wire.close()
                params = asked_again(params, error)
            except BaseException:
                self._idle.give_back(wire, exchange)
                raise

    def _take(self) -> Wire:
        return self._idle.take() or Wire(self._daemon.connect())


class Session(Opened[Wire]):
    """A command's stdio; see holding.Opened. From another thread only `close` may be called, and what goes over a connection
    of its own: resize, signal, write."""

    blocking = True

    def __init__(self, client: Client, params: Params, wire: Wire, exchange: Exchange, first: Reply) -> None:
        super().__init__(wire, exchange, first)
        self._client = client
        self._params = params

    def fileno(self) -> int:
        """For poll: readable when a reply, or the end, has come."""
        return self._wire.sock.fileno()

    def replies(self) -> Iterator[Any]:
        """The answers after the first, as they come."""
        while not self._exchange.done:
            yield self._seen(self._next_reply())

    def _next_reply(self) -> Reply:
        """The next answer, from the next daemon should this one make way: the descriptors are ours, and lead to the env."""
        try:
            return self._wire.next_reply(self._exchange)
        except DaemonUnreachable as error:
            params = asked_again(self._params, error, begun=True)
            before = self._wire
            self._wire, self._exchange, reply = self._client.ask(params, more=True)
            before.close()
            if self.is_closed:  # by another thread, which had the wire before
                self._wire.close()
                raise
            return reply

    def wait(self) -> Any:
        """The last answer, which has the exit code."""
        for _ in self.replies():
            pass
        return self.last

    def resize(self, rows: int, cols: int) -> None:
        """Tell the terminal's new size."""
        self._client.call(SessionResize(session=self.session, rows=rows, cols=cols))

    def signal(self, signal: str) -> None:
        """Signal the foreground process group."""
        self._client.call(SessionSignal(session=self.session, signal=signal))

    def write(self, data: bytes, *, eof: bool = False) -> None:
        """Input for a session without descriptors."""
        from base64 import b64encode  # noqa: PLC0415 - with descriptors nobody comes here

        self._client.call(SessionInput(session=self.session, data=b64encode(data).decode(), eof=eof))

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
