"""What the daemon holds of one live env (init's link and pidfd, probes, timers) and how each effect is carried out.

One method per effect of `lifecycle.events`; a test holds the table complete. Nothing here decides: what was seen goes back to
the actor as an event.
"""

import asyncio
import itertools
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from sandboxd.daemon import building, denials, freezing, limiting, linking, meeting, relinking
from sandboxd.daemon.readiness import Readiness
from sandboxd.daemon.timers import Timers
from sandboxd.errors import Internal, NotFound, SandboxdError, TimedOut, UsageError
from sandboxd.kernel import pidfd
from sandboxd.launch.initlink import (
    Closed,
    Denied,
    ExecFailed,
    InitEvent,
    InitLink,
    InitStatus,
    ServiceExited,
    SessionExited,
    Started,
)
from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.notebook import Notebook
from sandboxd.lifecycle.records import exit_code_of
from sandboxd.lifecycle.recovery import told
from sandboxd.specfile import words

if TYPE_CHECKING:
    from sandboxd.daemon.actor import Actor

log = logging.getLogger(__name__)
SESSIONS_KEPT = 256


class Body:
    """The live side of one env. unmet: the launch after which its init was not spoken with as yet."""

    def __init__(self, actor: "Actor") -> None:
        self.actor = actor
        self._link: InitLink | None = None
        self.unmet: building.Built | None = None
        self.pidfd = -1
        self.notebook = Notebook(actor.supervisor.tally.count)
        self.readiness = Readiness(actor)
        self.prepared_attach: dict[str, dict[str, int]] = {}
        self.prepared_window = (24, 80)
        self.config: dict[str, dict[str, object]] = {}
        self.unapplied = ""
        self.group = ""
        self.relinked = float("-inf")
        self._sessions: dict[str, asyncio.Future[int]] = {}
        self.attached: set[str] = set()
        self.greeting: InitStatus | None = None
        self.not_suspended: SandboxdError | None = None
        self.timers = Timers(actor.post)

    @property
    def last_signal(self) -> signal.Signals:
        """What ends the whole env: without a pid namespace its guard does the killing (launch.guard)."""
        return signal.SIGKILL if self.actor.record.spec.isolation.level == "full" else signal.SIGTERM

    @property
    def link(self) -> InitLink | None:
        """To its init; None while none runs. Whoever wants it has it: what was put off is done now."""
        if self.unmet is not None:
            meeting.introduce(self)
        return self._link

    @link.setter
    def link(self, link: InitLink | None) -> None:
        self._link = link

    async def perform(self, effect: ev.Effect) -> None:
        """Carry out one effect."""
        await PERFORM[type(effect)](self, effect)

    # -- building and its end ------------------------------------------------------------------------------------------

    async def enqueue(self, effect: ev.Enqueue) -> None:
        """Wait for the turn. Of the life before, which is told, nothing may be read as of the next (lifecycle.recovery)."""
        (self.actor.supervisor.rundir.env_dir(self.actor.record.id) / "exits").unlink(missing_ok=True)
        self.actor.supervisor.admission.offer(self.actor)

    async def launch(self, effect: ev.Launch) -> None:
        """Build the env, or post why it could not be built."""
        self.notebook.begin()
        for name in self.prepared_attach:  # of an earlier start
            self._sessions.pop(f"attach:{name}", None)
        try:
            launched = await building.build(self.actor, effect.start, self.prepared_attach)
            self.config = building.service_plans(launched.plan)
            for name in self.prepared_attach:
                self.open_session(f"attach:{name}", attached=True)
            self.group = launched.group
            self.readiness.take(launched.diag, launched.netns_cookie, launched.pid)
            await linking.meet(self, launched)
            self.actor.post(building.told(launched))
            self.report_status()
        except Exception as error:  # whatever it is: a start that ends without a word is waited for for ever
            if building.comes_back(error, self.actor.supervisor.missing):
                self.actor.supervisor.admission.exhausted()
                await self._end_launch()
                self.actor.post(ev.LaunchDeferred())
                return  # with the ends for whoever is attached, which go along when it starts
            await self._launch_failed(error)
        building.close_all(self.prepared_attach)

    async def _launch_failed(self, error: Exception) -> None:
        error = building.in_words(self.actor, error)
        if self.pidfd >= 0:
            # init is there but does not answer: it must not stay
            pidfd.send_signal(self.pidfd, self.last_signal)
        await self._end_launch()
        self.actor.post(ev.LaunchFailed(error=(error.code, error.message, error.hint)))

    async def _end_launch(self) -> None:
        await self.let_go()
        self.leave_group()
        await self._close_ports()

    async def _close_ports(self) -> None:
        """What a router that is gone listened on went with it; what a stuck one does not let go, the janitor takes."""
        try:
            await self.actor.supervisor.router.unpublish(self.actor.record.id)
        except (Internal, TimedOut) as error:
            log.warning("env %s: its published ports were not closed: %s", self.actor.record.name, error)

    def init_gone(self) -> None:
        """Its pidfd says that init has ended, and with it all of the env."""
        self._drop_pidfd()
        self.actor.supervisor.control.check(self.actor)
        for event in meeting.missed(self):
            self.actor.post(event)
        self.actor.post(ev.InitGone())

    def _drop_pidfd(self) -> None:
        if self.pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self.pidfd)
            os.close(self.pidfd)
            self.pidfd = -1

    def on_init_event(self, event: InitEvent) -> None:
        """What init tells."""
        match event:
            case Started(service=service, pid=pid):
                self.actor.post(ev.ServiceStarted(service=service, pid=pid))
            case ExecFailed(service=service, error=error):
                self.actor.post(ev.ServiceRefused(service=service, error=(error.code, error.message, error.hint)))
            case ServiceExited(service=service, pid=pid, wait_status=status):
                if status & 0x7F == signal.SIGKILL:
                    self.actor.supervisor.control.check(self.actor)  # before its end is taken for its own doing
                self.actor.post(ev.ServiceExited(service=service, pid=pid, exit_code=exit_code_of(status)))
            case SessionExited(session=session, wait_status=status):
                self._end_session(session, 137 if status is None else exit_code_of(status))
            case Denied(rows=rows):
                denials.note(self.actor, rows)
            case Closed():
                self.link = None
                relinking.mend(self, event)

    def has_session(self, session: str) -> bool:
        """Whether that session is open here."""
        return session in self._sessions and not self._sessions[session].done()

    def open_sessions(self) -> int:
        """How many are open: of exec, of attach, and of whoever ran it attached."""
        return sum(1 for ended in self._sessions.values() if not ended.done())

    def open_session(self, session: str, *, attached: bool = False) -> None:
        """Know a session from here on; attached: to a service, whose end it outlives until all was read."""
        self._session(session)
        if attached:
            self.attached.add(session)

    async def session_code(self, session: str) -> int:
        """Wait for a session's exit code, which may have been told before anybody asked. Who stops waiting ends nothing."""
        return await asyncio.shield(self._session(session))

    def _session(self, session: str) -> asyncio.Future[int]:
        return self._sessions.setdefault(session, asyncio.get_running_loop().create_future())

    def _end_session(self, session: str, code: int) -> None:
        self.attached.discard(session)
        ended = self._session(session)
        if not ended.done():
            ended.set_result(code)
        while len(self._sessions) > SESSIONS_KEPT:
            self._sessions.pop(next(iter(self._sessions)))

    def report_status(self, *, found: bool = False) -> None:
        """Post what init's greeting told: events may have passed before anybody listened. Twice told counts once. found: by a
        new daemon; then that first, and of which services there is news: what is told makes others start."""
        status, self.greeting = self.greeting, None
        if status is None:
            return
        self.actor.supervisor.control.check(self.actor)  # what a limit ended meanwhile did not end by itself
        for ended in self.attached - {session.get("session") for session in status.sessions}:
            self._end_session(ended, 0)  # over before anybody listened: all was read
        news: dict[str, list[ev.Event]] = {
            name: [ev.ServiceRefused(service=name, error=(error.code, error.message, error.hint))]
            for name, error in status.failed.items()
        }
        for name, service in status.services.items():
            code = None if service.wait_status is None else exit_code_of(service.wait_status)
            news.setdefault(name, told(self.actor.record, name, service.pid, code))
        if found:
            for session in status.sessions:  # who is attached has the descriptors, and hears all of it before the end
                if session.get("kind") == "attach":
                    self.open_session(str(session.get("session")), attached=True)
            self.actor.post(ev.Adopted(begun=[name for name, events in news.items() if events]))
        for event in itertools.chain.from_iterable(news.values()):
            self.actor.post(event)

    async def settle(self, effect: ev.Settle) -> None:
        """The env has ended: nobody may reach for it any more."""
        await self.let_go()
        self.leave_group()
        await self._close_ports()
        if not await self.actor.supervisor.router.release(self.actor.record.id):
            log.warning("env %s: the router did not confirm in time that it let go", self.actor.record.name)
        for session in list(self._sessions):
            self._end_session(session, 137)

    def leave_group(self) -> None:
        """Its control group goes; what it said last was read before."""
        group, self.group = self.group or self.actor.record.cgroup, ""
        self.actor.supervisor.control.release(self.actor.record.id, group)

    async def let_go(self) -> None:
        """Close what the daemon holds; the env itself is not touched."""
        await self.readiness.close()
        self.timers.disarm()
        self.unmet = None
        if self.link is not None:
            self.link.close()
            self.link = None
        self._drop_pidfd()

    async def discard(self, effect: ev.Discard) -> None:
        """Remove its directory and its record."""
        await self.actor.supervisor.discard(self.actor)

    # -- services ------------------------------------------------------------------------------------------------------

    async def start_service(self, effect: ev.StartService) -> None:
        """Have init execute it; the pid, or why not, comes back as an event."""
        name = effect.service
        if self.link is None:
            return
        try:
            pid = await building.start_service(self.actor, self.link, name)
        except NotFound:
            return  # init has ended; the pidfd tells
        except (SandboxdError, OSError) as error:
            refusal = building.in_words(self.actor, error)
            self.actor.post(ev.ServiceRefused(service=name, error=(refusal.code, refusal.message, refusal.hint)))
        else:
            self.actor.post(ev.ServiceStarted(service=name, pid=pid))

    async def signal_service(self, effect: ev.SignalService) -> None:
        """Its own stop signal, to its main process."""
        spec = self.actor.record.spec.services[effect.service]
        await self.send_signal(effect.service, signal_number(spec.stop_signal))

    async def send_signal(self, service: str, number: int) -> None:
        """Any signal, to a service's main process; one that has ended meanwhile is no error."""
        if self.link is None:
            return
        try:
            await self.link.signal(f"service:{service}", number)
        except NotFound:
            log.debug("service %s has ended before its signal", service)

    # -- sleep -----------------------------------------------------------------------------------------------------------

    async def suspend(self, effect: ev.Suspend) -> None:
        """Stop everything but init; how that went comes back as an event."""
        init = self.actor.record.init
        if init is None:
            return
        self.not_suspended = None
        try:
            own_pids = self.actor.record.spec.isolation.level == "full"
            tree = await freezing.stop(self.group, init.pid, self.link if own_pids else None, again=effect.again)
        except (SandboxdError, OSError) as error:
            self.not_suspended = error if isinstance(error, SandboxdError) else Internal(f"stopping it failed: {error}")
            self.actor.post(ev.SuspendFailed(reason=self.not_suspended.message))
            return
        if not effect.again:
            self.actor.post(ev.Suspended(detail={"processes": str(len(tree))}))
            self.actor.supervisor.own(self._give_back(tree), name=f"reclaim-{self.actor.record.name}")

    async def _give_back(self, tree: list[freezing.Process]) -> None:
        memory = await asyncio.to_thread(freezing.give_back, tree, self.group)
        self.actor.supervisor.announce(self.actor.record, "reclaimed", {"memory": memory})

    async def resume(self, effect: ev.Resume) -> None:
        """Let it run on. The router hears of it first, and dials while the signals go out."""
        init = self.actor.record.init
        self.actor.supervisor.push_routes()
        if init is not None:
            freezing.resume(self.group, init.pid)

    async def kill_init(self, effect: ev.KillInit) -> None:
        """With pid 1 the kernel kills the whole pid namespace (pid_namespaces(7)); without one the guard does as much."""
        if self.pidfd < 0:
            self.actor.post(ev.InitGone())
            return
        for path in self.look_at_guards():
            self.actor.supervisor.announce(self.actor.record, "unguarded", {"path": path})
        pidfd.send_signal(self.pidfd, self.last_signal)

    def look_at_guards(self) -> list[str]:
        """Files that somebody outside obeys and the env can write; of an env that has ended, as they were at its end."""
        try:
            if self.pidfd >= 0:
                self.notebook.unguarded = building.unguarded_of(self.actor.record)
        except OSError:
            log.debug("env %s has ended before its guards were looked at", self.actor.record.name)
        return self.notebook.unguarded

    async def end_init(self, effect: ev.EndInit) -> None:
        """As kill_init, once the attached sessions are through: what a service said at its end is still on its way to them."""
        open_ones = [session for session in self.attached if self.has_session(session)]
        if open_ones:
            self.actor.supervisor.own(self._end_after(open_ones), name=f"end-{self.actor.record.name}")
        else:
            await self.kill_init(ev.KillInit())

    async def _end_after(self, sessions: list[str]) -> None:
        pid_1 = self.pidfd
        await asyncio.gather(*(self.session_code(session) for session in sessions))
        if self.pidfd == pid_1 and pid_1 >= 0:
            await self.kill_init(ev.KillInit())

    async def probe(self, effect: ev.Probe) -> None:
        """Watch for readiness."""
        self.readiness.watch(effect.service)

    async def end_probes(self, effect: ev.EndProbes) -> None:
        """Stop watching."""
        await self.readiness.forget(effect.service)

    async def apply_limits(self, effect: ev.ApplyLimits) -> None:
        """The record's limits, on what runs; `unapplied` says what the kernel refused."""
        self.config = {}  # services that are started from here on are planned anew
        self.unapplied = limiting.apply(self.actor)

    # -- timers and news -----------------------------------------------------------------------------------------------

    async def arm(self, effect: ev.Arm) -> None:
        """A timer of that name replaces an earlier one."""
        self.timers.arm(effect.timer, effect.after, effect.event)

    async def disarm(self, effect: ev.Disarm) -> None:
        """Forget it, or all of them."""
        self.timers.disarm(effect.timer)

    async def announce(self, effect: ev.Announce) -> None:
        """Tell those who listen, and the journal."""
        self.actor.supervisor.announce(self.actor.record, effect.event, effect.detail)


def signal_number(text: str) -> int:
    """TERM, SIGTERM or 15; raises UsageError."""
    number = words.signal_number(text)
    if number is None:
        raise UsageError(f"{text!r} is no signal", hint="a name as TERM or SIGTERM, or its number")
    return number


PERFORM: dict[type[ev.Effect], Callable[[Body, Any], Awaitable[None]]] = {
    ev.Enqueue: Body.enqueue,
    ev.Launch: Body.launch,
    ev.StartService: Body.start_service,
    ev.Probe: Body.probe,
    ev.EndProbes: Body.end_probes,
    ev.SignalService: Body.signal_service,
    ev.Suspend: Body.suspend,
    ev.Resume: Body.resume,
    ev.KillInit: Body.kill_init,
    ev.EndInit: Body.end_init,
    ev.Arm: Body.arm,
    ev.Disarm: Body.disarm,
    ev.ApplyLimits: Body.apply_limits,
    ev.Settle: Body.settle,
    ev.Discard: Body.discard,
    ev.Announce: Body.announce,
}
