"""Soon after its start and every so often the daemon holds what kernel, disk and router show against what it knows.

`lifecycle.leftovers` decides what belongs to nobody; here is looked and removed. If all goes well there is nothing: so what is
found is said in the log and counted (sandboxd_leaks_total). Bounded, and off everybody's way: a look costs some small files of
/proc and two directories, removals that may be long are in a thread, and one that fails is tried again at the next round.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from sandboxd.daemon.adopt import end_process, end_stray
from sandboxd.errors import SandboxdError
from sandboxd.kernel import cgroups, mounts, pidfd, titles
from sandboxd.launch.groups import of_envs
from sandboxd.launch.guard import TITLE as GUARD
from sandboxd.lifecycle.leftovers import DOOMED, READY, Known, Sight, Thing, id_of, judge, strays
from sandboxd.lifecycle.states import ALIVE, ENDED, State

if TYPE_CHECKING:
    from sandboxd.daemon.supervisor import Supervisor

log = logging.getLogger(__name__)
SOON = 2.0
INIT = "sandboxd-init"


class Janitor:
    """What was suspected at the last look, and what would not go."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self.supervisor = supervisor
        self._suspects: set[Thing] = set()
        self._unfinished: set[str] = set()  # envs that could not be removed: said once
        self._stuck: set[Thing] = set()  # could not be removed: said once, tried at every round
        self._remove: dict[str, Callable[[str], Awaitable[int]]] = {
            "tasks": self._end_task,
            "mounts": self._unmount,
            "cgroups": self._remove_group,
            "files": self._remove_files,
            "sockets": self._remove_socket,
            "routes": self._remove_route,
        }

    async def run(self) -> None:
        """Until the daemon leaves; what is suspected is looked at again soon."""
        every = self.supervisor.settings.janitor
        while True:
            await asyncio.sleep(min(SOON, every))
            await self.round()
            due = time.monotonic() + every - SOON
            while not self._suspects - self._stuck and time.monotonic() < due:
                await asyncio.sleep(min(SOON, max(0.0, due - time.monotonic())))
                await self.finish()

    async def finish(self) -> None:
        """What an actor could not remove at its end is tried again: what was scarce then (descriptors) may be there now."""
        unfinished = [one for one in self.supervisor.actors.values() if one.is_over and one.record.state is State.REMOVED]
        self._unfinished &= {actor.record.id for actor in unfinished}
        for actor in unfinished:
            try:
                await self.supervisor.discard(actor)
            except (SandboxdError, OSError) as error:
                if actor.record.id not in self._unfinished:
                    log.error("env %s is to be removed, and cannot be as yet: %s", actor.record.name, error)
                self._unfinished.add(actor.record.id)

    async def round(self) -> None:
        """Look, and remove what was there the last time, too."""
        await self.finish()
        try:
            sight = self.look()
        except (SandboxdError, OSError) as error:
            log.warning("what belongs to no env cannot be looked for: %s", error)
            return
        found = strays(sight, self.known())
        due, self._suspects = judge(found, self._suspects | self._stuck)
        self._stuck &= found
        for thing in due:
            try:
                number = await self._remove[thing.kind](thing.name)
            except (SandboxdError, OSError) as error:
                if thing not in self._stuck:
                    log.error("%s %s: it belongs to no env, and cannot be removed: %s", thing.kind, thing.name, error)
                self._stuck.add(thing)
                continue
            self._stuck.discard(thing)
            if number:
                log.error("%s %s: it belonged to no env, and was removed", thing.kind, thing.name)
                self.supervisor.tally.count("leaks", thing.kind, number)

    # -- looking ---------------------------------------------------------------------------------------------------------

    def look(self) -> Sight:
        """What there is; raises OSError."""
        supervisor = self.supervisor
        groups = supervisor.control.groups
        return Sight(
            inits=inits_of(supervisor.launcher.pid),
            mounts=mounts.mount_points(os.getpid()),
            groups={path: cgroups.is_populated(path) for path in (of_envs(groups.root) if groups is not None else [])},
            names=supervisor.rundir.names(),
            place=str(supervisor.rundir.envs_dir),
            sockets=supervisor.rundir.unborn_sockets(),
            ports={held.env_id for held in supervisor.router.published},
        )

    def known(self) -> Known:
        """What belongs to somebody. A parked child's group is its env's to come."""
        supervisor = self.supervisor
        launcher, actors = supervisor.launcher, supervisor.actors
        records = [actor.record for actor in actors.values()]
        inits = {record.init.pid for record in records if record.init is not None}
        groups = {record.cgroup for record in records} | {actor.body.group for actor in actors.values()}
        groups |= {child.group for child in launcher.parked} | {group for _, _, group in launcher.asked}
        return Known(
            ids=set(actors),
            alive={record.id for record in records if record.state not in ENDED},
            inits=inits | {pidfd.parent_of(pid) for pid in inits},
            groups=groups,
            berths=supervisor.berths.ids(),
            launching=any(record.state in ALIVE and record.init is None for record in records),
        )

    # -- removing: each says how much it was -----------------------------------------------------------------------------

    async def _end_task(self, name: str) -> int:
        pid, started = name.split()
        return int(await end_process(int(pid), int(started)))

    async def _unmount(self, path: str) -> int:
        mounts.umount(path, mounts.MNT_DETACH | mounts.UMOUNT_NOFOLLOW)
        return 1

    async def _remove_group(self, path: str) -> int:
        number = cgroups.count(path)
        self.supervisor.control.leaving.release(path)
        return number

    async def _remove_files(self, name: str) -> int:
        rundir = self.supervisor.rundir
        env_id = id_of(name)
        if name.startswith(READY):
            await asyncio.to_thread(rundir.remove_prepared, env_id)
            return 1
        if not name.startswith(DOOMED):
            await end_stray(rundir.env_dir(env_id))
        return max(1, await asyncio.to_thread(rundir.remove_env_dir, env_id))

    async def _remove_socket(self, name: str) -> int:
        self.supervisor.rundir.remove_unborn(name)
        return 1

    async def _remove_route(self, env_id: str) -> int:
        number = sum(held.env_id == env_id for held in self.supervisor.router.published)
        await self.supervisor.router.unpublish(env_id)
        return number


def inits_of(launcher: int) -> list[str]:
    """The launcher's children that live as an env's pid 1 or its guard, as "PID START"."""
    try:
        with open(f"/proc/{launcher}/task/{launcher}/children", encoding="ascii") as file:
            pids = [int(word) for word in file.read().split()]
    except OSError:  # it has died: the next one has children of its own
        return []
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            started = pidfd.start_time(pid) if titles.name_of(pid) in (INIT, GUARD) else None
            if started is not None:
                found.append(f"{pid} {started}")
    return found
