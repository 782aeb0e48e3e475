"""The daemon's side of the launcher: asks for parked children, keeps a pool of them, and gives one a plan.

Asyncio by callbacks and futures: nothing runs detached. The pool lives here. A child's socket and pidfd come over the
launcher's socket once; a launch then talks to that child directly, so that neither the launcher nor any fork, import or
namespace is in its way, and the pool is filled again once the reply is there. A parked child fits a plan when profile and
base are equal; where none fits, one is made first. Whoever holds a child and does not launch it kills it, so nothing
half-made stays.
"""

import asyncio
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sandboxd.errors import KernelError, LaunchFailed, SandboxdError
from sandboxd.isolation.facts import HostFacts
from sandboxd.isolation.parking import parts
from sandboxd.isolation.plan import LaunchPlan, default_profile, default_walls
from sandboxd.isolation.view import base_steps
from sandboxd.kernel import fds, pidfd
from sandboxd.launch.groups import Groups
from sandboxd.launch.initevents import as_init_status
from sandboxd.launch.interpreter import interpreter
from sandboxd.launch.line import Line, Message, framed
from sandboxd.launch.making import Take, made_for
from sandboxd.launch.orders import Orders
from sandboxd.launch.parcel import InitFds, described, hand_over, init_half, stager_half
from sandboxd.launch.parked import (
    Launched,
    Parked,
    Shape,
    demand,
    failure_of,
    gone,
    missing,
    shape_of,
    surplus,
    unreceived,
)
from sandboxd.launch.probes import look_at_layout
from sandboxd.launch.talk import ORDER

PROGRAM = Path(__file__).with_name("launcher.py")
ROOM = "-" * 64  # an argument that does nothing but give titles room in the memory of argv
# Seconds. A launch takes milliseconds, but a file system that it shows may hang; a start is a third of what the unit gives one.
START_TIMEOUT, LAUNCH_TIMEOUT = 60.0, 30.0
# No docstrings and no columns for tracebacks: they lie between what every env's pid 1 writes to (measured: 0.3 MB each). Nor
# what compiling leaves behind, so what was compiled is kept; -I would look for it beside the source, which may not be ours.
LEAN = ("-I", "-S", "-OO", "-X", "no_debug_ranges", "-X")
CACHE = "pycache"
# Seconds after a launch: to make the next parked child takes a core for some milliseconds, and so does the env's own start
# (measured on 2 cores: 3 ms later to exec when both are done at once).
QUIET = 0.1
CROWD = len(os.sched_getaffinity(0))  # so many launches at once leave no core for what is made ahead
SETTLE = 0.5  # seconds; mounts come in bursts, and each change makes every parked child stale


class Launcher:
    """One launcher program and the children it has parked. on_death: called once when the program ends unasked."""

    def __init__(self, process: "subprocess.Popen[bytes]", control: socket.socket, *, pool: int) -> None:
        self.process = process
        self.on_death: Callable[[], None] | None = None
        self.usual, self.launching = pool, 0
        self.kept: Mapping[Shape, int] = {}  # of shapes of their own, besides the usual number of those like the last one
        self.boot_id = pidfd.boot_id()
        self.parked: list[Parked] = []
        self.asked: list[tuple[Shape, Take, str]] = []  # with the path of its control group
        self.shape: Shape | None = None
        self.groups: Groups | None = None
        self.failure: SandboxdError | None = None
        self.settling: asyncio.TimerHandle | None = None
        self.filling: asyncio.TimerHandle | None = None
        self.loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = self.loop.create_future()
        self.line = Line(self.loop, control, self.heard, self.ended)
        self.orders = Orders(self.loop, self.line.put)
        self.mountinfo = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self.changes = select.poll()
        self.changes.register(self.mountinfo, select.POLLPRI)

    @classmethod
    async def start(
        cls,
        *,
        pool: int,
        log: Path,
        host: HostFacts | None = None,
        prefix: Sequence[str] = (),
        init: str = "sandboxd.launch.init",
        path: str = "",
    ) -> "Launcher":
        """Start the program; raises LaunchFailed when it does not come up. The pool then fills by itself.

        host: its layout and procfs are what the pool is made for (None: the layout is looked at here, procfs taken as whole).
        prefix: a command that sets something up and then becomes the program (daemon.scopes).
        init, path: the module that becomes pid 1 and a directory to find it in, for tests.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = spawn(theirs.fileno(), log, ["--init", init, *(["--path", path] if path else [])], prefix)
        launcher = cls(process, ours, pool=pool)
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await launcher.ready
        except (TimeoutError, LaunchFailed) as error:
            launcher.close()
            raise LaunchFailed("the launcher did not come up", hint=f"see {log}", step="launcher", errno=0) from error
        except BaseException:
            launcher.close()
            raise
        launcher.shape = usual(host)
        launcher.fill()
        return launcher

    def begin(self, groups: Groups | None, host: HostFacts, *, pool: int) -> None:
        """Have that many children parked, each in a control group of its own where there are some."""
        self.groups, self.usual, self.shape = groups, pool, usual(host)
        self.fill()

    @property
    def pid(self) -> int:
        """The launcher program's."""
        return self.process.pid

    @property
    def wanted(self) -> int:
        """How many parked children are to be kept."""
        return sum(self.targets().values())

    @property
    def pool(self) -> int:
        """How many parked children are ready now."""
        return sum(child.is_ready for child in self.parked)

    def ready_of(self, shape: Shape | None) -> int:
        """Those of that shape."""
        return sum(child.is_ready and child.shape == shape for child in self.parked)

    async def launch(
        self, plan: LaunchPlan, given: Callable[[int], InitFds], limit: Callable[[str], None] | None = None
    ) -> Launched:
        """Make that env: a parked child applies the plan and becomes its init. Raises LaunchFailed; nothing half-made stays.

        given: opens what its init gets, called while a child is cloned or its view built, with the cookie of its network, or 0.
        limit: is given the path of its control group, to limit it before anything of the env runs; what it raises ends it all.
        """
        self.notice_mounts()
        taken = parts(plan.steps, parked=plan.profile.namespaces)
        shape = shape_of(plan.profile, plan.base, taken.ahead)
        child, own = None, None
        trees: list[int] = []
        self.launching += 1
        try:
            trees += hand_over(plan)
            staged = stager_half(taken.view, trees)
            async with asyncio.timeout(LAUNCH_TIMEOUT):
                child = self.take(shape)
                if child is None:
                    child, own = await made_for(lambda take: self.park(shape, take), lambda: init_half(plan, taken, given(0)))
                child.begin(staged)
                if limit is not None and child.group:
                    limit(child.group)
                answer = await child.launch(own or init_half(plan, taken, given(child.netns_cookie)))
            if answer.get("launched") is not True:
                raise failure_of(f"env {plan.name}", described(plan, taken, answer), answer)
            proven = frozenset(map(str, answer.get("walls", ())))
            demand(plan, proven)
            # What may fail (EMFILE, what is no status) is done before it is nobody's to kill.
            started = pidfd.start_time(child.pid) or 0
            status = as_init_status(answer["status"]) if answer.get("status") is not None else None
            return Launched(
                diag=child.give_diag(),
                pid=child.pid,
                pidfd=child.release(),
                start_time=started,
                boot_id=self.boot_id,
                netns_cookie=child.netns_cookie,
                walls=proven,
                status=status,
                group=child.group,
                shape=shape,
            )
        except TimeoutError as error:
            raise LaunchFailed(
                f"env {plan.name} was not built within {LAUNCH_TIMEOUT:.0f} s",
                hint="one of the file systems it shows may hang",
                step="timeout",
                errno=0,
            ) from error
        finally:
            fds.close_all(trees)
            if child is not None:
                child.kill()
            if self.shape is not None and shape[0] == self.shape[0]:
                self.shape = shape  # the pool is for envs like the last one: the host's layout may have changed
            self.failure, self.launching = None, self.launching - 1
            if self.filling is None:
                self.filling = self.loop.call_later(QUIET, self.fill)

    def expect(self) -> None:
        """An env will be asked for in a moment: begin its child now if none is parked, while the caller is still planning."""
        if self.shape is not None and not self.asked and not any(child.shape == self.shape for child in self.parked):
            self.failure = None
            self.ask(self.shape, self.adopt, is_awaited=True)

    def resize(self, pool: int, kept: Mapping[Shape, int] | None = None) -> None:
        """Keep that many parked from now on, and of these shapes at least so many; those that are too many end now."""
        if (pool, kept or {}) == (self.usual, self.kept):
            return
        self.usual, self.kept = pool, kept or {}
        for child in surplus(self.parked, self.targets()):
            self.drop(child)
        if self.filling is None:
            self.filling = self.loop.call_later(QUIET, self.fill)

    def close(self) -> None:
        """End the program and every parked child; envs live on."""
        self.on_death = None
        self.shape = None
        self.line.close()
        for timer in (self.settling, self.filling):
            if timer is not None:
                timer.cancel()
        for child in [*self.parked]:
            self.drop(child)
        asked, self.asked = self.asked, []
        for _, take, _ in asked:
            take(gone())
        if not self.ready.done():
            self.ready.cancel()
        self.process.kill()
        self.process.wait()
        if self.mountinfo >= 0:
            os.close(self.mountinfo)
            self.mountinfo = -1

    # -- the pool --------------------------------------------------------------------------------------------------------

    def fill(self) -> None:
        """Ask for what the pool lacks, one after another; after a failure, or for who waits now, not before a launch's end."""
        self.filling = None
        targets = self.targets()
        for child in [child for child in self.parked if child.shape not in targets]:
            self.drop(child)
        if self.failure is not None or self.launching >= CROWD:
            return
        is_coming = any(take == self.adopt for _, take, _ in self.asked) or not all(child.is_ready for child in self.parked)
        shape = None if is_coming else missing(self.parked, targets)
        if shape is not None:
            self.ask(shape, self.adopt, is_awaited=False)

    def targets(self) -> dict[Shape, int]:
        """How many are to be parked of each shape, the usual one first."""
        if self.shape is None:
            return {}
        return {self.shape: max(self.usual, self.kept.get(self.shape, 0))} | {
            shape: count for shape, count in self.kept.items() if shape != self.shape
        }

    def adopt(self, made: Parked | SandboxdError) -> None:
        """A child for the pool, or why there is none."""
        if isinstance(made, SandboxdError):
            self.failure = made
        else:
            made.on_change = self.changed
            self.parked.append(made)

    def changed(self, child: Parked) -> None:
        """A parked child became ready, or is lost; one that never was ready would only fail again."""
        if child.answer.done():
            if not child.is_ready:
                self.failure = failure_of("the pool", [], child.answer.result())
            self.drop(child)
        self.fill()

    def take(self, shape: Shape) -> Parked | None:
        """The oldest parked child that fits, out of the pool; one that is still building its base is better than a new one."""
        child = next((child for child in self.parked if child.is_ready and child.shape == shape), None)
        child = child or next((child for child in self.parked if child.shape == shape), None)
        if child is not None:
            child.on_change = None
            self.parked.remove(child)
        return child

    def drop(self, child: Parked) -> None:
        """End a parked child."""
        self.parked.remove(child)
        child.kill()

    def park(self, shape: Shape, take: Take) -> None:
        """Have one made for who waits, or given to him that the pool asked for."""
        coming = next((n for n, asked in enumerate(self.asked) if asked[:2] == (shape, self.adopt)), -1)
        if coming < 0:
            self.ask(shape, take, is_awaited=True)
        else:
            self.asked[coming] = (shape, take, self.asked[coming][2])

    def notice_mounts(self) -> bool:
        """Give up the pool when the host's mounts changed: a parked child's view is older."""
        changed = bool(self.changes.poll(0))
        if changed:
            for child in [*self.parked]:
                self.drop(child)
        return changed

    # -- the program -----------------------------------------------------------------------------------------------------

    def ask(self, shape: Shape, take: Take, *, is_awaited: bool) -> None:
        """Request one child; `take` has it once the launcher has cloned it. is_awaited: its plan will be there in a moment."""
        if not self.line.is_open:
            take(gone())
            return
        try:
            group = self.groups.new(shape[0].uid[1]) if self.groups is not None else ""
        except KernelError as error:
            take(LaunchFailed(f"no control group could be made: {error}", step="control group", errno=error.errno or 0))
            return
        self.asked.append((shape, take, group))
        (who, base, ahead), path = shape, group.encode()
        head = ORDER.pack(who.namespaces, who.network, who.root, is_awaited, *who.uid, *who.gid, len(path), len(ahead))
        self.orders.put(framed(head + path + ahead + base))

    def heard(self, message: Message) -> None:
        """A frame of the launcher's: it is up, the host's mounts changed, or the answer to the oldest request."""
        if "ready" in message:
            if not self.ready.done():
                self.ready.set_result(None)
        elif message.get("event") == "mounts":
            if self.settling is None:
                self.settling = self.loop.call_later(SETTLE, self.settle)
        elif self.asked:
            shape, take, group = self.asked.pop(0)
            if "failed" in message:
                take(failure_of("an env", [], message))
                return
            if len(self.line.received) < 3:  # the child ends by itself: of its sockets no other end is left
                if self.groups is not None and group:
                    self.groups.release(group)
                take(unreceived())
                return
            process, *socks = self.line.received[:3]
            del self.line.received[:3]
            made = Parked(socks=socks, process=process, pid=int(message["pid"]), shape=shape)
            if self.groups is not None and group:
                made.group, made.leave_group = group, self.groups.release
            take(made)

    def settle(self) -> None:
        """The host's mounts changed a moment ago."""
        self.settling = None
        if self.notice_mounts():
            self.fill()

    def ended(self) -> None:
        """The program died, and with it everything that was parked."""
        report = self.on_death
        if not self.ready.done():
            self.ready.set_exception(gone())
        self.close()
        if report is not None:
            report()


def spawn(control: int, log: Path, arguments: list[str], prefix: Sequence[str]) -> "subprocess.Popen[bytes]":
    """The launcher program: nothing of ours inherited but its socket, a session of its own, no environment."""
    # The prefix may need to know where its service manager is; the launcher does not.
    outer, environ = ([*prefix, "env", "-i"], dict(os.environ)) if prefix else ([], {})
    cache = log.parent / CACHE
    kept = Path(f"{cache}{PROGRAM.parent}") / f"init.{sys.implementation.cache_tag}.opt-2.pyc"
    words = ["--fd", str(control), *arguments, "--room", ROOM, *([] if kept.exists() else ["--first", "1"])]
    with open(log, "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as output:
        return subprocess.Popen(
            [*outer, interpreter(), *LEAN, f"pycache_prefix={cache}", str(PROGRAM), *words],
            pass_fds=[control],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
            env=environ,
        )


def usual(host: HostFacts | None) -> Shape:
    """What the pool is made for at first."""
    layout, proc, abi = (host.layout, host.proc, host.landlock) if host else (look_at_layout(), "full", 0)
    base = base_steps(layout, proc, network=True, abi=abi, egress=host is not None and host.egress.offered)
    ahead = parts(default_walls(host), parked=True).ahead if host else []
    return shape_of(default_profile(os.geteuid(), os.getegid()), base, ahead)
