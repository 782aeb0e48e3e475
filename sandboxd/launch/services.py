"""The services of one env as pid 1 sees them: started, running, ended, with their pumps, logs and exit records.

Runs inside pid 1. Nothing here waits: `start` returns once the child is forked, and what became of its exec is told later.
Order at a service's end: its output is drained into log and readers, the exit is recorded on disk, then it is told, then its
readers are let go; so whoever hears of the exit finds the whole log.
"""

from __future__ import annotations

import os
import time

from sandboxd.errors import InvalidState, LaunchFailed, NotFound, QueueFull, SandboxdError, SpecInvalid
from sandboxd.kernel.fds import close_all
from sandboxd.launch.exits import ExitFile
from sandboxd.launch.frames import error_to
from sandboxd.launch.logfile import LogFiles
from sandboxd.launch.loop import READ, Loop, complain
from sandboxd.launch.program import PLAIN, REPORT_LIMIT, Program, Stdio, error_of, fork, set_window
from sandboxd.launch.pump import Input, Output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sandboxd.launch.frames import Message
    from sandboxd.launch.quick import Quick

SERVICES_LIMIT = 128
NAME_LIMIT = 63  # as a DNS label
RETRY_AFTER = 5.0  # seconds between attempts to write exits that a full disk refused


class Service:
    """One service: its last start, what came of it, and its streams."""

    __slots__ = (
        "ended", "error", "input", "log", "name", "outputs", "pid", "program", "report", "started", "then", "wait_status",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.program: Program | None = None
        self.log: LogFiles | None = None
        self.pid: int | None = None  # the last main process, whether it still runs or not
        self.report = -1  # open until exec is known to have worked or failed
        self.then: list[Callable[[SandboxdError | None], None]] = []
        self.wait_status: int | None = None
        self.started: float | None = None
        self.ended: float | None = None
        self.error: SandboxdError | None = None
        self.outputs: list[Output] = []
        self.input: Input | None = None

    @property
    def is_alive(self) -> bool:
        """Whether the main process runs, or is about to."""
        return self.pid is not None and self.wait_status is None and self.error is None

    def status(self) -> Message:
        """As `status` shows it: with a pid once it is known that exec worked, so that nobody takes a refusal for a start."""
        return {
            "pid": self.pid if self.report < 0 else None,
            "wait_status": self.wait_status,
            "started": self.started,
            "ended": self.ended,
            "tty": bool(self.program and self.program.tty),
            "stdin": bool(self.input and self.input.fd >= 0),
        }


class Services:
    """All services of the env by name, and by the pid of their main process."""

    __slots__ = ("birth", "by_name", "by_pid", "enter", "exits", "log_limit", "loop", "on_end", "quick", "retrying", "tell")

    def __init__(self, loop: Loop, exits: ExitFile, log_limit: int, tell: Callable[[Message], None]) -> None:
        self.loop = loop
        self.exits = exits
        self.log_limit = log_limit
        self.birth = PLAIN
        self.tell = tell
        self.on_end: Callable[[Service, int | None], None] | None = None  # readers of that service end with it
        self.by_name: dict[str, Service] = {}
        self.by_pid: dict[int, Service] = {}
        self.retrying = False
        self.quick: Quick | None = None
        self.enter: Callable[[], None] | None = None  # waits until the env's view of files is whole

    def come_in(self) -> None:
        """Be in the env's view before anything of the env runs or is opened."""
        enter, self.enter = self.enter, None
        if enter is not None:
            enter()

    def quickly(self, program: Program) -> Quick | None:
        """The start that was made ahead, once, where it will do for this one."""
        quick, self.quick = self.quick, None
        if quick is not None and not quick.takes(program, self.birth):
            quick.close()
            return None
        return quick

    def get(self, name: str) -> Service:
        """The service of that name; raises NotFound."""
        if name not in self.by_name:
            raise NotFound(f"no service {name} in this env", hint="its services are " + ", ".join(self.by_name))
        return self.by_name[name]

    def add(self, name: str, logs: tuple[int, int] | None) -> Service:
        """A service that may be started, and takes over its log files; raises QueueFull, SpecInvalid."""
        service = self.by_name.get(name)
        if service is None:
            if len(self.by_name) >= SERVICES_LIMIT:
                close_all(list(logs or ()))
                raise QueueFull(f"an env has at most {SERVICES_LIMIT} services", limit=SERVICES_LIMIT)
            if not 1 <= len(name) <= NAME_LIMIT:
                close_all(list(logs or ()))
                raise SpecInvalid(f"a service's name has 1 to {NAME_LIMIT} characters")
            service = self.by_name[name] = Service(name)
        if logs is not None:
            self.log_to(service, logs)
        return service

    def log_to(self, service: Service, logs: tuple[int, int]) -> None:
        """Log to these files from now on; the same files once more are one writer still."""
        if service.log is not None and service.log.is_same(logs):
            close_all(list(logs))
            return
        old, service.log = service.log, LogFiles(logs, self.log_limit)
        for output in service.outputs:
            output.log = service.log
        if old is not None:
            old.close()

    def start(
        self, service: Service, asked: dict[str, Any], then: Callable[[SandboxdError | None], None] | None = None
    ) -> None:
        """Fork its main process; `then` hears how exec went. Raises SandboxdError, and the service has failed with it."""
        if service.is_alive:
            raise InvalidState(f"service {service.name} is running", state="running")
        try:
            program = Program(asked)
            quick = self.quickly(program)
            self.come_in()
            stdio = (quick and quick.stdio) or Stdio(program)
            pid, report = fork(program, stdio, self.birth, quick=quick)
        except SandboxdError as error:
            self.fail(service, error)
            raise
        service.then = [then] if then is not None else []
        self.begin(service, program, pid, stdio, report)

    def begin(self, service: Service, program: Program, pid: int, stdio: Stdio, report: int) -> None:
        """Its process is there: connect its streams, and hear of its exec."""
        service.program, service.pid = program, pid
        self.by_pid[pid] = service
        service.wait_status = service.ended = service.error = None
        service.started, service.report = time.time(), report
        self.connect(service, stdio)
        self.loop.watch(report, READ, lambda _events: self.hear(service))

    def connect(self, service: Service, stdio: Stdio) -> None:
        """Pumps on our ends of its stdio; what an earlier main process left running keeps its own, into the same log."""
        fds, is_terminal = stdio.ours, "pty" in stdio.ours
        service.outputs = [output for output in service.outputs if output.fd >= 0]
        if is_terminal:
            if service.program is not None and service.program.stdin:
                fds["stdin"] = os.dup(fds["pty"])  # epoll knows a descriptor once: reading and writing take one each
            fds["stdout"] = fds["pty"]
        service.input = Input(self.loop, fds["stdin"], is_terminal=is_terminal) if "stdin" in fds else None
        streams = [stream for stream in ("stdout", "stderr") if stream in fds]
        service.outputs += [Output(self.loop, fds[stream], stream, service.log) for stream in streams]

    def streams(self, service: Service) -> dict[str, Output]:
        """The open outputs of its present main process."""
        latest = service.outputs[-1:] if service.program and service.program.tty else service.outputs[-2:]
        return {output.stream: output for output in latest if output.fd >= 0}

    def hear_all(self) -> None:
        """What is known of each exec by now."""
        for service in self.by_name.values():
            if service.report >= 0:
                self.hear(service)

    def hear(self, service: Service) -> None:
        """Exec is done (end of file), or the child says why not."""
        try:
            report = os.read(service.report, REPORT_LIMIT)
        except BlockingIOError:
            return
        self.loop.forget(service.report)
        os.close(service.report)
        service.report = -1
        if report and service.program is not None:
            self.fail(service, error_of(report, service.program))
            return
        self.tell({"event": "started", "service": service.name, "pid": service.pid, "time": service.started})
        self.answer(service, None)

    def fail(self, service: Service, error: SandboxdError) -> None:
        """Its program never ran."""
        error.details.setdefault("service", service.name)
        service.error = error
        self.tell({"event": "exec_failed", "service": service.name, "error": error_to(error)})
        self.answer(service, error)
        self.let_go(service, None)

    def answer(self, service: Service, error: SandboxdError | None) -> None:
        """Tell those who wait for exec."""
        then, service.then = service.then, []
        for waiting in then:
            waiting(error)

    def ended(self, pid: int, wait_status: int) -> None:
        """A main process was reaped."""
        service = self.by_pid.pop(pid)
        if service.pid == pid and service.report >= 0:
            self.hear(service)
        if service.pid != pid or service.error is not None:
            return  # a child that could not exec, whose service may run again by now
        for output in list(service.outputs):
            output.drain()
        service.wait_status, service.ended = wait_status, time.time()
        if not self.exits.record(service.name, pid, wait_status, service.ended):
            self.retry_soon()
        self.tell(
            {
                "event": "service_exited",
                "service": service.name,
                "pid": pid,
                "wait_status": wait_status,
                "time": service.ended,
            }
        )
        self.let_go(service, wait_status)

    def let_go(self, service: Service, wait_status: int | None) -> None:
        """End its input, and its readers once they have all of it."""
        if service.input is not None:
            service.input.close()
        for output in service.outputs:
            for sink in output.release():
                sink.finish()
        if self.on_end is not None:
            self.on_end(service, wait_status)

    def retry_soon(self) -> None:
        """Write exits again later; only while some wait."""
        if not self.retrying:
            self.retrying = True
            self.loop.after(RETRY_AFTER, self.retry)

    def retry(self) -> None:
        """Once more."""
        self.retrying = False
        if not self.exits.retry():
            self.retry_soon()

    def resize(self, service: Service, rows: int, cols: int) -> None:
        """Set its terminal's window; where there is no terminal, there is nothing to set."""
        output = self.streams(service).get("stdout")
        if service.program is not None and service.program.tty and output is not None:
            set_window(output.fd, rows, cols)


def start_all(services: Services, config: dict[str, Any], fds: dict[str, Any]) -> None:
    """Start what the plan says, in order; one that fails is told in `status` and keeps nobody from starting."""
    for name in fds.get("logs", {}):
        try:
            services.add(name, None)
        except SandboxdError:
            continue  # `log_all` says so
    services.enter, services.quick = fds.get("enter"), fds.get("quick")
    for name in config.get("start", []):
        service = services.add(name, None)
        try:
            services.start(service, config["services"][name])
        except SandboxdError:
            continue  # `status` has it
        except Exception as error:  # a plan that this version cannot read must not end the env without a word
            complain(f"starting {name}", error)
            services.fail(service, LaunchFailed(f"cannot start {name}: {error!r}", step="plan", errno=0))
    services.come_in()
    if services.quick is not None:  # nothing was to be started
        services.quick.close()


def log_all(services: Services, logs: dict[str, list[int]]) -> None:
    """Give all of them their log files, before anything that they write is read."""
    for name, pair in logs.items():
        try:
            services.add(name, (pair[0], pair[1]))
        except (OSError, SandboxdError) as error:
            complain(f"the log of {name}", error)
