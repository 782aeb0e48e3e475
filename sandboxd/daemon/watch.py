"""Looking at what envs use: for `stats` and `inspect` when asked, and all the time for what no kernel enforces.

The kernel gives no event for a sum of processes without a cgroup, so this samples: four times a second while an env with such a
limit works, more often while it grows, less the longer its CPU time stands still; other envs seldom, to notice limits that they
met. What was written to disk is walked by `disk`, in a thread. The verdict is `limits.verdict`'s; the kill is the actor's.
"""

import asyncio
import contextlib
import heapq
import logging
import time
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from msgspec.structs import replace

from sandboxd.daemon import limiting
from sandboxd.daemon.disk import DiskWatch
from sandboxd.daemon.segments import Segments
from sandboxd.errors import KernelError, SandboxdError
from sandboxd.isolation.enforcement import lowest
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.states import ALIVE
from sandboxd.limits.pace import LEAST, SELDOM, pause
from sandboxd.limits.sacrifice import sacrifice
from sandboxd.limits.sampler import Sample, Sampler
from sandboxd.limits.verdict import SAMPLED, Verdict, judge, over
from sandboxd.protocol.messages import StatsRow, Usage

if TYPE_CHECKING:
    from sandboxd.daemon.actor import Actor
    from sandboxd.daemon.supervisor import Supervisor

log = logging.getLogger(__name__)
SOON = 0.05  # seconds until a new one is looked at: it takes half a millisecond, in which whoever waits for it would wait
IDLE = 1.0  # seconds between rounds while nothing is to be looked at sooner


class Watch:
    """The last sample of each env, and the loop over those that live."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self.supervisor = supervisor
        self.disk = DiskWatch(supervisor)
        self._sampler = Sampler()
        self._segments = Segments(supervisor)
        self._expendable: dict[str, AbstractSet[int]] = {}
        self._last: dict[str, Sample] = {}
        self._before: dict[str, Sample] = {}
        self._peak: dict[str, int] = {}
        self._pids: dict[str, int] = {}
        self._due: dict[str, tuple[float, float]] = {}  # when, and the pause before it
        self._heap: list[tuple[float, str]] = []  # the same by time: what is not due costs nothing, however many there are

    async def run(self) -> None:
        """Look at envs until the daemon leaves, each when it is due; a new one soon."""
        self.supervisor.own(self.disk.run(), name="disk")
        for env_id in self.supervisor.actors:
            self.supervisor.news.add(env_id)
        while True:
            for env_id in self.supervisor.news.take():
                self._plan(env_id, self._first(env_id), self._due.get(env_id, (0.0, 0.0))[1])
            now = time.monotonic()
            while self._heap and self._heap[0][0] <= now:
                at, env_id = heapq.heappop(self._heap)
                if self._due.get(env_id, (None, 0.0))[0] == at:  # else it was planned anew meanwhile
                    self._turn(env_id)
            wait = self._heap[0][0] - time.monotonic() if self._heap else IDLE
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(LEAST, min(IDLE, wait))):
                    await self.supervisor.news.arrived.wait()

    def _first(self, env_id: str) -> float:
        """When to look at an env of which there is news; at a new one that no limit needs looks for not while it starts."""
        if env_id in self._last:
            return 0.0
        actor = self.supervisor.actors.get(env_id)
        return time.monotonic() + (SELDOM if actor is not None and not is_sampled(actor.record) else SOON)

    def _plan(self, env_id: str, at: float, pause: float) -> None:
        self._due[env_id] = at, pause
        heapq.heappush(self._heap, (at, env_id))

    def _turn(self, env_id: str) -> None:
        """Look at an env that is due; what does not live is forgotten until it is launched again."""
        actor = self.supervisor.actors.get(env_id)
        if actor is None or not lives(actor.record):
            self._forget(env_id)
            return
        record = actor.record
        self._check(actor)
        last, before = self._last.get(env_id), self._before.get(env_id)
        sampled = is_sampled(record)
        memory = record.limits.memory if sampled else None
        earlier = self._due[env_id][1]
        found = pause(last, before, memory, sampled=sampled, earlier=earlier) if last is not None else IDLE
        self._plan(env_id, time.monotonic() + found, found)

    def _check(self, actor: "Actor") -> None:
        record = actor.record
        self.supervisor.control.check(actor)
        try:
            sample = self.look(record, gate=record.limits.memory, traffic=False)
        except (SandboxdError, OSError) as error:
            log.warning("env %s cannot be sampled: %s", record.name, error)
            return
        if record.init is not None and not record.cgroup:
            known = self._expendable.get(record.id, frozenset())
            self._expendable[record.id] = sacrifice(record.init.pid, self._sampler.tree, known)
        verdict = judge(sample, record.limits, record.enforced)
        if not verdict.within:
            limiting.end(actor, verdict._replace(value=max(verdict.value, self.peak(record, verdict))))
            return
        if is_full(sample, record):
            limiting.met(actor, over("pids", sample.pids, record.limits.pids or 0))
        if record.limits.nofile is not None and record.init is not None:
            ceiling = lowest(record.limits.nofile, self.supervisor.host.limits.hard.get("NOFILE", -1))
            used = sample.descriptors or self._sampler.descriptors(record.init.pid)
            if used >= ceiling:
                limiting.met(actor, over("nofile", used, ceiling))

    def peak(self, record: EnvRecord, verdict: Verdict) -> int:
        """The most that was seen of it."""
        return self._peak.get(record.id, 0) if verdict.limit == "memory" else 0

    def look(self, record: EnvRecord, *, gate: int | None = 0, traffic: bool = True) -> Sample:
        """Sample an env now. gate: bytes of RSS from which on PSS is read too; traffic: count what was read and written."""
        assert record.init is not None
        sample = self._counted(record, traffic) or self._sampler.sample(
            record.init.pid, gate=gate, traffic=traffic, unattached=lambda: self._segments.unattached(record)
        )
        self._pids[record.id] = record.init.pid
        if record.id in self._last:
            self._before[record.id] = self._last[record.id]
        self._last[record.id] = sample
        if sample.pss is not None:  # RSS counts what processes share once for each: no peak of anything
            self._peak[record.id] = max(self._peak.get(record.id, 0), sample.memory)
        return sample

    def _counted(self, record: EnvRecord, traffic: bool) -> Sample | None:
        """What the kernel counted for the env's control group."""
        sample = self.supervisor.control.sample(record)
        if sample is None or sample.io_read >= 0:
            return sample
        read, written = self._sampler.traffic(record.init.pid) if traffic and record.init is not None else (0, 0)
        return replace(sample, io_read=read, io_write=written)

    def _forget(self, env_id: str) -> None:
        """Drop what is known of an env that is gone."""
        for store in (self._last, self._before, self._peak, self._due):
            store.pop(env_id, None)
        self._sampler.forget(self._pids.pop(env_id, 0))
        self._segments.forget(env_id)
        self._expendable.pop(env_id, None)

    def begin(self, records: list[EnvRecord]) -> None:
        """A first look, from which rates are counted; one that is fresh enough serves."""
        for record in records:
            last = self._last.get(record.id)
            if last is None or time.monotonic() - last.now > 10.0:
                with contextlib.suppress(KernelError):  # it ended just now
                    self.look(record)

    def cpu_percent(self, record: EnvRecord) -> float:
        """Percent of one CPU between the last two looks."""
        last, before = self._last.get(record.id), self._before.get(record.id)
        if last is None or before is None or last.now <= before.now:
            return 0.0
        return round(max(0.0, last.cpu_seconds - before.cpu_seconds) / (last.now - before.now) * 100, 1)

    def row(self, record: EnvRecord) -> StatsRow:
        """One env's row of `stats`."""
        sample = self.look(record)
        return StatsRow(
            id=record.id,
            name=record.name,
            cpu_percent=self.cpu_percent(record),
            memory_bytes=sample.memory,
            memory_limit=record.limits.memory,
            pids=sample.pids,
            io_read=sample.io_read,
            io_write=sample.io_write,
            net_connections=self.supervisor.routes_of(record.id),
        )

    def usage(self, record: EnvRecord) -> Usage:
        """What an env uses now, for `inspect`."""
        sample = self.look(record)
        return Usage(
            cpu_percent=self.cpu_percent(record),
            memory_bytes=sample.memory,
            memory_peak_bytes=self.supervisor.control.peak(record) or self._peak.get(record.id, sample.memory),
            pids=sample.pids,
        )


def lives(record: EnvRecord) -> bool:
    """Whether there is something to look at."""
    return record.init is not None and record.state in ALIVE


def is_sampled(record: EnvRecord) -> bool:
    """Whether a limit holds only because we look."""
    memory = record.limits.memory is not None and record.enforced.get("memory", SAMPLED) == SAMPLED
    return memory or record.enforced.get("pids") == SAMPLED


def is_full(sample: Sample, record: EnvRecord) -> bool:
    """Whether the next fork fails: RLIMIT_NPROC counts init too."""
    return record.enforced.get("pids") == "rlimit" and record.limits.pids is not None and sample.pids + 1 >= record.limits.pids
