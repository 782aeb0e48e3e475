"""Control groups of this daemon's envs: found, limited, read, and what they say when a limit was met.

Touches the cgroup file system through `kernel.cgroups`; what is decided is `limits.delegation`'s and `limits.controls`'. The
kernel tells of each limit that was met (memory.events, pids.events) by an inotify event, so nothing is looked at in vain. An
env keeps the group that it was launched in, below whichever launcher's root; its record has the path.
"""

import asyncio
import errno
import logging
import os
import time
from typing import TYPE_CHECKING

from msgspec.structs import replace

from sandboxd.daemon import limiting
from sandboxd.errors import KernelError
from sandboxd.isolation.facts import LimitFacts
from sandboxd.kernel import cgroups, inotify
from sandboxd.launch.groups import Groups, Leaving, sweep
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.limits.controls import files, io_total, unreclaimable, working_set
from sandboxd.limits.delegation import Root, root_of
from sandboxd.limits.hierarchy import disks, look, mounted
from sandboxd.limits.usage import Sample
from sandboxd.limits.verdict import Verdict, over
from sandboxd.spec import Limits

if TYPE_CHECKING:
    from sandboxd.daemon.actor import Actor
    from sandboxd.daemon.supervisor import Supervisor

log = logging.getLogger(__name__)
EVENTS = ("memory.events", "pids.events")
THROTTLED = 0.1  # the share of the time that an env waited for its CPU limit from which on it is told
MISSING = frozenset({"memory.swap.max"})  # files that a kernel may lack, by which no limit is lost


class Control:
    """The groups of one daemon's envs, and the watch over what happens in them."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self.supervisor = supervisor
        self.groups: Groups | None = None
        self.leaving = Leaving()
        self._inotify = -1
        self._watched: dict[int, str] = {}  # inotify watch -> env id
        self._seen: dict[str, dict[str, int]] = {}

    def begin(self, launcher: int, named: str) -> LimitFacts:
        """Find and prepare the root for a launcher; what limits can be enforced with then."""
        facts = self.supervisor.host.limits
        root = root_of(look(launcher, named))
        self.groups = None
        if root.path:
            groups = Groups(root.path, root.controllers, self.leaving, by_user=self.supervisor.settings.shared)
            try:
                groups.prepare(launcher)
                self.groups = groups
            except KernelError as error:
                root = Root(reason=f"{root.path} cannot be divided: {error}", fix=root.fix)
        log.info("control groups: %s", f"below {root.path} ({', '.join(root.controllers)})" if self.groups else root.reason)
        return replace(
            facts,
            controllers=list(root.controllers) if self.groups else [],
            reason=root.reason,
            fix=root.fix,
            devices=disks(str(self.supervisor.settings.state_dir)),
        )

    def facts_of(self, record: EnvRecord) -> LimitFacts:
        """With what the limits of an env that runs can be enforced: with its own group, if it has one."""
        facts = self.supervisor.host.limits
        have = cgroups.controllers(f"{record.cgroup}/{cgroups.SERVICES}") if record.cgroup else []
        return replace(
            facts,
            controllers=[name for name in have if name in ("cpu", "io", "memory", "pids")],
            reason=facts.reason or "it was started without one",
            fix=facts.fix or f"sandbox restart {record.name}",
        )

    # -- limits --------------------------------------------------------------------------------------------------------

    def limit(self, limits: Limits, path: str, ways: dict[str, str]) -> None:
        """Write an env's limits; raises KernelError."""
        group = f"{path}/{cgroups.SERVICES}"
        for name, text in files(limits, ways, cgroups.controllers(group), self.supervisor.host.limits.devices):
            try:
                cgroups.write(group, name, text)
            except KernelError as error:
                if name not in MISSING or error.errno != errno.ENOENT:
                    raise

    def used(self, record: EnvRecord) -> int | None:
        """Bytes of memory that a smaller limit could not take back; None: not known."""
        group = f"{record.cgroup}/{cgroups.SERVICES}"
        current = cgroups.number(group, "memory.current") if record.cgroup else None
        return None if current is None else unreclaimable(current, cgroups.table(group, "memory.stat"))

    # -- use -----------------------------------------------------------------------------------------------------------

    def sample(self, record: EnvRecord) -> Sample | None:
        """What the kernel says an env uses; None where it does not count memory or tasks for it."""
        if not record.cgroup:
            return None
        group = f"{record.cgroup}/{cgroups.SERVICES}"
        current, pids = cgroups.number(group, "memory.current"), cgroups.number(group, "pids.current")
        if current is None or pids is None:
            return None
        memory = working_set(current, cgroups.table(group, "memory.stat"))
        try:
            read, written = io_total(cgroups.read(group, "io.stat"))
        except KernelError:
            read = written = -1
        return Sample(
            rss=memory,
            pss=memory,
            tmpfs=0,
            pids=pids,
            cpu_seconds=cgroups.table(group, "cpu.stat").get("usage_usec", 0) / 1e6,
            io_read=read,
            io_write=written,
            now=time.monotonic(),
        )

    def peak(self, record: EnvRecord) -> int | None:
        """The most memory that it ever had (memory.peak, since 5.19)."""
        return cgroups.number(f"{record.cgroup}/{cgroups.SERVICES}", "memory.peak") if record.cgroup else None

    # -- what happens --------------------------------------------------------------------------------------------------

    def watch(self, actor: "Actor", path: str) -> None:
        """Hear of the limits that an env meets from here on; what happened before is found at the first look."""
        if not path or actor.record.id in self._seen:
            return
        self._seen[actor.record.id] = {}
        try:
            if self._inotify < 0:
                self._inotify = inotify.inotify_init()
                asyncio.get_running_loop().add_reader(self._inotify, self._heard)
            for name in EVENTS:
                place = f"{path}/{cgroups.SERVICES}/{name}"
                if os.path.exists(place):
                    self._watched[inotify.inotify_add_watch(self._inotify, place, inotify.IN_MODIFY)] = actor.record.id
        except KernelError as error:
            log.warning("env %s: limits that it meets are told late: %s", actor.record.name, error)

    def release(self, env_id: str, path: str) -> None:
        """An env has ended: remove its group."""
        self.forget(env_id)
        if path:
            self.leaving.release(path)

    def group_of(self, pid: int) -> str:
        """The path of the group that an env with this init was launched in; "" where it has none of its own."""
        path = cgroups.own_path(pid)
        group = os.path.dirname(path)
        return f"{mounted()[0]}{group}" if os.path.basename(group).startswith(cgroups.PREFIX) else ""

    def sweep(self) -> int:
        """Remove what an earlier daemon left: groups below our roots that no env has; how many."""
        known = {actor.record.cgroup for actor in self.supervisor.actors.values() if actor.record.cgroup}
        roots = {os.path.dirname(path) for path in known} | ({self.groups.root} if self.groups is not None else set())
        removed = 0
        for root in roots:
            if found := sweep(root, known):
                log.info("%d control groups below %s belonged to no env: removed", found, root)
            removed += found
        return removed

    def forget(self, env_id: str) -> None:
        """An env has ended; its watches go with its files."""
        self._seen.pop(env_id, None)
        for number in [number for number, other in self._watched.items() if other == env_id]:
            del self._watched[number]
            try:
                inotify.inotify_rm_watch(self._inotify, number)
            except KernelError:
                continue  # the file went first

    def _heard(self) -> None:
        for env_id in {self._watched.get(event.watch, "") for event in inotify.read_events(self._inotify)}:
            actor = self.supervisor.actors.get(env_id)
            if actor is not None:
                self.check(actor)

    def check(self, actor: "Actor") -> None:
        """Look at what an env's limits have done since the last look, and say it."""
        record = actor.record
        path = actor.body.group or record.cgroup
        if not path:
            return
        group = f"{path}/{cgroups.SERVICES}"
        memory, pids, cpu = (cgroups.table(group, name) for name in ("memory.events", "pids.events", "cpu.stat"))
        now = {f"memory.{key}": value for key, value in memory.items()} | {f"pids.{key}": value for key, value in pids.items()}
        now |= {"throttled": cpu.get("throttled_usec", 0), "at": int(time.monotonic() * 1e6)}
        before = self._seen.get(record.id) or {"at": now["at"], "throttled": now["throttled"]}
        self._seen[record.id] = now
        new = {key: value - before.get(key, 0) for key, value in now.items()}
        if new.get("memory.oom_kill", 0) > 0:
            peak = cgroups.number(group, "memory.peak") or record.limits.memory or 0
            ceiling = record.limits.memory if now.get("memory.oom", 0) > 0 else None
            if ceiling is not None:
                limiting.end(actor, over("memory", peak, ceiling))
            else:
                limiting.end(actor, Verdict("memory", peak, 0, "this machine ran out of memory, and its kernel chose this env"))
        if new.get("pids.max", 0) > 0 and record.limits.pids is not None:
            limiting.met(actor, over("pids", record.limits.pids, record.limits.pids))
        if new.get("memory.high", 0) > 0 and record.limits.memory_high is not None:
            limiting.met(actor, over("memory_high", cgroups.number(group, "memory.current") or 0, record.limits.memory_high))
        if record.limits.cpus is not None and new["throttled"] > THROTTLED * new["at"] > 0:
            limiting.met(actor, over("cpus", int(record.limits.cpus), int(record.limits.cpus)))

    async def settled(self) -> None:
        """Wait until every group that nobody has any more is gone, the users' too."""
        await self.leaving.settled()
        if self.groups is not None:
            self.groups.leave()

    def close(self) -> None:
        """Hear of nothing any more; groups stay with their envs."""
        if self._inotify >= 0:
            asyncio.get_running_loop().remove_reader(self._inotify)
            os.close(self._inotify)
            self._inotify = -1
