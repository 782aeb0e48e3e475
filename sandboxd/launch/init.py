"""Pid 1 of an env: reaps, starts services and commands, pumps their output, hands out sockets of the env's network.

Forked from the launcher, behind the same walls as what it starts; stdlib and sandboxd.{errors,kernel,launch} only, all of it
imported before the env's files are seen. It decides nothing: the daemon does, and may be gone for long; meanwhile logs go on
and exits are written down. Invariants: one thread, one epoll, no waiting on anything else; no client, service or full disk
can end or stall it; from inside the env it cannot be killed (pid_namespaces(7)) nor traced (it is not dumpable).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # as in kernel.signals
import gc
import os

from sandboxd.errors import KernelError, NotFound, SandboxdError, SpecInvalid
from sandboxd.kernel.capabilities import no_new_privs, set_dumpable
from sandboxd.kernel.heap import trim
from sandboxd.kernel.namespaces import netns_cookie
from sandboxd.kernel.signals import default_all, read_signals, signalfd
from sandboxd.launch.clients import Call, Control
from sandboxd.launch.denials import Denials
from sandboxd.launch.dialer import Dialer, open_diag, open_forwards, open_paths
from sandboxd.launch.exits import ExitFile
from sandboxd.launch.frames import error_to
from sandboxd.launch.guard import end_all, signal_all
from sandboxd.launch.loop import READ, Loop, complain
from sandboxd.launch.program import Birth, mapped
from sandboxd.launch.services import Services, log_all, start_all
from sandboxd.launch.sessions import Attachment, Execution, Sessions, send_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from sandboxd.launch.frames import Message
    from sandboxd.launch.services import Service

REAP_BATCH = 256
LOG_LIMIT = 8 << 20
CLOSE_GRACE = 2.0
TRIM_AFTER = 1.0  # seconds
SEGMENTS = "/proc/sysvipc/shm"


def run(config: dict[str, Any], fds: dict[str, Any]) -> NoReturn:
    """Be the env's pid 1 until it is killed. `config` and `fds` as the launcher's plan has them."""
    try:
        if not fds.get("settled"):
            settle()
        init_of(config, fds).serve(fds.get("launched"))
    except BaseException as error:
        complain("ending", error)
    os._exit(1)


def settle() -> None:
    """What is done once and depends on nothing of the env: of a parked child, while nobody waits."""
    occupy_stdio()
    reset_signals()
    set_dumpable(False)
    no_new_privs()
    gc.freeze()
    gc.enable()


def init_of(config: dict[str, Any], fds: dict[str, Any]) -> Init:
    """Pid 1 as the plan wants it; what is wrong with that is told to whoever waits for the launch, if somebody does still."""
    try:
        return Init(config, fds)
    except Exception as error:
        if "broken" in fds and fds["broken"](error):
            os._exit(1)
        raise


def occupy_stdio() -> None:
    """Keep 0, 1 and 2 taken: a child's stdio is laid over them, so none of ours may lie there."""
    while True:
        fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        if fd > 2:
            os.close(fd)
            return


def reset_signals() -> None:
    """Every signal to its default and none blocked but SIGCHLD, which is read from a descriptor.

    As pid 1 a default is to ignore what comes from inside, even SIGKILL (pid_namespaces(7)), whereas a handler, as Python's
    own for SIGINT, would make `kill -INT 1` real.
    """
    default_all()
    _signal.set_wakeup_fd(-1)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, awaited())


def awaited() -> tuple[int, ...]:
    """The signals that are read from a descriptor: without a pid namespace SIGTERM is how we hear that our guard is gone."""
    return (_signal.SIGCHLD,) if os.getpid() == 1 else (_signal.SIGCHLD, _signal.SIGTERM)


class Init:
    """Everything pid 1 holds."""

    __slots__ = ("children", "control", "denials", "dialer", "loop", "names", "services", "sessions", "walls")

    def __init__(self, config: dict[str, Any], fds: dict[str, Any]) -> None:
        self.loop = Loop()
        self.control: Control | None = None
        exits = ExitFile(fds.get("exits", -1))
        self.services = Services(self.loop, exits, int(config.get("log_limit") or LOG_LIMIT), self.tell)
        self.services.birth = Birth(fds.get("group", -1), sift=bool(config.get("sift")))
        # Before anything runs that could reach for them.
        ways = open_forwards(config.get("forward") or []) + open_paths(config.get("paths") or [])
        start_all(self.services, config, fds)
        # From here on nobody waits for the first exec: what it does not need is made only now. SIGCHLD was blocked before; what
        # is refused to it waits for its answer, and what it writes lies in its pipe.
        self.denials = Denials(self.loop, config.get("refusals", ""), fds.get("refused", -1), self.tell)
        log_all(self.services, fds.get("logs", {}))
        self.sessions = Sessions(self.loop, self.services, self.tell)
        self.dialer = Dialer(self.loop, fds["dial"], fds.get("ways", []) + ways) if fds.get("dial", -1) >= 0 else None
        for name, given in fds.get("attach", {}).items():
            self.join_at_start(self.services.add(name, None), given, config.get("slow", {}).get(name, "drop"))
        self.children = signalfd(set(awaited()))
        self.loop.watch(self.children, READ, self.woken)
        self.loop.after(0, self.reap)  # who ended before
        self.walls = fds.get("proven", [])
        self.names = {"id": config.get("id"), "name": config.get("name")}
        self.control = Control(self.loop, fds["control"], self.hello, self.do)
        self.loop.after(TRIM_AFTER, trim)  # the plan and what it took to start

    def serve(self, launched: Callable[[Message], None] | None) -> NoReturn:
        """Serve for ever. launched: is told first that all runs, when nothing else is left to be done: whoever hears it takes a
        core, which may be that of the first program."""
        if launched is not None:
            self.services.hear_all()  # of the first one's exec: to vfork is to wait for it
            self.loop.turn(0)
            launched(self.all_there_is())
        while True:
            self.loop.turn()

    def tell(self, event: Message) -> None:
        """Events before the first client can be there go to nobody."""
        if self.control is not None:
            self.control.tell(event)

    # -- reaping ---------------------------------------------------------------------------------------------------------

    def woken(self, _events: int) -> None:
        """Some child ended, ours or one that was orphaned inside."""
        if _signal.SIGTERM in read_signals(self.children):
            end_all()
            os._exit(0)
        self.denials.report()  # who hears of an end has heard of what came before
        self.reap()

    def reap(self) -> None:
        """Wait for what has ended, in batches: a storm of orphans must not keep the rest from being served."""
        for _ in range(REAP_BATCH):
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            self.sessions.about_to_reap(found.si_pid)
            pid, wait_status = os.waitpid(found.si_pid, 0)
            try:
                if pid in self.services.by_pid:
                    self.services.ended(pid, wait_status)
                elif pid in self.sessions.by_pid:
                    self.sessions.ended(pid, wait_status)
            except Exception as error:  # whatever was wrong with one, the others are to be reaped
                complain(f"the end of {pid}", error)
        self.loop.after(0, self.reap)

    # -- calls -----------------------------------------------------------------------------------------------------------

    def do(self, call: Call) -> None:
        """Find what is asked for and do it; raises SandboxdError."""
        op = call.asked.get("op")
        act = OPS.get(op) if isinstance(op, str) else None
        if act is None:
            raise NotFound(f"init knows no call {op!r}", hint="daemon and init are of different versions")
        try:
            act(self, call)
        except (KeyError, TypeError, ValueError) as error:
            raise SpecInvalid(f"call {op!r} lacks something or has it wrong: {error!r}") from None

    def hello(self) -> Message:
        """Who we are, the status, and what a daemon wants to know that finds us without a record of our launch."""
        refused = {"refused": self.denials.all()} if self.denials.table else {}
        raised = {"walls": self.walls, "netns_cookie": netns_cookie()}
        return {**self.names, **raised, "status": self.all_there_is(), **refused}

    def all_there_is(self) -> Message:
        """All services and sessions."""
        services = self.services.by_name
        return {
            "services": {name: service.status() for name, service in services.items()},
            "failed": {name: error_to(service.error) for name, service in services.items() if service.error is not None},
            "sessions": self.sessions.status(),
        }

    def status(self, call: Call) -> None:
        """As in the greeting, later."""
        call.answer(self.all_there_is())

    def start(self, call: Call) -> None:
        """Start a service, with its log files and perhaps somebody attached."""
        asked = mapped(call.asked["service"], "service")
        logs = (call.fds.pop("log.0"), call.fds.pop("log.1")) if "log.1" in call.fds else None
        service = self.services.add(str(asked["name"]), logs)
        given = {name.partition(".")[2]: call.fds[name] for name in call.fds if name.startswith("attach.")}

        def then(error: SandboxdError | None) -> None:
            if error is None:
                call.answer({"pid": service.pid})
            else:
                call.refuse(error)

        self.services.start(service, asked, then)
        for name in given:
            call.fds.pop(f"attach.{name}")
        self.join_at_start(service, given, call.asked.get("slow", "drop"))

    def join_at_start(self, service: Service, fds: dict[str, int], slow: str) -> None:
        """The session that was opened with the service; its end of input is the service's."""
        if fds:
            old = self.sessions.attached.get(f"attach:{service.name}")
            if old is not None:  # still passing on what an earlier run wrote
                self.sessions.detach(old)
            session = Attachment(f"attach:{service.name}", service)
            # ctrl-p ctrl-q closes a terminal's input too, and that leaves the service running
            is_terminal = service.program is not None and service.program.tty
            self.sessions.join(session, fds, waits=slow == "wait", once=not is_terminal)
            if not service.is_alive:
                self.sessions.service_ended(service, None)

    def signal(self, call: Call) -> None:
        """Signal a service, a session, or all there is but ourselves."""
        target, signum = str(call.asked["target"]), int(call.asked["signum"])
        if not 0 <= signum < _signal.NSIG:
            raise SpecInvalid(f"there is no signal {signum}")
        kind, _, name = target.partition(":")
        if target == "all":
            try:
                if os.getpid() == 1:
                    os.kill(-1, signum)  # all of this pid namespace but pid 1 (kill(2))
                else:
                    signal_all(signum)  # kill(-1) would be all that this user runs
            except ProcessLookupError:
                pass
        elif kind == "service":
            service = self.services.get(name)
            if not service.is_alive or service.pid is None:
                raise NotFound(f"service {name} does not run")
            terminal = service.program is not None and service.program.tty
            send_signal(service.pid, signum, group=bool(call.asked.get("group")), terminal=terminal)
        elif kind == "session":
            self.sessions.signal(self.sessions.get(name), signum, group=bool(call.asked.get("group")))
        else:
            raise NotFound(f"no target {target}", hint="service:NAME, session:ID or all")
        call.answer({})

    def exec(self, call: Call) -> None:
        """Execute a command and give its stdio away."""

        def then(execution: Execution, error: SandboxdError | None) -> None:
            if error is not None:
                call.refuse(error)
                return
            fds, execution.stdio.ours = execution.stdio.ours, {}
            opened = {"session": execution.id, "pid": execution.pid}
            call.answer(opened, fds, lost=lambda: self.sessions.close(execution.id, CLOSE_GRACE))

        self.sessions.execute(call.asked["request"], then)

    def attach(self, call: Call) -> None:
        """Join a service's stdio."""
        service = self.services.get(str(call.asked["service"]))
        waits = call.asked.get("slow") == "wait"
        session, fds = self.sessions.attach(service, stdin=bool(call.asked.get("stdin")), waits=waits)
        opened = {"session": session.id, "pid": service.pid}
        call.answer(opened, fds, lost=lambda: self.sessions.close(session.id, CLOSE_GRACE))

    def resize(self, call: Call) -> None:
        """Set a terminal's window."""
        kind, _, name = str(call.asked["target"]).partition(":")
        rows, cols = (max(1, min(int(call.asked[key]), 0xFFFF)) for key in ("rows", "cols"))
        if kind == "service":
            self.services.resize(self.services.get(name), rows, cols)
        else:
            self.sessions.resize(self.sessions.get(name), rows, cols)
        call.answer({})

    def close_session(self, call: Call) -> None:
        """End a session; one that has ended already is fine."""
        self.sessions.close(str(call.asked["session"]), float(call.asked.get("grace", CLOSE_GRACE)))
        call.answer({})

    def diag(self, call: Call) -> None:
        """A socket that sees what listens inside."""
        try:
            call.answer({}, {"diag": open_diag().detach()})
        except OSError as error:
            raise KernelError(error.errno or 0, "socket", "NETLINK_SOCK_DIAG") from error

    def segments(self, call: Call) -> None:
        """A descriptor that tells of this ipc namespace's shared memory, to whoever reads it (proc_sysvipc(5))."""
        try:
            call.answer({}, {"shm": os.open(SEGMENTS, os.O_RDONLY | os.O_CLOEXEC)})
        except OSError as error:
            raise KernelError(error.errno or 0, "open", SEGMENTS) from error


OPS = {
    "status": Init.status,
    "start": Init.start,
    "signal": Init.signal,
    "exec": Init.exec,
    "attach": Init.attach,
    "resize": Init.resize,
    "close_session": Init.close_session,
    "diag": Init.diag,
    "segments": Init.segments,
}
