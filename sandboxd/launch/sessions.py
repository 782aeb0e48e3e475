"""Sessions of one env: commands executed inside it (`exec`) and readers and writers joined to a service (`attach`).

Runs inside pid 1. An exec session's descriptors go out and pid 1 keeps none: its bytes pass nobody, all output lies in the
pipes or the terminal before the exit is told, and a terminal whose holder dies hangs up by itself. An attached session gets a
copy of what comes, and is told to have ended only after all of it was passed on.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # as in kernel.signals
import os
import time

from sandboxd.errors import InvalidState, NotFound, QueueFull, SandboxdError
from sandboxd.kernel.fds import close_all
from sandboxd.launch.loop import READ, Loop
from sandboxd.launch.program import PLAIN, REPORT_LIMIT, Birth, Program, Stdio, error_of, fork, set_window
from sandboxd.launch.pump import Sink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sandboxd.launch.frames import Message
    from sandboxd.launch.services import Service, Services

SESSIONS_LIMIT = 128


class Execution:
    """A command executed for somebody."""

    __slots__ = ("closing", "id", "pid", "program", "report", "stdio", "then")

    def __init__(
        self, id: str, program: Program, then: Callable[[Execution, SandboxdError | None], None], birth: Birth = PLAIN
    ) -> None:
        self.id = id
        self.program = program
        self.then = then
        self.stdio = Stdio(program)
        self.pid, self.report = fork(program, self.stdio, birth)
        self.closing = False

    def status(self) -> Message:
        """As `status` shows it."""
        return {"session": self.id, "kind": "exec", "pid": self.pid, "tty": bool(self.stdio.terminal)}


class Attachment:
    """Somebody joined to a service's stdio."""

    __slots__ = ("id", "open", "reason", "service", "sinks", "source", "wait_status")

    def __init__(self, id: str, service: Service) -> None:
        self.id = id
        self.service = service
        self.sinks: list[Sink] = []
        self.source = -1
        self.open = 0
        self.reason = "ended"
        self.wait_status: int | None = None

    def status(self) -> Message:
        """As `status` shows it."""
        return {"session": self.id, "kind": "attach", "service": self.service.name, "pid": self.service.pid}


class Sessions:
    """All sessions of the env by id; executions by pid too."""

    __slots__ = ("attached", "by_pid", "count", "executed", "loop", "services", "tell")

    def __init__(self, loop: Loop, services: Services, tell: Callable[[Message], None]) -> None:
        self.loop = loop
        self.services = services
        self.tell = tell
        # Not from 0: the daemon keeps what became of the sessions of the init before us, by id.
        self.count = int.from_bytes(os.urandom(5), "little") << 10
        self.executed: dict[str, Execution] = {}
        self.attached: dict[str, Attachment] = {}
        self.by_pid: dict[int, Execution] = {}
        services.on_end = self.service_ended

    def status(self) -> list[Message]:
        """All that are open."""
        executed = [session.status() for session in self.executed.values()]
        return executed + [session.status() for session in self.attached.values()]

    def next_id(self) -> str:
        """A new session's id; raises QueueFull."""
        if len(self.executed) + len(self.attached) >= SESSIONS_LIMIT:
            raise QueueFull(f"an env has at most {SESSIONS_LIMIT} sessions", hint="close some", limit=SESSIONS_LIMIT)
        self.count += 1
        return f"s{self.count}"

    # -- exec ------------------------------------------------------------------------------------------------------------

    def execute(self, asked: dict[str, Any], then: Callable[[Execution, SandboxdError | None], None]) -> None:
        """Start a command; `then` hears how exec went and takes the session's `stdio.ours`. Raises SandboxdError."""
        execution = Execution(self.next_id(), Program(asked), then, self.services.birth)
        self.executed[execution.id] = self.by_pid[execution.pid] = execution
        self.loop.watch(execution.report, READ, lambda _events: self.hear(execution))

    def hear(self, execution: Execution) -> None:
        """Exec is done (end of file), or the child says why not."""
        try:
            report = os.read(execution.report, REPORT_LIMIT)
        except BlockingIOError:
            return
        self.loop.forget(execution.report)
        os.close(execution.report)
        execution.report = -1
        error = error_of(report, execution.program) if report else None
        if error is not None:
            execution.stdio.close()
            self.executed.pop(execution.id, None)
        execution.then(execution, error)

    def about_to_reap(self, pid: int) -> None:
        """A zombie still holds its number: the last moment at which its process group is surely its own."""
        execution = self.by_pid.get(pid)
        if execution is not None and execution.closing:
            signal_group(pid, _signal.SIGKILL)

    def ended(self, pid: int, wait_status: int) -> None:
        """A command was reaped."""
        execution = self.by_pid.pop(pid)
        if execution.report >= 0:
            self.hear(execution)
        if self.executed.pop(execution.id, None) is not None:
            self.over(execution.id, wait_status, "ended")

    def over(self, id: str, wait_status: int | None, reason: str) -> None:
        """Tell that a session has ended."""
        self.tell({"event": "session_exited", "session": id, "wait_status": wait_status, "time": time.time(), "reason": reason})

    # -- attach ----------------------------------------------------------------------------------------------------------

    def attach(self, service: Service, *, stdin: bool, waits: bool) -> tuple[Attachment, dict[str, int]]:
        """Join a running service: the session and the ends of its pipes for whoever asked. Raises SandboxdError."""
        if not service.is_alive:
            raise InvalidState(f"service {service.name} does not run", state="not running")
        theirs: dict[str, int] = {}
        ours: dict[str, int] = {}
        try:
            id = self.next_id()
            if stdin and service.input is not None and service.input.fd >= 0:
                ours["stdin"], theirs["stdin"] = os.pipe2(os.O_CLOEXEC)
            for stream in ("stdout", "stderr"):
                theirs[stream], ours[stream] = os.pipe2(os.O_CLOEXEC)
        except (OSError, SandboxdError):
            close_all([*theirs.values(), *ours.values()])
            raise
        return self.join(Attachment(id, service), ours, waits=waits, once=False), theirs

    def join(self, session: Attachment, fds: dict[str, int], *, waits: bool, once: bool) -> Attachment:
        """Take over these descriptors for a session; `once`: its end of input is the service's."""
        self.attached[session.id] = session
        service, streams = session.service, self.services.streams(session.service)
        if "stdin" in fds:
            if service.input is not None and service.input.fd >= 0:
                session.source = fds["stdin"]
                service.input.add(session.source, once=once)
            else:
                os.close(fds["stdin"])
        for stream in ("stdout", "stderr"):
            if stream not in fds:
                continue
            if stream not in streams:  # a terminal's other stream, or one that was closed: end of file at once
                os.close(fds[stream])
                continue
            sink = Sink(self.loop, fds[stream], waits=waits, ended=lambda reason: self.sink_ended(session, reason))
            session.sinks.append(sink)
            session.open += 1
            streams[stream].tee(sink)
        return session

    def sink_ended(self, session: Attachment, reason: str) -> None:
        """One of its streams was passed on whole, or its reader went; one that lagged ends the whole session."""
        session.open -= 1
        if session.reason == "ended":
            session.reason = reason
        if reason == "lagging":
            self.detach(session)
        elif session.open == 0 and (session.wait_status is not None or session.reason != "ended"):
            self.forget(session)

    def detach(self, session: Attachment) -> None:
        """Let it go; the service goes on."""
        for sink in session.sinks:
            sink.close(session.reason)
        self.forget(session)

    def forget(self, session: Attachment) -> None:
        """Close what is left, and tell."""
        if session.source >= 0 and session.service.input is not None:
            session.service.input.remove(session.source)
        session.source = -1
        if self.attached.pop(session.id, None) is not None:
            self.over(session.id, session.wait_status, session.reason)

    def service_ended(self, service: Service, wait_status: int | None) -> None:
        """Its readers' last bytes are on their way, or passed on."""
        for session in [session for session in self.attached.values() if session.service is service]:
            session.wait_status = wait_status
            if session.open == 0:
                self.forget(session)

    # -- both ------------------------------------------------------------------------------------------------------------

    def close(self, id: str, grace: float) -> None:
        """End a session: an attached one is let go, a command's process group gets SIGHUP, and SIGKILL after the grace."""
        if id in self.attached:
            self.attached[id].reason = "closed"
            self.detach(self.attached[id])
        execution = self.executed.get(id)
        if execution is None or execution.closing:
            return
        execution.closing = True
        signal_group(execution.pid, _signal.SIGHUP)
        signal_group(execution.pid, _signal.SIGCONT)  # a stopped job would never hear of it
        self.loop.after(grace, lambda: self.kill(execution))

    def kill(self, execution: Execution) -> None:
        """The grace is over; its number is its own while it is not reaped."""
        if execution.pid in self.by_pid:
            signal_group(execution.pid, _signal.SIGKILL)

    def get(self, id: str) -> Execution | Attachment:
        """The session of that id; raises NotFound."""
        found = self.executed.get(id) or self.attached.get(id)
        if found is None:
            raise NotFound(f"no session {id} in this env", hint="it has ended")
        return found

    def resize(self, session: Execution | Attachment, rows: int, cols: int) -> None:
        """Set its terminal's window, where it has one."""
        if isinstance(session, Attachment):
            self.services.resize(session.service, rows, cols)
        elif session.stdio.terminal:
            try:
                resize_slave(session.stdio.terminal, rows, cols)
            except OSError:  # EIO: it has just hung up
                return

    def signal(self, session: Execution | Attachment, signum: int, *, group: bool) -> None:
        """Signal a command, or the service of an attached one; `group`: as a key like ctrl-C would."""
        if isinstance(session, Execution):
            send_signal(session.pid, signum, group=group, terminal=session.program.tty)
        elif session.service.is_alive and session.service.pid is not None and session.service.program is not None:
            send_signal(session.service.pid, signum, group=group, terminal=session.service.program.tty)


def send_signal(pid: int, signum: int, *, group: bool, terminal: bool) -> None:
    """Signal a child that is not reaped: alone, or its terminal's foreground group, or its own group."""
    if not group:
        os.kill(pid, signum)
        return
    signal_group((foreground_of(pid) if terminal else 0) or pid, signum)


def foreground_of(pid: int) -> int:
    """The foreground process group of a process's terminal; 0 when it has none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read(1024).rpartition(b")")[2].split()
        return max(0, int(fields[5]))  # tpgid, field 8 (proc_pid_stat(5)); TIOCGPGRP would need the master
    except (OSError, ValueError, IndexError):
        return 0


def resize_slave(path: str, rows: int, cols: int) -> None:
    """TIOCSWINSZ on a terminal whose master went out: the slave, opened for the moment; raises OSError."""
    slave = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        set_window(slave, rows, cols)
    finally:
        os.close(slave)


def signal_group(pid: int, signum: int) -> None:
    """Signal a process group, or the process alone while it has not become the leader of one; gone is fine."""
    try:
        os.killpg(pid, signum)
    except ProcessLookupError:
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            return
