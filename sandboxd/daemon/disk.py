"""What envs with a disk limit have written, looked at again and again: their homes and logs.

No kernel bounds a directory for an ordinary user, so this walks, one env after another in a thread of its own. Bounded: in
entries, in the time it takes (a walk is followed by a rest that is many times as long), and it ends early once the limit is
passed. What an env wrote is not removed with its end: the home is its user's until `rm`.
"""

import asyncio
import time
from typing import TYPE_CHECKING

from sandboxd.daemon import limiting
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.states import ALIVE
from sandboxd.limits.diskuse import Use, disk_use
from sandboxd.limits.verdict import over

if TYPE_CHECKING:
    from sandboxd.daemon.actor import Actor
    from sandboxd.daemon.supervisor import Supervisor

LEAST, MOST = 1.0, 60.0  # seconds between two looks at one env
SHARE = 20  # times as long as a walk took is rested
ENTRIES = 1 << 20  # some seconds, in a thread


class DiskWatch:
    """The loop, and what each env was last seen to hold."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self.supervisor = supervisor
        self.uses: dict[str, Use] = {}
        self._due: dict[str, float] = {}

    async def run(self) -> None:
        """Until the daemon leaves."""
        while True:
            limited = [actor for actor in self.supervisor.actors.values() if is_limited(actor.record)]
            for actor in limited:
                if time.monotonic() >= self._due.get(actor.record.id, 0.0):
                    await self.check(actor)
            for store in (self.uses, self._due):
                for env_id in [key for key in store if key not in self.supervisor.actors]:
                    del store[env_id]
            await asyncio.sleep(LEAST / 2)

    async def check(self, actor: "Actor") -> None:
        """Walk one env, and end it if it holds more than it may."""
        record = actor.record
        ceiling = record.limits.disk
        assert ceiling is not None
        began = time.monotonic()
        use = await self.look(record, enough=ceiling)
        now = time.monotonic()
        self._due[record.id] = now + min(MOST, max(LEAST, SHARE * (now - began)))
        if use.hidden:
            limiting.end(actor, over("disk", use.bytes, ceiling)._replace(hint="directories nested too deep to be counted"))
        elif use.bytes > ceiling:
            limiting.end(actor, over("disk", use.bytes, ceiling))

    async def look(self, record: EnvRecord, *, enough: int = 1 << 62) -> Use:
        """What an env holds now: at least this much, where the walk was cut short."""
        env_dir = self.supervisor.rundir.env_dir(record.id)
        paths = [env_dir / "home", env_dir / "logs"]
        use = await asyncio.to_thread(disk_use, paths, entries=ENTRIES, enough=enough)
        self.uses[record.id] = use
        return use


def is_limited(record: EnvRecord) -> bool:
    """Whether there is something to watch."""
    return record.init is not None and record.state in ALIVE and record.limits.disk is not None
