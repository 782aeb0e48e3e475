"""Quotas of users and groups at work: who is asked for by name, what others have, and how often somebody starts something.

`lifecycle.quotas` decides. Names and groups are the host's own (passwd, group), looked up again after a while, since an admin
may change them under a daemon that runs for months. Refused is what is asked for; what starts by itself waits until it fits.
"""

import grp
import os
import pwd
import time
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

from sandboxd.errors import QuotaExceeded
from sandboxd.lifecycle.demand import Bucket, drawn, is_full
from sandboxd.lifecycle.quotas import NAMES, RUNS, Bound, Held, Over, Person, bounds, over, read, sums, too_fast
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.states import ALIVE, ENDED, State

if TYPE_CHECKING:
    from sandboxd.daemon.supervisor import Supervisor

KNOWN_FOR = 60.0  # seconds


class Quotas:
    """What holds, and the starts of the last minute."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self.supervisor = supervisor
        self.quotas = read(supervisor.settings.quota)
        self._people: dict[int, tuple[float, Person]] = {}
        self._buckets: dict[str, Bucket] = {}

    def settings_changed(self) -> None:
        """Others hold from now on; what is there already stays."""
        self.quotas = read(self.supervisor.settings.quota)
        self._people.clear()

    def check(self, record: EnvRecord, *, starts: bool = True) -> None:
        """Raise QuotaExceeded for an env that would be too much; starts: it counts as one start. Those that wait count, too."""
        found = self.bounds(record)
        if not found:
            return
        held = self.held(lambda other: other.state in ALIVE or other.state is State.QUEUED, but=record.id)
        met = first(found, held, record, RUNS if record.state in ENDED else NAMES)
        if met is not None:
            raise QuotaExceeded(met.text, hint=met.hint, limit=met.limit)
        if starts:
            self._draw(found)

    def held(self, alive: Callable[[EnvRecord], bool], but: str | None = None) -> Held:
        """What users and groups have now; but: not that env's."""
        records = [actor.record for actor in self.supervisor.actors.values() if actor.record.id != but]
        return sums(records, {uid: self.person(uid) for uid in {record.owner for record in records}}, alive)

    def over(self, record: EnvRecord, admitted: Collection[str]) -> Over | None:
        """What keeps it from starting now."""
        found = self.bounds(record)
        if not found:
            return None
        return first(found, self.held(lambda other: other.state in ALIVE or other.id in admitted, but=record.id), record, RUNS)

    def bounds(self, record: EnvRecord) -> list[Bound]:
        """The quotas that hold for it."""
        return bounds(self.quotas, record.owner, self.person(record.owner)) if self.supervisor.settings.quota else []

    def person(self, uid: int) -> Person:
        """A user by name and groups."""
        known = self._people.get(uid)
        if known is None or time.monotonic() > known[0]:
            known = time.monotonic() + KNOWN_FOR, person(uid)
            self._people[uid] = known
        return known[1]

    def _draw(self, found: list[Bound]) -> None:
        now = time.monotonic()
        rated = {bound.whose: (bound, bound.quota.rate) for bound in found if bound.quota.rate}
        after = {}
        for whose, (bound, rate) in rated.items():
            after[whose], wait = drawn(self._buckets.get(whose), rate or 0, now)
            if wait:
                met = too_fast(bound)
                raise QuotaExceeded(met.text, hint=met.hint, limit=met.limit, retry_after=max(1, round(wait)))
        self._buckets.update(after)
        for whose, (_, rate) in rated.items():
            if is_full(self._buckets[whose], rate or 0, now):
                del self._buckets[whose]


def first(found: Iterable[Bound], held: Held, record: EnvRecord, names: Iterable[str]) -> Over | None:
    """The first quota that is met."""
    return next((met for bound in found if (met := over(bound, held, record, names)) is not None), None)


def person(uid: int) -> Person:
    """As passwd and group have him; somebody without a name is his number and of no group."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Person(str(uid))
    names = set()
    for gid in os.getgrouplist(entry.pw_name, entry.pw_gid):
        try:
            names.add(grp.getgrgid(gid).gr_name)
        except KeyError:
            continue
    return Person(entry.pw_name, frozenset(names))
