"""One client of the control socket: bytes in, calls answered one after the other, replies and descriptors out.

Raw socket calls under `add_reader`, since uvloop's streams drop descriptors silently. Nothing of a client is held without a
bound: calls wait in the kernel once HELD bytes of them are here, and a reply waits in its handler until the kernel has taken
it. A client that goes cancels the call it waits for (not a oneway call: nobody waits for that). What it sends along as
descriptors is never received: without room for control data the kernel drops it (unix(7)).
"""

import asyncio
import errno
import logging
import socket
import time
from array import array
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple

from sandboxd.daemon.departures import Departures
from sandboxd.daemon.parting import leaving, say
from sandboxd.errors import Internal, KernelError, ProtocolViolation, SandboxdError
from sandboxd.kernel.fds import ran_out
from sandboxd.protocol.envelopes import CallFrame, ServiceError, decode_call, decode_parameters, encode_error, encode_reply
from sandboxd.protocol.framing import REPLY_CAP, FrameReader
from sandboxd.protocol.messages import Params, Reply

log = logging.getLogger("sandboxd.control")

READ_SIZE = 64 << 10
READS_AT_ONCE = 4  # then the others have their turn
# What changes nothing, or nothing the second time.
REPEATABLE = frozenset(
    {"List", "Inspect", "Logs", "Wait", "Events", "Why", "Stats", "Status", "Metrics", "Stop", "Suspend", "Resume"}
)
LIMITS = "it passes as others end; or raise the daemon's limit on open files (`ulimit -n`, LimitNOFILE=)"
HELD = 64 << 10  # of calls behind the one that is being answered


class ClientGone(Exception):
    """The client left: nobody waits for this answer."""


class Peer(NamedTuple):
    """Who is at the other end, as the kernel saw it when it connected (SO_PEERCRED). admin: of the group that sees all."""

    uid: int
    gid: int
    pid: int
    admin: bool = False

    @property
    def sees(self) -> int:
        """Whose envs it may see and change: its own uid's; as root does, all."""
        return 0 if self.admin else self.uid


class Call:
    """A call on its way: what was asked, by whom, and the way to answer."""

    def __init__(self, connection: "Connection", envelope: CallFrame) -> None:
        self.method = envelope.method
        self.more = bool(envelope.more)
        self.oneway = bool(envelope.oneway)
        self.peer = connection.peer
        self.params: Params = NOTHING
        self.begun = False  # some of an answer may be out
        self.answered = False  # the last reply is out
        self.resumes = ""  # the env for which the next daemon may be asked, should this one make way
        self._connection = connection

    async def reply(self, reply: Reply, *, continues: bool = False, fds: Sequence[int] = ()) -> None:
        """Answer, with descriptors if any; they stay the caller's. Waits while the client is slow; raises ClientGone."""
        if continues and not self.more and not self.oneway:
            raise ServiceError("ExpectedMore")
        if self.answered:
            raise Internal(f"{self.method} was answered twice")
        frame = encode_reply(reply, continues=continues)
        if len(frame) > REPLY_CAP:
            raise Internal(f"the answer to {self.method} is {len(frame)} bytes", hint="ask for less at once")
        self.answered, self.begun = not continues, True
        if self.oneway:
            return
        try:
            await self._connection.send(frame, fds)
        except KernelError:
            self.answered = False  # nothing is out, so the error can be
            raise


NOTHING = Params()
Handler = Callable[[Call], Awaitable[Reply | None]]


class Methods:
    """Every method there is here: its full name, what it takes, who answers it."""

    def __init__(self, table: Mapping[str, tuple[type[Params], Handler]], declared: Mapping[str, Sequence[str]]) -> None:
        self._table = table
        self._declared = declared  # method names by interface

    def find(self, method: str) -> tuple[type[Params], Handler]:
        """Raises varlink's own error for what is not there."""
        if method in self._table:
            return self._table[method]
        interface, _, name = method.rpartition(".")
        if interface not in self._declared:
            raise ServiceError("InterfaceNotFound", interface=interface)
        if name in self._declared[interface]:
            raise ServiceError("MethodNotImplemented", method=method)
        raise ServiceError("MethodNotFound", method=method)


class Connection:
    """A client that is connected. `on_end` is called once, when nothing of it is left."""

    def __init__(
        self, sock: socket.socket, peer: Peer, methods: Methods, departures: Departures, on_end: Callable[["Connection"], None]
    ) -> None:
        self.peer = peer
        self.gone = False
        self._loop = asyncio.get_running_loop()
        self.since = time.monotonic()  # idle since, while it is (the loop's own clock stands still within a turn)
        self._sock = sock
        self._fd = sock.fileno()
        self._methods = methods
        self._departures = departures
        self._on_end = on_end
        self._incoming = FrameReader()
        self._reading = False
        self._no_more_input = False
        self._task: asyncio.Task[None] | None = None
        self._begun = False
        self._oneway = False
        self._call: Call | None = None
        self._sending = asyncio.Lock()
        self._writable: asyncio.Future[None] | None = None
        self._read_on()

    @property
    def may_be_asked_again(self) -> bool:
        """Whether nothing is being answered, or only what the next daemon can be asked as well: nothing of it is out.

        Once the last reply is out, what the client sent next is not taken up.
        """
        if self._task is None or not self._begun or self._call is None:
            return True
        if self._call.begun:
            return self._call.answered and not self._sending.locked()
        return self._call.method.rpartition(".")[2] in REPEATABLE

    @property
    def resumes(self) -> str:
        """The env for which the next daemon can be asked in place of the call that is being answered; "": it cannot."""
        call = self._call
        if self._task is None or not self._begun or call is None or call.answered or call.oneway or self._sending.locked():
            return ""
        return call.resumes

    async def answered(self) -> None:
        """Wait for the end of the call that is being answered."""
        if self._task is not None:
            await asyncio.wait([self._task])

    @property
    def idle(self) -> bool:
        """Whether no call of it is being answered."""
        return self._task is None

    # -- bytes in

    def hear(self) -> None:
        """Take up what has come."""
        for _ in range(READS_AT_ONCE):
            if not self._reading:
                return
            try:
                data = self._sock.recv(READ_SIZE)
            except BlockingIOError:
                return
            except OSError:
                self.close()
                return
            if not data:
                self._end_of_input()
                return
            self._incoming.feed(data)
            self._advance()
        # libuv disarms a handle that saw EPOLLERR after one callback: ask again, rather than wait for an event.
        self._loop.call_soon(self.hear)

    def _end_of_input(self) -> None:
        """The client writes no more: it left, or (`nc -U` after its input) it shut down one way and waits for the answers."""
        self._no_more_input = True
        self._pause()
        self._advance()

    def _read_on(self) -> None:
        if not self._reading:
            self._reading = True
            self._departures.forget(self._fd)
            self._loop.add_reader(self._fd, self.hear)

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)
            self._departures.watch(self._fd, self.close)

    # -- calls, one at a time

    def _advance(self) -> None:
        """Take up the next call if none is being answered; then read on, wait, or end."""
        if self._task is None:
            try:
                frame = self._incoming.next_frame()
            except ProtocolViolation as error:
                self._refuse(error)
                return
            if frame is not None:
                self._begun = self._oneway = False
                self._task = self._loop.create_task(self._answer(frame))
                self._task.add_done_callback(self._answered)
        if self._task is None and (self.gone or self._no_more_input):
            self.close()
            self._on_end(self)
        elif not self.gone and not self._no_more_input:
            if self._task is not None and len(self._incoming) >= HELD:
                self._pause()
            else:
                self._read_on()

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._task = None
        self.since = time.monotonic()
        if not task.cancelled() and (fault := task.exception()):
            log.error("a connection failed", exc_info=fault)
            self.close()
        self._advance()

    async def _answer(self, frame: bytes) -> None:
        self._begun = True
        try:
            envelope = decode_call(frame)
        except ProtocolViolation as violation:
            self._refuse(violation)
            return
        self._oneway = bool(envelope.oneway)
        if self.gone and not self._oneway:
            return
        call = self._call = Call(self, envelope)
        error = await self._handle(call, envelope)
        if error is None:
            return
        if call.answered:
            log.error("%s failed after its last reply: %s", call.method, error)
            self.close()
        elif not call.oneway:
            try:
                await self.send(encode_error(error))
            except ClientGone:
                return

    async def _handle(self, call: Call, envelope: CallFrame) -> SandboxdError | ServiceError | None:
        """Let the method's handler answer; gives the error that is to be sent, if any."""
        try:
            if envelope.upgrade:
                raise ServiceError("InvalidParameter", parameter="upgrade")
            kind, handler = self._methods.find(call.method)
            call.params = decode_parameters(envelope.parameters, kind)
            last = await handler(call)
            if last is not None:
                await call.reply(last)
            elif not call.answered:
                raise Internal(f"{call.method} was left without an answer")
        except ClientGone:
            return None
        except (SandboxdError, ServiceError) as error:
            if isinstance(error, Internal):
                log.error("%s: %s", call.method, error)
            return error
        except asyncio.CancelledError:
            if self.gone:
                raise
            return Internal(f"{call.method} was cancelled inside the daemon")  # else its client would wait for ever
        except Exception as fault:
            if isinstance(fault, OSError) and ran_out(fault):
                return KernelError(fault.errno or 0, call.method.rpartition(".")[2], hint=LIMITS)
            log.exception("%s failed", call.method)
            return Internal(f"{call.method} failed: {fault!r}", hint="the daemon's log has the traceback; please report it")
        return None

    def _refuse(self, error: SandboxdError) -> None:
        """Say what the peer did wrong, if it can be said at once, and end the connection: its frames cannot be told apart."""
        if not self.gone:
            say(self._sock, error)
        self._incoming = FrameReader()
        self._no_more_input = True
        self.close()

    # -- bytes out

    async def send(self, frame: bytes, fds: Sequence[int] = ()) -> None:
        """Hand a frame to the kernel, waiting while the client does not read; raises ClientGone, KernelError."""
        async with self._sending:  # a handler may answer from two tasks
            left = memoryview(frame)
            control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
            try:
                while left:
                    if self.gone:
                        raise ClientGone
                    try:
                        # A frame with descriptors is a message of its own, so that its reader can tell whose they are.
                        left = left[self._sock.sendmsg([left], control) :]
                        control = []
                    except BlockingIOError:
                        await self._wait_writable()
                    except OSError as error:
                        # ETOOMANYREFS: too many are in flight, unread, for this user. EBADF: not ours.
                        if control and error.errno in (errno.ETOOMANYREFS, errno.EBADF, errno.ENOMEM):
                            raise KernelError(error.errno, "sendmsg", "descriptors to the client") from None
                        self.close()
            finally:
                if 0 < len(left) < len(frame):
                    self.close()  # cut short: what follows could not be read

    async def _wait_writable(self) -> None:
        self._writable = self._loop.create_future()
        self._loop.add_writer(self._fd, self._woken)
        try:
            await self._writable
        finally:
            self._writable = None
            if not self.gone:
                self._loop.remove_writer(self._fd)

    def _woken(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    # -- the end

    def close(self) -> None:
        """The client is gone, or is to go: close the socket, cancel the call it waits for."""
        if self.gone:
            return
        self.gone = True
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        self._departures.forget(self._fd)
        self._reading = False
        self._sock.close()
        self._woken()
        if self._task is None:
            self._loop.call_soon(self._advance)
        # A call that has not begun sees it when it does, and may be oneway. The call's own task has noticed by itself, and
        # its clean-up must not be cancelled.
        elif self._begun and not self._oneway and self._task is not asyncio.current_task():
            self._task.cancel()

    async def end(self, *, is_kept: bool = False) -> None:
        """Close, and wait until the call that was being answered has cleaned up. is_kept: another daemon listens already."""
        if not self.gone and (self._task is None or not self._begun or (is_kept and self.may_be_asked_again)):
            say(self._sock, leaving())
        elif not self.gone and is_kept and self.resumes:
            say(self._sock, leaving(self.resumes))
        self.close()
        self._incoming = FrameReader()
        if self._task is not None:
            task = self._task
            task.cancel()
            await asyncio.wait([task])
