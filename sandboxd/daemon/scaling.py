"""Starts, drains and ends the replicas of envs. `lifecycle.scaling` decides; the router counts what each of them is used for.

A replica is an env like any other, with its own record, so a daemon that comes later finds it again. Nothing is ended while a
request is on its way there: the router acknowledges the table that says so before its counts are believed.
"""

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from sandboxd.errors import Internal, SandboxdError, TimedOut
from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.records import EnvRecord, ServiceRecord
from sandboxd.lifecycle.restart import delay
from sandboxd.lifecycle.scaling import Level, Plan, Replica, decide, is_lost, is_scaled, plan, replica_spec, rests
from sandboxd.lifecycle.states import ENDED, State
from sandboxd.protocol.messages import ScaleInfo
from sandboxd.spec import Replicas
from sandboxd.specfile import check
from sandboxd.units import format_duration

if TYPE_CHECKING:
    from sandboxd.daemon.actor import Actor
    from sandboxd.daemon.supervisor import Supervisor

log = logging.getLogger(__name__)
LOOK = 0.25  # seconds between two looks at the load
CALM = 5.0  # where nothing depends on the load
STEADY = 10.0  # seconds after which earlier failures are forgotten


class Group:
    """What is known of one env's replicas besides their records."""

    def __init__(self) -> None:
        self.replicas: set[str] = set()
        self.level: Level | None = None
        self.failures = 0
        self.not_before = 0.0
        self.reason = ""
        self.ending: set[str] = set()
        self.dissolving = False


class Scaling:
    """The groups, by the id of the env that has replicas."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self.supervisor = supervisor
        self._groups: dict[str, Group] = {}
        self._news = asyncio.Event()
        self._looked = asyncio.Event()  # replaced after each look, for those who wait for what it did

    def note(self, record: EnvRecord) -> None:
        """A record is new or has changed."""
        if record.replica_of:
            self._groups.setdefault(record.replica_of, Group()).replicas.add(record.id)
        elif is_scaled(record):
            self._groups.setdefault(record.id, Group())
        elif record.id not in self._groups:
            return
        self._news.set()

    def forget(self, record: EnvRecord) -> None:
        """It is removed."""
        group = self._groups.get(record.replica_of)
        if group is not None:
            group.replicas.discard(record.id)
            group.ending.discard(record.id)
        self._news.set()

    def replicas(self, env_id: str) -> list["Actor"]:
        """Those besides the first, by number."""
        group = self._groups.get(env_id)
        if group is None:
            return []
        found = [self.supervisor.actors[one] for one in group.replicas if one in self.supervisor.actors]
        return sorted(found, key=lambda actor: actor.record.replica)

    async def run(self) -> None:
        """Look until the daemon leaves: at once when something changed, and at the load again and again."""
        while True:
            self._news.clear()
            waits = CALM
            if self._groups:
                told = await self._count()
                for env_id, group in list(self._groups.items()):
                    try:
                        waits = min(waits, self._look(env_id, group, told))
                    except Exception:  # the others' replicas are looked after all the same
                        log.exception("the replicas of env %s could not be looked after", env_id)
                looked, self._looked = self._looked, asyncio.Event()
                looked.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(waits):
                    await self._news.wait()

    async def _count(self) -> set[str] | None:
        """Have the counts be those of now; those that the router knew to drain when it counted. None: it did not answer."""
        draining = {
            one.record.id for env_id in self._groups for one in self.replicas(env_id) if one.record.draining is not None
        }
        self.supervisor.push_routes()
        try:
            await self.supervisor.router.count()
        except (TimedOut, Internal) as error:
            log.debug("the router could not be asked: %s", error)
            return None
        return draining

    def busy(self, env_id: str) -> int:
        """Requests under way and tunnels."""
        counts = self.supervisor.router.counts.get(env_id, {})
        return int(counts.get("busy", 0) + counts.get("tunnels", 0))

    # -- one env ---------------------------------------------------------------------------------------------------------

    def _look(self, env_id: str, group: Group, told: set[str] | None) -> float:
        """Bring one env to what is wanted of it; seconds until the next look."""
        if self.supervisor.end_all:
            return CALM
        actor = self.supervisor.actors.get(env_id)
        replicas = self.replicas(env_id)
        if actor is None or group.dissolving or not is_scaled(actor.record) or rests(actor.record):
            group.level, group.failures, group.reason = None, 0, ""
            for one in replicas:
                self._end(group, one)
            if not replicas and (actor is None or not (group.dissolving or is_scaled(actor.record))):
                del self._groups[env_id]
            return CALM
        if told is None:
            return LOOK
        record, now = actor.record, self.supervisor.clock.now()
        wanted = self._wanted(group, record, replicas, now)
        self._revive(group, actor, now)
        seen = [self._seen(record, one, told) for one in replicas]
        made = plan(wanted - 1, seen, (record.spec.scale or Replicas()).drain_timeout, now)
        self._carry_out(group, made, {one.record.id: one for one in replicas}, now)
        if now >= group.not_before:
            for number in made.start:
                self._start(group, record, number, now)
        settled = not made.start and not made.drain and not any(one.record.draining for one in replicas)
        if settled and all(one.record.state is State.READY for one in (actor, *replicas)):
            group.reason = ""
            group.failures = group.failures if now < group.not_before + STEADY else 0
        return CALM if settled and record.replicas is not None else LOOK

    def _carry_out(self, group: Group, made: Plan, replicas: dict[str, "Actor"], now: float) -> None:
        for env_id in made.end:
            record = replicas[env_id].record
            if record.draining is None and env_id not in group.ending:
                self._failed(group, f"{record.name} ended: {record.reason or 'by itself'}", now)
            self._end(group, replicas[env_id])
        for env_id in made.drain:
            replicas[env_id].post(ev.DrainAsked(draining=True))
        for env_id in made.keep:
            replicas[env_id].post(ev.DrainAsked(draining=False))

    def _wanted(self, group: Group, record: EnvRecord, replicas: list["Actor"], now: float) -> int:
        before = group.level or Level(1 + sum(1 for one in replicas if one.record.draining is None))
        if record.replicas is not None:
            group.level = Level(max(1, record.replicas))
        elif record.spec.scale is not None:
            load = self.busy(record.id) + sum(self.busy(one.record.id) for one in replicas)
            group.level = decide(record.spec.scale, before, load, now)
        else:
            group.level = Level()
        if group.level.wanted != before.wanted:
            why = {"from": str(before.wanted), "to": str(group.level.wanted)}
            self.supervisor.announce(record, "scaling", why)
        return group.level.wanted

    def _seen(self, record: EnvRecord, actor: "Actor", told: set[str]) -> Replica:
        of = actor.record
        return Replica(
            env_id=of.id,
            number=of.replica,
            state="ended" if of.state in ENDED else "ready" if of.state is State.READY else "coming",
            fresh=of.spec == replica_spec(record, of.name),
            busy=self.busy(of.id) if of.id in told else max(1, self.busy(of.id)),
            draining=of.draining,
        )

    def _start(self, group: Group, record: EnvRecord, number: int, now: float) -> None:
        name = f"{record.name}-{number}"
        spec = replica_spec(record, name)
        fresh = EnvRecord(
            id="",
            name=name,
            owner=record.owner,
            group=record.group,
            user=record.user,
            spec=spec,
            environ=record.environ,
            directory=record.directory,
            services={name: ServiceRecord(name=name, port=service.port) for name, service in spec.services.items()},
            created=now,
            replica_of=record.id,
            allowed=record.allowed,
            replica=number,
        )
        try:
            check(spec)
            self.supervisor.create(fresh)
        except SandboxdError as error:  # the queue is full, or the name is taken: later, perhaps
            self._failed(group, f"{name} cannot be made: {error.message}", now)

    def _failed(self, group: Group, reason: str, now: float) -> None:
        group.reason = reason
        group.not_before = now + delay(group.failures)
        group.failures += 1

    def _revive(self, group: Group, actor: "Actor", now: float) -> None:
        """The first one is replaced like the others: by being started again."""
        if is_lost(actor.record) and now >= group.not_before:
            self._failed(group, f"{actor.record.name} ended: {actor.record.reason or 'by itself'}", now)
            actor.post(ev.StartAsked())

    def _end(self, group: Group, actor: "Actor") -> None:
        if actor.record.id not in group.ending:
            group.ending.add(actor.record.id)
            self.supervisor.own(self._remove(actor), name=f"end-{actor.record.name}")

    async def _remove(self, actor: "Actor") -> None:
        if actor.record.state not in ENDED:
            actor.post(ev.StopAsked())
            await actor.wait_until(lambda record: record.state in ENDED)
        await self.supervisor.remove(actor)

    # -- requests --------------------------------------------------------------------------------------------------------

    async def dissolve(self, actor: "Actor", *, for_good: bool = False) -> None:
        """The env is stopped by somebody, or removed: its replicas go, and no new ones come meanwhile."""
        group = self._groups.get(actor.record.id)
        if group is None:
            return
        group.dissolving = True
        try:
            for one in self.replicas(actor.record.id):
                self._end(group, one)
            while self.replicas(actor.record.id):
                await self._next_look()
        except BaseException:  # whoever asked has left
            group.dissolving = False
            raise
        group.dissolving = for_good

    async def until_settled(self, actor: "Actor", timeout: float | None) -> None:
        """Until there are as many as are wanted, all ready, and no others; raises TimedOut."""
        try:
            async with asyncio.timeout(timeout):
                while not self._is_settled(actor):
                    await self._next_look()
        except TimeoutError:
            info = self.info(actor.record)
            why = f": {info.reason}" if info is not None and info.reason else ""
            count = f"{info.ready} of {info.wanted}" if info is not None else "not all"
            raise TimedOut(
                f"{count} replicas of {actor.record.name} are ready after {timeout:g} s{why}",
                hint=f"`sandbox inspect {actor.record.name}` shows them; it goes on",
            ) from None

    async def _next_look(self) -> None:
        self._news.set()
        await self._looked.wait()

    def _is_settled(self, actor: "Actor") -> bool:
        record, replicas = actor.record, self.replicas(actor.record.id)
        if rests(record) or not is_scaled(record):
            return not replicas
        group = self._groups.get(record.id)
        wanted = record.replicas if record.replicas is not None else group.level.wanted if group and group.level else 0
        everyone = [record, *(one.record for one in replicas)]
        return len(everyone) == wanted and all(one.state is State.READY and one.draining is None for one in everyone)

    def info(self, record: EnvRecord) -> ScaleInfo | None:
        """For those who ask; None for an env that has one place only."""
        if not is_scaled(record):
            return None
        group, rule = self._groups.get(record.id), record.spec.scale
        replicas = self.replicas(record.id)
        everyone = [record, *(one.record for one in replicas)]
        level = group.level if group is not None and group.level is not None else Level()
        fixed = record.replicas
        return ScaleInfo(
            wanted=0 if rests(record) else level.wanted,
            ready=sum(1 for one in everyone if one.state is State.READY and one.draining is None),
            min=rule.min if rule is not None and fixed is None else fixed or 0,
            max=rule.max if rule is not None and fixed is None else fixed or 0,
            fixed=fixed is not None,
            busy=sum(self.busy(one.id) for one in everyone),
            names=[one.record.name for one in replicas],
            reason=group.reason if group is not None else "",
        )

    def words(self, record: EnvRecord) -> list[str]:
        """For `why`: how many there are, and what decides that."""
        info, rule = self.info(record), record.spec.scale
        if info is None:
            return []
        text = f"scale: {info.ready} of {info.wanted} replicas ready"
        if info.fixed:
            text += ", as somebody asked for (`sandbox scale`)"
        elif rule is not None:
            per = rule.target_connections
            text += f"; {info.busy} connections in use, {per} to each, from {rule.min} to {rule.max} replicas"
            text += f", fewer once they did for {format_duration(rule.down_after)}"
        return [f"{text}; {info.reason}" if info.reason else text]
