"""When the router is told of what changed, and what: its table, and the ways out of envs.

Changes of one turn of the loop go out as one. An env that is being launched takes no request before more is to be told of it,
and router and workers would want the cores that it needs in these milliseconds (measured: half a millisecond of two and a half
until its program runs), so that waits, unless somebody is to be answered: whoever is told of an env finds it there.
"""

import asyncio
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from sandboxd.daemon.outlets import outlet
from sandboxd.daemon.routes import Ground
from sandboxd.daemon.told import Told
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.router.listener import split_address

if TYPE_CHECKING:
    from sandboxd.daemon.actor import Actor
    from sandboxd.daemon.supervisor import Supervisor

LAUNCHING = 0.02  # seconds: most launches are through by then


class Records(Mapping[str, EnvRecord]):
    """The records of actors, by id, without a copy of all for each look at one."""

    def __init__(self, actors: "Mapping[str, Actor]") -> None:
        self._actors = actors

    def __getitem__(self, env_id: str) -> EnvRecord:
        return self._actors[env_id].record

    def __iter__(self) -> Iterator[str]:
        return iter(self._actors)

    def __len__(self) -> int:
        return len(self._actors)


class Pushing:
    """What the router has not been told yet."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self.supervisor = supervisor
        self._told = Told(int(supervisor.started * 1000))
        self._is_due = False
        self._changed: set[str] | None = None  # envs that changed since; None: anything may have
        self._handle: asyncio.Handle | None = None
        self._is_late = False

    def note(self, env_id: str | None, *, is_coming: bool) -> None:
        """Something is to be told. env_id: all that changed is of that env. is_coming: it is being launched."""
        if env_id is None:
            self._changed = None
        elif self._changed is not None:
            self._changed.add(env_id)
        self._is_due = True
        if self._handle is not None and (is_coming or not self._is_late):
            return
        if self._handle is not None:
            self._handle.cancel()
        loop = asyncio.get_running_loop()
        self._handle = loop.call_later(LAUNCHING, self.push) if is_coming else loop.call_soon(self.push)
        self._is_late = is_coming

    def push(self) -> None:
        """Tell it now."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        supervisor = self.supervisor
        if not self._is_due or not supervisor.adopted:
            return
        self._is_due = False
        changed, self._changed = self._changed, set()
        records = Records(supervisor.actors)
        ground = Ground(
            base_domain=supervisor.settings.base_domain,
            envs_dir=str(supervisor.rundir.envs_dir),
            hold=supervisor.settings.hold,
            own=[supervisor.web] if supervisor.web else [],
            doors=supervisor.demand.doors(),
            coming=supervisor.coming,
        )
        self._told.tell(supervisor.router, records, changed, ground)
        ways = supervisor.router.ways
        whole = changed is None or not ways.is_told
        ways.push(
            {one: outlet(records.get(one), envs_dir=ground.envs_dir) for one in (records if whole else changed or ())},
            resolvers=list(supervisor.settings.resolvers),
            own=[split_address(address)[1] for address in supervisor.router.listen],
            whole=whole,
        )
