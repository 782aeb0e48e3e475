"""The daemon's end of init.sock: calls to an env's pid 1 and its events.

Asyncio by add_reader and recvmsg, since streams of uvloop drop descriptors; works on both loops. The peer lives inside the env
and may be hostile: frames are capped, each wait is bounded, whatever breaks the rules closes the link, and a descriptor that
no call waits for is closed. Every way to end a link (ours, the peer's, an error) goes through `close`, which fails what waits
and says `Closed` once.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sandboxd.errors import NotFound, ProtocolViolation, SandboxdError, TimedOut
from sandboxd.kernel.fds import CutOff, close_all, dup_all
from sandboxd.launch.doorway import connect_to
from sandboxd.launch.frames import CHUNK, FDS_LIMIT, VERSION, Inbox, Outbox, encode, error_from
from sandboxd.launch.initevents import (
    Closed,
    Denied,
    ExecFailed,
    InitEvent,
    InitStatus,
    Opened,
    Refused,
    ServiceExited,
    ServiceStatus,
    SessionExited,
    Started,
    as_event,
    as_init_status,
    as_int,
    as_opened,
    as_refused,
)
from sandboxd.launch.versions import understood

__all__ = [
    "Closed",
    "Denied",
    "ExecFailed",
    "InitEvent",
    "InitLink",
    "InitStatus",
    "Opened",
    "ServiceExited",
    "ServiceStatus",
    "SessionExited",
    "Started",
]

CALL_TIMEOUT, OUTBOX_LIMIT, DRAIN_TURNS = 30.0, 4 << 20, 64  # turns: frames' worth received in one go before others are served
UCRED = struct.Struct("=iII")  # pid uid gid
INTRODUCED = socket.CMSG_SPACE(UCRED.size) + socket.CMSG_SPACE(FDS_LIMIT * 4)


Answer = asyncio.Future[tuple[dict[str, Any], dict[str, int]]]


class InitLink:
    """One connection to an env's init. Calls raise the error init met, NotFound when it is gone, TimedOut when it is stuck."""

    def __init__(self, sock: socket.socket, on_event: Callable[[InitEvent], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.sock = sock
        self.fd = sock.fileno()
        self.on_event = on_event
        self.inbox, self.outbox = Inbox(sock), Outbox(sock)
        self.waiting: dict[int, Answer] = {}
        self.hello: asyncio.Future[dict[str, Any]] = self.loop.create_future()
        self.count, self.is_open = 0, True
        self.version = VERSION  # of init's frames, as its greeting says
        self.peer_pid = 0  # init's pid as this process sees it; known once connected
        self.loop.add_reader(self.fd, self._readable)

    @classmethod
    async def connect(cls, env_dir: Path, on_event: Callable[[InitEvent], None], *, timeout: float = 5) -> InitLink:
        """Connect to env_dir/init.sock and wait for init's greeting, at most `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                link = await cls.open(env_dir, on_event)
                await link.greeted()
                return link
        except TimeoutError:
            raise TimedOut(f"init does not answer on {env_dir / 'init.sock'} within {timeout:g} s") from None

    @classmethod
    async def open(cls, env_dir: Path, on_event: Callable[[InitEvent], None]) -> InitLink:
        """Connect only: calls may be made, what init says to them comes after its greeting."""
        while True:
            try:
                return cls(connect_to(env_dir, "init.sock"), on_event)
            except BlockingIOError:  # the queue is full, and unix(7) tells nobody when it is not
                await asyncio.sleep(0.02)

    async def greeted(self) -> None:
        """Wait for init's greeting; raises NotFound, and whoever stops waiting ends the link."""
        try:
            await self.hello
        except BaseException:
            self.close()
            raise

    # -- calls -----------------------------------------------------------------------------------------------------------

    async def status(self) -> InitStatus:
        """All services, failures and sessions."""
        found, fds = await self._call("status", {})
        close_all(list(fds.values()))
        return as_init_status(found)

    def greeted_with(self) -> InitStatus:
        """The status as init's greeting told it; what happened after that has come as events."""
        return as_init_status(self.hello.result().get("status"))

    def refused_before(self) -> list[Refused]:
        """System calls that were refused before init greeted us; of an init that counts them."""
        return as_refused(self.hello.result().get("refused") or [])

    def raised(self) -> tuple[frozenset[str], int]:
        """The walls that init found to hold at its start, and the cookie of its network namespace; raises ProtocolViolation."""
        hello = self.hello.result()
        walls = hello.get("walls") or []
        if not isinstance(walls, list) or not all(isinstance(wall, str) for wall in walls):
            raise ProtocolViolation("init's walls are none")
        cookie = hello.get("netns_cookie") or 0
        if type(cookie) is not int or not 0 <= cookie < 1 << 64:
            raise ProtocolViolation("init's cookie is none")
        return frozenset(walls), cookie

    async def start(
        self,
        service: dict[str, Any],
        *,
        logs: tuple[int, int],
        attach: Mapping[str, int] | None = None,
        slow: str = "drop",
    ) -> int:
        """Start a service (a ServicePlan as a dict); its inner pid once it is executed. `attach` opens session `attach:NAME`.

        Raises CommandNotFound, CommandNotExecutable, LaunchFailed, InvalidState. Descriptors stay the caller's.
        """
        named = {"log.0": logs[0], "log.1": logs[1], **{f"attach.{name}": fd for name, fd in (attach or {}).items()}}
        found, fds = await self._call("start", {"service": service, "slow": slow}, named)
        close_all(list(fds.values()))
        return as_int(found.get("pid"))

    async def signal(self, target: str, signum: int, *, group: bool = False) -> None:
        """Signal `service:NAME`, `session:ID` (group: a terminal's foreground group) or `all` (every process but init)."""
        await self._call("signal", {"target": target, "signum": signum, "group": group})

    async def exec(self, request: dict[str, Any]) -> Opened:
        """Execute a command inside, its stdio ours; raises as `start`."""
        found, fds = await self._call("exec", {"request": request})
        return as_opened(found, fds, {"pty"} if request.get("tty") else {"stdout", "stderr"})

    async def attach(self, service: str, *, stdin: bool, slow: str) -> Opened:
        """Join a running service's stdio by pipes (stdin only where it has one); slow: "wait" or "drop"."""
        found, fds = await self._call("attach", {"service": service, "stdin": stdin, "slow": slow})
        return as_opened(found, fds, {"stdout", "stderr"})

    async def resize(self, target: str, rows: int, cols: int) -> None:
        """Set the window of `service:NAME` or `session:ID`."""
        await self._call("resize", {"target": target, "rows": rows, "cols": cols})

    async def close_session(self, session: str, *, grace: float = 2.0) -> None:
        """End a session: a command's group gets SIGHUP and, `grace` seconds later, SIGKILL. One that is over is fine."""
        await self._call("close_session", {"session": session, "grace": grace})

    async def diag(self) -> socket.socket:
        """A NETLINK_SOCK_DIAG socket born in the env's network namespace."""
        _, fds = await self._call("diag", {})
        try:
            return socket.socket(fileno=fds.pop("diag"))
        except KeyError:
            raise ProtocolViolation("init's answer to diag has no descriptor") from None
        finally:
            close_all(list(fds.values()))

    async def segments(self) -> int:
        """A descriptor of the env's /proc/sysvipc/shm, the caller's to close."""
        _, fds = await self._call("segments", {})
        if fds.keys() != {"shm"}:
            close_all(list(fds.values()))
            raise ProtocolViolation("init's answer to segments has no descriptor")
        return fds["shm"]

    async def _call(
        self, op: str, asked: dict[str, Any], fds: Mapping[str, int] | None = None
    ) -> tuple[dict[str, Any], dict[str, int]]:
        """Ask and wait, at most CALL_TIMEOUT seconds; the answer's descriptors are the caller's."""
        if not self.is_open:
            raise NotFound("the env's init is gone", hint="the env has ended, or its init was lost")
        if self.outbox.size > OUTBOX_LIMIT:
            raise TimedOut("the env's init reads nothing", hint="kill the env")
        future: Answer = self.loop.create_future()
        number = self._ask(op, asked, fds or {})
        self.waiting[number] = future
        self._flush()
        taken = False
        try:
            async with asyncio.timeout(CALL_TIMEOUT):
                answer = await future
                taken = True
                return answer
        except TimeoutError:
            raise TimedOut(f"the env's init did not answer {op} within {CALL_TIMEOUT:g} s", hint="kill the env") from None
        finally:
            self.waiting.pop(number, None)
            if not taken and future.done() and not future.cancelled() and future.exception() is None:
                close_all(list(future.result()[1].values()))  # it came, and the caller was cancelled

    def _ask(self, op: str, asked: dict[str, Any], fds: Mapping[str, int]) -> int:
        """Queue a call; its number. Raises OSError."""
        self.count += 1
        self.outbox.put(encode({**asked, "id": self.count, "op": op, "fds": list(fds)}), dup_all(list(fds.values())))
        return self.count

    # -- the connection --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the link; init and the env go on."""
        self._end("closed by us", ours=True)

    def _end(self, reason: str, *, ours: bool = False, broken: bool = False) -> None:
        """Fail what waits, say Closed, release everything; once."""
        if not self.is_open:
            return
        self.is_open = False
        was_greeted = self.hello.done() and not self.hello.cancelled()
        self.loop.remove_reader(self.fd)
        self.loop.remove_writer(self.fd)
        self.sock.close()
        self.inbox.close()
        self.outbox.close()
        waiting: list[asyncio.Future[Any]] = [self.hello, *self.waiting.values()]
        self.waiting = {}
        for future in waiting:
            if not future.done():
                future.set_exception(
                    NotFound(f"the env's init is gone ({reason})", hint="the env has ended, or its init was lost")
                )
                future.exception()  # read once: a caller that was cancelled leaves nobody to
        if was_greeted:  # else `connect` raises, and there never was a link
            self.on_event(Closed(reason, ours, broken))

    def _readable(self) -> None:
        """Receive until nothing is left: uv_poll reports an error once, so stopping early could be for good."""
        try:
            if not self.peer_pid:
                self._be_introduced()
            for _ in range(DRAIN_TURNS):
                if not self.inbox.pull():
                    self._take()
                    self._end("init closed the connection")
                    return
                self._take()
                if not self.is_open:
                    return
            self.loop.call_soon(self._again)
        except BlockingIOError:
            return
        except (OSError, SandboxdError) as error:
            self._end(str(error), broken=isinstance(error, ProtocolViolation))

    def _be_introduced(self) -> None:
        """Read the first bytes with their sender's pid. SO_PEERCRED would name the daemon that called listen (unix(7))."""
        data, ancillary, flags, _ = self.sock.recvmsg(CHUNK, INTRODUCED, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 0)
        said = {kind: value for _, kind, value in ancillary}
        came = [*memoryview(said.get(socket.SCM_RIGHTS, b"")).cast("i")]  # of an answer right behind the greeting
        self.inbox.cut = bool(flags & socket.MSG_CTRUNC)  # room is given for all that may come: this process has none
        close_all(came) if self.inbox.cut else self.inbox.fds.extend(came)
        if socket.SCM_CREDENTIALS not in said:
            raise ProtocolViolation("init did not introduce itself" if data else "init closed the connection")
        if (pid := UCRED.unpack(said[socket.SCM_CREDENTIALS])[0]) <= 0:
            raise ProtocolViolation("init is no process that can be seen from here" if data else "init closed the connection")
        self.peer_pid, self.inbox.buffer = pid, self.inbox.buffer + data
        self._take()

    def _again(self) -> None:
        """The rest of a long burst."""
        if self.is_open:
            self._readable()

    def _take(self) -> None:
        """Every whole frame."""
        for message, fds in self.inbox.frames():
            try:
                if "event" in message:
                    self._event(message)
                else:
                    self._reply(message, fds)
            except (KeyError, TypeError, ValueError) as error:
                raise ProtocolViolation(f"init sent a frame that is none: {error!r}") from None
            finally:
                close_all(list(fds.values()))
            if not self.is_open:
                return

    def _event(self, message: dict[str, Any]) -> None:
        """Hand on what happened; events of a later version are passed over."""
        if message["event"] == "hello":
            self.version = as_int(message["version"])
            greeting = understood(message, self.version)
            if not self.hello.done():
                self.hello.set_result(greeting)
            return
        event = as_event(understood(message, self.version))
        if event is not None:
            self.on_event(event)

    def _reply(self, message: dict[str, Any], fds: dict[str, int]) -> None:
        """Hand an answer to its caller, if it still waits."""
        error = error_from(message["error"]) if "error" in message else None
        if message["id"] is None and error is not None:
            raise error  # init could not read what we sent
        answer = {} if error is not None else dict(message["ok"])
        future = self.waiting.pop(as_int(message["id"]), None)  # what is broken above fails it with the link
        if future is None or future.done():
            return
        if error is None and len(fds) < len(message.get("fds", [])):
            error = CutOff().in_words()
            if "session" in answer:  # nobody holds its other end: what was begun there is ended
                self._ask("close_session", {"session": answer["session"], "grace": 0.0}, {})
                self._flush()
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result((answer, dict(fds)))
            fds.clear()

    def _flush(self) -> None:
        """Send what the kernel takes; hear when it takes more."""
        try:
            done = self.outbox.flush()
        except OSError as error:
            self._end(str(error))
            return
        if done:
            self.loop.remove_writer(self.fd)
        else:
            self.loop.add_writer(self.fd, self._flush)
