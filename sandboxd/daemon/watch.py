"""Looking at what envs use: for `stats` and `inspect` when asked, and all the time for envs with a memory limit.

The kernel gives no event for a sum of processes without a cgroup, so this samples: twice a second while an env works, less
often the longer its CPU time stands still. The verdict is `limits.verdict`'s; the kill is the actor's.
"""

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from sandboxd.errors import SandboxdError
from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.states import ALIVE
from sandboxd.lifecycle.view import rfc3339
from sandboxd.limits.sampler import Sample, Sampler
from sandboxd.limits.verdict import judge
from sandboxd.protocol.messages import LimitHit, StatsRow, Usage

if TYPE_CHECKING:
    from sandboxd.daemon.actor import Actor
    from sandboxd.daemon.supervisor import Supervisor

log = logging.getLogger(__name__)
TICK = 0.25
MOST_SKIPPED = 8


class Watch:
    """The last sample of each env, and the loop over those with a limit."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self.supervisor = supervisor
        self._sampler = Sampler()
        self._last: dict[str, Sample] = {}
        self._before: dict[str, Sample] = {}
        self._peak: dict[str, int] = {}
        self._skip: dict[str, tuple[int, int]] = {}

    async def run(self) -> None:
        """Sample the envs with a memory limit until the daemon leaves; nothing is done while there is none."""
        while True:
            limited = [actor for actor in self.supervisor.actors.values() if is_limited(actor.record)]
            for actor in limited:
                if self._is_due(actor.record):
                    self._check(actor)
            self._forget()
            await asyncio.sleep(TICK if limited else 4 * TICK)

    def _is_due(self, record: EnvRecord) -> bool:
        """Whether it is this env's turn: the period doubles while its CPU time stands still, up to eight ticks."""
        wait, period = self._skip.get(record.id, (0, 1))
        if wait > 0:
            self._skip[record.id] = (wait - 1, period)
            return False
        last, before = self._last.get(record.id), self._before.get(record.id)
        still = (
            last is not None and before is not None and last.cpu_seconds - before.cpu_seconds < 0.01 and last.now > before.now
        )
        period = min(period * 2, MOST_SKIPPED) if still else 1
        self._skip[record.id] = (period - 1, period)
        return True

    def _check(self, actor: "Actor") -> None:
        record = actor.record
        try:
            sample = self.look(record, gate=record.spec.limits.memory or 0, traffic=False)
        except (SandboxdError, OSError) as error:
            log.warning("env %s cannot be sampled: %s", record.name, error)
            return
        verdict = judge(sample, record.spec.limits)
        if not verdict.within:
            if not actor.record.cause:  # the kill is under way: one hit, however often it is still seen
                now = rfc3339(time.time()) or ""
                hit = LimitHit(
                    time=now, limit=verdict.limit, value=verdict.ceiling, peak=self._peak[record.id], advice=verdict.hint
                )
                actor.body.notebook.hit(hit)
            actor.post(ev.KillAsked(cause=verdict.limit, reason=verdict.describe()))

    def look(self, record: EnvRecord, *, gate: int = 0, traffic: bool = True) -> Sample:
        """Sample an env now. gate: bytes of RSS from which on PSS is read too; traffic: count what was read and written."""
        assert record.init is not None
        sample = self._sampler.sample(record.init.pid, gate=gate, traffic=traffic)
        if record.id in self._last:
            self._before[record.id] = self._last[record.id]
        self._last[record.id] = sample
        self._peak[record.id] = max(self._peak.get(record.id, 0), sample.memory)
        return sample

    def _forget(self) -> None:
        """Drop what is known of envs that are gone."""
        for store in (self._last, self._before, self._peak, self._skip):
            for env_id in [key for key in store if key not in self.supervisor.actors]:
                del store[env_id]

    def begin(self, records: list[EnvRecord]) -> None:
        """A first look, from which rates are counted; one that is fresh enough serves."""
        for record in records:
            last = self._last.get(record.id)
            if last is None or time.monotonic() - last.now > 10.0:
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
            memory_limit=record.spec.limits.memory,
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
            memory_peak_bytes=self._peak[record.id],
            pids=sample.pids,
        )


def is_limited(record: EnvRecord) -> bool:
    """Whether there is something to watch."""
    return record.init is not None and record.state in ALIVE and record.spec.limits.memory is not None
