"""Requests that speak with processes inside: Exec, Attach, attached Run, and input for those that take no descriptors.

The fast path hands the pty or the pipes to the client: no byte of the session passes through the daemon. In-band sessions
(ssh, foreign varlink clients) are pumped here, one reply per chunk; the client's slowness then slows the session.
"""

import base64
import os
from typing import TYPE_CHECKING

from sandboxd.daemon import building
from sandboxd.daemon.body import signal_number
from sandboxd.daemon.control import Call
from sandboxd.daemon.pumping import pump, write_all
from sandboxd.errors import InvalidState, NotFound, UsageError
from sandboxd.kernel.fds import close_all
from sandboxd.lifecycle.states import ALIVE, State
from sandboxd.protocol import messages as m

if TYPE_CHECKING:
    from sandboxd.daemon.actor import Actor
    from sandboxd.daemon.supervisor import Supervisor


class Channel:
    """A session's outer descriptors, owned: named pty, or stdin, stdout, stderr."""

    def __init__(self, fds: dict[str, int]) -> None:
        self.fds = fds

    @property
    def input(self) -> int | None:
        """Where input goes."""
        return self.fds.get("pty", self.fds.get("stdin"))

    def close(self, *names: str) -> None:
        """Close some, or all."""
        for name in names or list(self.fds):
            fd = self.fds.pop(name, None)
            if fd is not None:
                os.close(fd)


class SessionRequests:
    """The requests of this file. `inband` holds the channels of sessions that are pumped here."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self.supervisor = supervisor
        self.inband: dict[str, tuple[Actor, Channel, int]] = {}

    def target(self, call: Call, name: str) -> "Actor":
        """A live env, with init to speak to."""
        actor = self.supervisor.find(call.peer.sees, name)
        record = actor.record
        if record.state is State.SUSPENDED:
            raise InvalidState(
                f"env {record.name} is suspended",
                hint=f"`sandbox resume {record.name}` first",
                state=record.state.value,
            )
        if record.state not in ALIVE or actor.body.link is None:
            raise InvalidState(
                f"env {record.name} does not run: it is {record.state.value}",
                hint=f"`sandbox start {record.name}` starts it",
                state=record.state.value,
            )
        return actor

    async def exec(self, call: Call) -> m.SessionReply:
        """Run a command inside."""
        params = call.params
        assert isinstance(params, m.Exec)
        if not params.argv or any("\0" in word for word in params.argv):
            raise UsageError(
                "no command to run" if not params.argv else "the command has a NUL byte in it", hint="exec ENV -- CMD…"
            )
        actor = self.target(call, params.target)
        link = actor.body.link
        assert link is not None
        check_service(actor, params.service)
        plan = building.exec_plan(actor, params.argv, params.service, tty=params.tty, stdin=params.stdin)
        plan |= {"rows": params.rows, "cols": params.cols}
        if params.env:
            plan["env"] = {**as_dict(plan["env"]), **params.env}
        if params.workdir is not None:
            plan["workdir"] = params.workdir
        opened = await link.exec(plan)
        self.supervisor.announce(actor.record, "exec", {"command": " ".join(params.argv)[:200]})
        return await self.serve(call, actor, opened.session, Channel(opened.fds), with_fds=params.fds)

    async def attach(self, call: Call) -> m.SessionReply:
        """Join a running service's stdio."""
        params = call.params
        assert isinstance(params, m.Attach)
        actor = self.target(call, params.target)
        link = actor.body.link
        assert link is not None
        check_service(actor, params.service)
        service = params.service or next(iter(actor.record.services))
        opened = await link.attach(service, stdin=params.stdin, slow=params.slow)
        if params.stdin:
            await link.resize(f"service:{service}", params.rows, params.cols)
        return await self.serve(call, actor, opened.session, Channel(opened.fds), with_fds=params.fds)

    async def serve(self, call: Call, actor: "Actor", session: str, channel: Channel, *, with_fds: bool) -> m.SessionReply:
        """Hand the descriptors over, or pump; answer with the exit code."""
        actor.body.open_session(session, attached=isinstance(call.params, m.Attach))
        try:
            names = list(channel.fds)
            if with_fds:
                fds = [channel.fds[name] for name in names]
                await call.reply(m.SessionReply(session=session, fds=names), continues=True, fds=fds)
                channel.close()
                code = await actor.body.session_code(session)
            else:
                self.inband[session] = (actor, channel, call.peer.uid)
                await call.reply(m.SessionReply(session=session), continues=True)
                await pump(channel.fds, lambda stream, data: call.reply(chunk(session, stream, data), continues=True))
                code = await actor.body.session_code(session)
            return m.SessionReply(session=session, exit_code=code, reason=actor.record.cause)
        finally:
            self.inband.pop(session, None)
            channel.close()
            if actor.body.has_session(session) and actor.body.link is not None:
                # the client has left: the session dies with the connection that opened it
                self.supervisor.own(close_session(actor, session), name=f"close-{session}")

    def pumped(self, call: Call, session: str) -> tuple["Actor", Channel]:
        """An in-band session of this user; raises NotFound."""
        found = self.inband.get(session)
        if found is None or call.peer.sees not in (0, found[2]):
            raise NotFound(f"no in-band session {session!r}", hint="it ended, or its descriptors were handed over")
        return found[0], found[1]

    async def input(self, call: Call) -> m.Empty:
        """Bytes for a session's stdin."""
        params = call.params
        assert isinstance(params, m.SessionInput)
        _, channel = self.pumped(call, params.session)
        try:
            data = base64.b64decode(params.data, validate=True)
        except ValueError:
            raise UsageError("data is no base64") from None
        fd = channel.input
        if fd is not None and data:
            await write_all(fd, data)
        if params.eof:
            if "pty" in channel.fds:
                await write_all(channel.fds["pty"], b"\x04")  # a terminal's end of file is a character (termios(3), VEOF)
            else:
                channel.close("stdin")
        return m.Empty()

    async def resize(self, call: Call) -> m.Empty:
        """A session's new window."""
        params = call.params
        assert isinstance(params, m.SessionResize)
        actor, session = self.anywhere(call, params.session)
        if actor.body.link is not None:
            await actor.body.link.resize(session, params.rows, params.cols)
        return m.Empty()

    async def signal(self, call: Call) -> m.Empty:
        """Signal a session's foreground process group."""
        params = call.params
        assert isinstance(params, m.SessionSignal)
        number = signal_number(params.signal)
        actor, session = self.anywhere(call, params.session)
        if actor.body.link is not None:
            await actor.body.link.signal(session, number, group=True)
        return m.Empty()

    def anywhere(self, call: Call, session: str) -> tuple["Actor", str]:
        """The env that has a session; a Run's session is its service."""
        for actor in self.supervisor.actors.values():
            if call.peer.sees not in (0, actor.record.owner):
                continue
            if session.startswith("run:") and session[4:] == actor.record.id:
                return actor, f"service:{next(iter(actor.record.services))}"
            if actor.body.has_session(session):
                return actor, f"session:{session}"
        raise NotFound(f"no session {session!r}", hint="it has ended")


class RunSession:
    """The stdio of an env's first service, opened before it starts so that no byte is missed."""

    def __init__(self, actor: "Actor", session: str, channel: Channel, *, with_fds: bool) -> None:
        self.actor = actor
        self.session = session
        self.channel = channel
        self.with_fds = with_fds

    @classmethod
    def prepare(cls, actor: "Actor", params: m.Run) -> "RunSession":
        """Make the pipes; the inner ends go along with the launch."""
        name, service = next(iter(params.spec.services.items()))
        inner: dict[str, int] = {}
        outer: dict[str, int] = {}
        wanted = ["stdin"] if service.stdin else []
        wanted += ["stdout"] if service.tty else ["stdout", "stderr"]
        try:
            for stream in wanted:
                reading, writing = os.pipe2(os.O_CLOEXEC)
                inner[stream], outer[stream] = (reading, writing) if stream == "stdin" else (writing, reading)
        except OSError:
            close_all([*inner.values(), *outer.values()])
            raise
        actor.body.prepared_attach[name] = inner
        actor.body.prepared_window = (params.rows, params.cols)
        return cls(actor, f"run:{actor.record.id}", Channel(outer), with_fds=params.fds)

    async def serve(self, call: Call, info: m.EnvInfo) -> None:
        """Hand the descriptors over, or pump until the output ends."""
        try:
            names = list(self.channel.fds)
            if self.with_fds:
                fds = [self.channel.fds[name] for name in names]
                first = m.RunReply(env=info, done=False, session=self.session, fds=names)
                await call.reply(first, continues=True, fds=fds)
            else:
                await call.reply(m.RunReply(env=info, done=False, session=self.session), continues=True)
                await pump(self.channel.fds, lambda stream, data: call.reply(self.chunk(info, stream, data), continues=True))
        finally:
            self.close()

    def chunk(self, info: m.EnvInfo, stream: str, data: bytes) -> m.RunReply:
        """Some output, in-band."""
        text = base64.b64encode(data).decode()
        return m.RunReply(env=info, done=False, session=self.session, stream=stream, data=text)

    def close(self) -> None:
        """Let go of the outer ends."""
        self.channel.close()


def chunk(session: str, stream: str, data: bytes) -> m.SessionReply:
    """Some output, in-band."""
    return m.SessionReply(session=session, stream=stream, data=base64.b64encode(data).decode())


def check_service(actor: "Actor", service: str | None) -> None:
    """Raises NotFound for a service that the env does not have."""
    if service is not None and service not in actor.record.services:
        has = ", ".join(actor.record.services)
        raise NotFound(f"env {actor.record.name} has no service {service!r}", hint=f"it has: {has}")


def as_dict(value: object) -> dict[str, str]:
    """A plan's env."""
    assert isinstance(value, dict)
    return value


async def close_session(actor: "Actor", session: str) -> None:
    """End a session whose client has left."""
    if actor.body.link is not None:
        try:
            await actor.body.link.close_session(session)
        except NotFound:
            return
