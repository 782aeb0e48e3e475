"""The pools of places for envs to come (parked children, directories with their sockets), as large as the demand of late and as
the bursts that templates expect.

`lifecycle.pool` decides. A template's places are such that its own envs fit: what they need is found out by planning one, when
it is registered or a daemon starts, and learned again from each that starts, as the host's layout may change.
"""

import logging
import resource
import time
from collections import Counter
from typing import TYPE_CHECKING

from sandboxd.daemon import building
from sandboxd.daemon.berths import SPARE
from sandboxd.daemon.making import record_of
from sandboxd.errors import QuotaExceeded, SandboxdError
from sandboxd.isolation.plan import LaunchPlan
from sandboxd.launch.parked import Shape, shape_for
from sandboxd.lifecycle.demand import Template, spec_of
from sandboxd.lifecycle.pool import COST, SHARE, Bounds, budget, granted, noted, refusal, wanted
from sandboxd.lifecycle.sharing import Owner

if TYPE_CHECKING:
    from sandboxd.daemon.supervisor import Supervisor

log = logging.getLogger(__name__)
NO_ENV = "0" * 32  # an id that is none's
LATER = 10.0  # seconds until a template of which no env can be planned now is looked at again


class Pooling:
    """How many started at once of late, and what children the envs of templates need that expect bursts."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self.supervisor = supervisor
        self._bursts: dict[int, int] = {}
        self._shapes: dict[str, Shape | None] = {}
        self._not_before = 0.0

    def note(self) -> None:
        """An env is about to be made."""
        self._bursts = noted(self._bursts, 1 + len(self.supervisor.roll.coming), time.monotonic())

    # -- templates -------------------------------------------------------------------------------------------------------

    def plan(self, template: Template) -> LaunchPlan:
        """Of an env of it; raises what none could be made for."""
        owner = Owner(template.owner, template.group, template.user)
        record = record_of(spec_of(template), template.name, template.environ, template.directory, owner)
        return building.make_plan(self.supervisor, record, self.supervisor.rundir.env_dir(NO_ENV), [])

    def check(self, template: Template) -> None:
        """Raise QuotaExceeded for a burst that there may be no places for."""
        others = [one for one in self.supervisor.demand.templates.values() if one.id != template.id and one.rule.burst]
        is_alone = not template.user or all(one.owner == template.owner for one in others)
        found = refusal(template.rule.burst, sum(one.rule.burst for one in others), self.bounds(), is_alone=is_alone)
        if found is not None and template.rule.burst:
            raise QuotaExceeded(f"{template.name}: {found.text}", hint=found.hint, limit=found.limit)

    def bounds(self) -> Bounds:
        """Of the places of all templates."""
        admission = self.supervisor.admission
        return Bounds(
            budget(self.supervisor.settings.pool_memory, admission.host().total),
            admission.ceilings.namespaces,
            resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        )

    def learn(self, name: str, shape: Shape | None) -> None:
        """What an env of a template was made from; None: that is to be found out."""
        template = self.supervisor.demand.templates.get(name)
        if template is not None and template.rule.burst:
            self._shapes[name] = shape

    def ready(self, template: Template) -> int:
        """How many of the places for a template's burst are there."""
        shape = self._shapes.get(template.id)
        return min(template.rule.burst, self.supervisor.launcher.ready_of(shape), self.supervisor.berths.ready)

    def _kept(self, room: int) -> dict[Shape, int]:
        """The places for bursts, as far as there is room for so many."""
        templates = {name: one for name, one in self.supervisor.demand.templates.items() if one.rule.burst}
        for name in self._shapes.keys() - templates.keys():
            del self._shapes[name]
        for name, template in templates.items():
            if self._shapes.get(name) is None and time.monotonic() >= self._not_before:
                try:
                    self._shapes[name] = shape_for(self.plan(template))
                except (SandboxdError, OSError) as error:
                    log.warning("template %s: no places are kept for its burst now: %s", name, error)
                    self._not_before = time.monotonic() + LATER
        asked = {name: one.rule.burst for name, one in sorted(templates.items(), key=lambda item: item[1].created)}
        kept: Counter[Shape] = Counter()
        for name, count in granted(asked, room).items():
            shape = self._shapes.get(name)
            if shape is not None:
                kept[shape] += count
        return dict(kept)

    # -- all places ------------------------------------------------------------------------------------------------------

    def tend(self) -> None:
        """Have the pools be as large as is wanted now; called once a second."""
        supervisor = self.supervisor
        host, ceilings = supervisor.admission.host(), supervisor.admission.ceilings
        spare = host.available - ceilings.reserve  # below it no env starts, so that a place for one is of no use
        count = wanted(self._bursts, supervisor.settings.pool, spare, time.monotonic())
        if ceilings.namespaces is not None:
            count = min(count, max(supervisor.settings.pool, ceilings.namespaces // SHARE))
        held = supervisor.launcher.pool
        room = min(held + max(0, spare) // COST, *self.bounds().counts().values())
        supervisor.launcher.resize(count, self._kept(room))
        supervisor.berths.resize(supervisor.launcher.wanted + SPARE)
