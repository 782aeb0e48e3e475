"""The queue before the launcher: lets envs start one by one while ceilings and the host's memory allow, and guards that memory.

`lifecycle.admission` decides. Every change of an env's state may make room; memory tells nobody when it comes back, so while
something waits it is looked at again. In the emergency (memory below the critical bound) the runaway among the envs is stopped.
"""

import asyncio
import contextlib
import logging
import os
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sandboxd.daemon.quotas import Quotas
from sandboxd.errors import QueueFull, SandboxdError
from sandboxd.kernel.pidfd import contents
from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.admission import Ceilings, Host, Load, Obstacle, Queue, Ticket, Use, is_critical, obstacle, runaway
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.states import ALIVE, ENDED, State
from sandboxd.units import format_size

if TYPE_CHECKING:
    from sandboxd.daemon.actor import Actor
    from sandboxd.daemon.supervisor import Supervisor
    from sandboxd.daemon.watch import Watch

log = logging.getLogger(__name__)
MEMORY = re.compile(rb"MemTotal:\s+(\d+) kB.*MemAvailable:\s+(\d+) kB", re.DOTALL)
STALLED = re.compile(rb"full avg10=([\d.]+)")
CALM, CLOSE = 1.0, 0.1  # seconds between looks at the host's memory
RETRY = 5
EXHAUSTED_FOR = 0.2  # teardown of a network namespace takes tens of milliseconds, and one may come back before the others


class Admission:
    """Those that wait, in memory; their records say that they do."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self.supervisor = supervisor
        self._queue = Queue()
        self.ceilings = ceilings(supervisor)
        self.quotas = Quotas(supervisor)
        self._last: int | None = None
        self._groups: dict[int, str] = {}
        self._ends: dict[str, float] = {}  # of those that wait: when they do so no longer (monotonic)
        self._watching = False
        self._due = False
        self._exhausted_until = 0.0
        self._host = (time.monotonic(), host_memory())
        self._look: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> Mapping[str, Ticket]:
        """Who waits, by env."""
        return self._queue.tickets

    def settings_changed(self) -> None:
        """Other ceilings hold from now on: what waits may have room."""
        self.ceilings = ceilings(self.supervisor)
        self.quotas.settings_changed()
        self.changed()

    # -- asking ----------------------------------------------------------------------------------------------------------

    def obstacle(self, record: EnvRecord) -> Obstacle | None:
        """What keeps it from starting now."""
        if self.supervisor.end_all:
            return Obstacle("leaving", "sandboxd is about to end", "it starts with the next daemon")
        roll = self.supervisor.roll
        if met := self.quotas.over(record, roll.admitted):
            return Obstacle(*met)
        load = Load(
            alive=roll.alive,
            starting=roll.starting(self.supervisor.clock.now()),
            memory=roll.memory,
            parked=self.supervisor.launcher.wanted,
            exhausted=time.monotonic() < self._exhausted_until,
        )
        return obstacle(self.ceilings, load, self.host(), record.limits.memory)

    def host(self) -> Host:
        """The host's memory, not older than a moment; while there is plenty, not older than the guard's last look."""
        seen, host = self._host
        if time.monotonic() - seen > (CLOSE if self.is_tight(host) else 1.5 * CALM):
            self.look()
        return self._host[1]

    def is_tight(self, host: Host) -> bool:
        """Whether memory may run out from one moment to the next."""
        least = 3 * max(self.ceilings.critical, self.ceilings.reserve)
        return host.available < least or (host.pressure or 0.0) >= self.ceilings.pressure[0] / 4

    def look(self) -> None:
        """Look at the host's memory; while no file can be opened (EMFILE) what was seen last holds."""
        self._look = None
        with contextlib.suppress(OSError):
            self._host = (time.monotonic(), host_memory())

    def look_soon(self) -> None:
        """An env starts: what it takes is to be seen by the next. Two files of /proc take a twentieth of a launch."""
        if self._look is None:
            self._look = asyncio.get_running_loop().call_later(CLOSE, self.look)

    def at_once(self, record: EnvRecord) -> bool:
        """Whether a new env may start without waiting; raises QuotaExceeded, or QueueFull when it cannot even wait."""
        self.quotas.check(record)
        if not self.waiting and self.obstacle(record) is None:
            self.look_soon()
            return True
        if len(self.waiting) >= self._places(record):
            raise self.full(record)
        return False

    def _places(self, record: EnvRecord) -> int:
        """How many may wait when this one comes: of many users one has half of what the others leave."""
        most = self.supervisor.settings.queue
        if not record.user:
            return most
        others = sum(1 for ticket in self.waiting.values() if ticket.owner != record.owner)
        return others + (most - others + 1) // 2

    def full(self, record: EnvRecord, waited: float | None = None) -> QueueFull:
        """Why it may not start, and what to do."""
        found = self.obstacle(record) or Obstacle("queue", "others are before it", "try again")
        why = f"{len(self.waiting)} wait already" if waited is None else f"it waited for {waited:.0f} s"
        if not self.supervisor.settings.queue:
            why = "none may wait (SANDBOXD_QUEUE=0)"
        text = f"{found.text}; {why}"
        return QueueFull(text, hint=found.hint, limit=found.limit, retry_after=RETRY)

    # -- waiting ---------------------------------------------------------------------------------------------------------

    def offer(self, actor: "Actor") -> None:
        """An env wants to start."""
        record = actor.record
        group = f"{record.template} {record.source}" if record.template else ""
        ticket = Ticket(record.id, record.owner, record.queued or record.created, group)
        waited = max(0.0, self.supervisor.clock.now() - max(ticket.since, self.supervisor.clock.began))
        self._queue.add(ticket)
        self._ends[record.id] = time.monotonic() + self.supervisor.settings.queue_wait - waited
        self._pump()
        if record.id in self.waiting:
            found = self.obstacle(record)
            self.supervisor.announce(record, "queued", {"limit": found.limit, "reason": found.text} if found else {})
            if not self._watching:
                self._watching = True
                self.supervisor.own(self._watch(), name="queue")

    def exhausted(self) -> None:
        """The kernel has no namespace left: nothing starts for a moment."""
        self._exhausted_until = time.monotonic() + EXHAUSTED_FOR

    async def _watch(self) -> None:
        """Look again while any waits, as nobody tells when memory is free again; give up what waited for too long."""
        while self.waiting:
            now = time.monotonic()
            for env_id in [env_id for env_id in self.waiting if now >= self._ends[env_id]]:
                self._queue.remove(env_id)
                actor = self.supervisor.actors.get(env_id)
                if actor is not None:
                    error = self.full(actor.record, self.supervisor.settings.queue_wait)
                    actor.post(ev.LaunchFailed(error=(error.code, error.message, error.hint)))
            self._ends = {env_id: end for env_id, end in self._ends.items() if env_id in self.waiting}
            soonest = min(self._ends.values(), default=now)
            await asyncio.sleep(min(CALM / 4, max(0.01, soonest - now)))
            self._pump()
        self._watching = False

    def changed(self) -> None:
        """Something changed that may make room."""
        if self.waiting and not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Admit whose turn it is, as long as there is room."""
        self._due = False
        aside, unfit = [], set()
        while self.supervisor.adopted and (ticket := self._queue.next(self._last, self._groups)) is not None:
            actor = self.supervisor.actors.get(ticket.env_id)
            if actor is not None and actor.record.state is State.QUEUED:
                if ticket.owner in unfit or self.quotas.over(actor.record, self.supervisor.roll.admitted):
                    aside.append(ticket)  # whose quota is met keeps nobody else waiting
                elif (found := self.obstacle(actor.record)) is not None and found.limit == "memory":
                    unfit.add(ticket.owner)  # nor does who asks for more than is left: it is his own that wait behind it
                    aside.append(ticket)
                elif found is not None:
                    break
                else:
                    self._last = ticket.owner
                    self._groups[ticket.owner] = ticket.group
                    self.supervisor.roll.admit(actor.record)
                    self.look_soon()
                    actor.post(ev.Admitted())
            self._queue.remove(ticket.env_id)
        for ticket in aside:
            self._queue.put_back(ticket)

    def note(self, record: EnvRecord) -> None:
        """An env has changed: what is not queued any more waits for nothing."""
        if record.state is not State.QUEUED:
            self._queue.remove(record.id)

    # -- the host's memory -----------------------------------------------------------------------------------------------

    async def guard(self, watch: "Watch") -> None:
        """Stop the runaway when the host is about to run out of memory, until the daemon leaves."""
        while True:
            self.look()
            host = self._host[1]
            if is_critical(self.ceilings, host):
                await self._stop_runaway(watch, host)
            await asyncio.sleep(CLOSE if host.available < 3 * self.ceilings.critical else CALM)

    async def _stop_runaway(self, watch: "Watch", host: Host) -> None:
        uses = []
        for actor in list(self.supervisor.actors.values()):
            record = actor.record
            if record.init is None or record.state not in ALIVE or record.state is State.STOPPING:
                continue
            try:
                uses.append(Use(record.id, watch.look(record, traffic=False).memory, record.limits.memory))
            except (SandboxdError, OSError):
                continue
        found = runaway(uses, self.ceilings, host)
        if found is None:
            return
        use, share = found
        actor = self.supervisor.actors[use.env_id]
        reason = (
            f"the host ran out of memory ({format_size(host.available)} left), and of all envs this one was most over "
            f"its share: {format_size(use.memory)} of {format_size(share)}; bound it with -m"
        )
        log.warning("env %s is stopped: %s", actor.record.name, reason)
        actor.post(ev.KillAsked(cause="memory", reason=reason))
        await actor.wait_until(lambda record: record.state in ENDED)
        self.look()


def ceilings(supervisor: "Supervisor") -> Ceilings:
    """The settings, and what the host says by itself."""
    settings, total = supervisor.settings, host_memory().total
    return Ceilings(
        envs=settings.max_envs,
        starting=settings.max_starting,
        memory=settings.max_memory,
        namespaces=number_in("/proc/sys/user/max_net_namespaces"),
        reserve=total // 20 if settings.memory_reserve is None else settings.memory_reserve,
        critical=total // 50 if settings.memory_critical is None else settings.memory_critical,
    )


def number_in(path: str) -> int | None:
    """The number in a file of /proc/sys; None where there is none, or it is none."""
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def host_memory() -> Host:
    """MemAvailable (proc_meminfo(5)) and PSI's full avg10 (psi.rst) where the kernel keeps it."""
    found = MEMORY.search(contents("/proc/meminfo"))
    if found is None:  # before Linux 3.14
        return Host(total=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), available=0, pressure=pressure())
    return Host(total=int(found[1]) << 10, available=int(found[2]) << 10, pressure=pressure())


def pressure() -> float | None:
    """Percent of the last ten seconds in which every task stood still for want of memory."""
    try:
        found = STALLED.search(contents("/proc/pressure/memory"))
    except OSError:
        return None
    return float(found[1]) if found else None
