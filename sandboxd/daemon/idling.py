"""Looks at the envs that have an `idle` rule, and puts to sleep, stops and removes what nobody uses. `lifecycle.idle` decides.

An env is suspended before it is stopped or removed, even where its rule does not ask for that: then the router holds what comes
for it, and a last look shows what came in between. So no request meets an env that is on its way down.
"""

import asyncio
import logging
from typing import TYPE_CHECKING

from sandboxd.errors import Internal, TimedOut
from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.idle import Facts, Seen, Step, look, next_step, outlook
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.scaling import idle_rule
from sandboxd.lifecycle.states import State
from sandboxd.limits.sampler import cpu_seconds
from sandboxd.spec import Idle
from sandboxd.units import format_duration

if TYPE_CHECKING:
    from sandboxd.daemon.actor import Actor
    from sandboxd.daemon.supervisor import Supervisor

log = logging.getLogger(__name__)
SHORTEST, LONGEST = 0.1, 5.0  # seconds between two looks at one env


class Idling:
    """What was seen of each env that has a rule."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self.supervisor = supervisor
        self._seen: dict[str, Seen] = {}
        self._due: dict[str, float] = {}
        self._stepping: set[str] = set()

    async def run(self) -> None:
        """Look until the daemon leaves."""
        while True:
            now = self.supervisor.clock.now()
            if slept := self.supervisor.clock.slept():
                for actor in self.supervisor.actors.values():
                    actor.body.timers.hasten("ttl", slept)
            pause = LONGEST / 5
            for actor in list(self.supervisor.actors.values()):
                rule = self._rule(actor)
                if rule is None or (
                    actor.record.template and not actor.record.key
                ):  # warm: it waits for a key, and is not idle
                    continue
                pause = min(pause, period(rule))
                if now >= self._due.get(actor.record.id, 0.0) and actor.record.id not in self._stepping:
                    self._due[actor.record.id] = now + period(rule)
                    self._look(actor, rule, now)
            for env_id in [env_id for env_id in self._due if env_id not in self.supervisor.actors]:
                del self._due[env_id]
            for env_id in [env_id for env_id in self._seen if env_id not in self.supervisor.actors]:
                del self._seen[env_id]
            await asyncio.sleep(pause)

    def outlook(self, actor: "Actor") -> list[str]:
        """What keeps an env awake, or what becomes of it."""
        record, now = actor.record, self.supervisor.clock.now()
        if record.template and not record.key:
            return [f"it is kept warm for the next key of {record.template}"]
        rule = self._rule(actor)
        if record.state is State.READY:
            seen = None if rule is None else self._looked(actor, rule, now)
            if seen is not None and seen.awake:
                return seen.awake
            return outlook(rule, record.state.value, now if seen is None else seen.since, now)
        if is_idle(record):
            return outlook(rule, record.state.value, now if record.idle_since is None else record.idle_since, now)
        return []

    def _rule(self, actor: "Actor") -> Idle | None:
        """An env with replicas is in use, or has more than it needs: then they go first."""
        if self.supervisor.scaling.replicas(actor.record.id):
            self._seen.pop(actor.record.id, None)
            return None
        return idle_rule(actor.record)

    def _look(self, actor: "Actor", rule: Idle, now: float) -> None:
        record = actor.record
        if record.state is State.READY:
            seen = self._seen[record.id] = self._looked(actor, rule, now)
            since = seen.since
        elif is_idle(record):
            self._seen.pop(record.id, None)  # when it wakes, it was used just then
            since = record.idle_since if record.idle_since is not None else now
        else:
            self._seen.pop(record.id, None)
            return
        coming = next_step(rule, record.state.value, since)
        if coming is not None and now >= coming[1]:
            self._stepping.add(record.id)
            self.supervisor.own(self._step(actor, rule, coming[0], since), name=f"idle-{record.name}")

    def _looked(self, actor: "Actor", rule: Idle, now: float) -> Seen:
        return look(self._seen.get(actor.record.id), self._facts(actor, now), rule)

    def _facts(self, actor: "Actor", now: float) -> Facts:
        record = actor.record
        counts = self.supervisor.router.counts.get(record.id, {})
        return Facts(
            now=now,
            busy=counts.get("busy", 0),
            requests=counts.get("requests", 0),
            tunnels=counts.get("tunnels", 0),
            tunnelled=counts.get("tunnelled", 0),
            sessions=actor.body.open_sessions(),
            cpu=cpu_seconds(record.init.pid) if record.init is not None else None,
        )

    async def _step(self, actor: "Actor", rule: Idle, step: Step, since: float) -> None:
        """One step down; from `ready` always by way of `suspended`."""
        try:
            if actor.record.state is State.READY and not await self._suspend(actor, rule, since):
                return
            why = f"nobody used it for {format_duration(self.supervisor.clock.now() - since)}"
            if step == "stop":
                actor.post(ev.StopAsked(cause="idle", reason=why))
                await actor.wait_until(lambda record: record.state is not State.SUSPENDED)
            elif step == "remove":
                actor.post(ev.RemoveAsked(cause="idle"))
                await actor.wait_until(lambda record: record.state is not State.SUSPENDED)
        finally:
            self._stepping.discard(actor.record.id)

    async def _suspend(self, actor: "Actor", rule: Idle, since: float) -> bool:
        """Suspend it, and let it run again if it turns out to be used. False: it is not suspended."""
        before = self._seen.get(actor.record.id)
        actor.post(ev.SuspendAsked(by="idle", since=since))
        await actor.wait_until(lambda record: record.state is not State.READY)
        if actor.record.suspended_by != "idle":
            return False
        try:
            await self.supervisor.router.count()
        except (TimedOut, Internal) as error:
            log.debug("%s: the router could not be asked: %s", actor.record.name, error)
            actor.post(ev.ResumeAsked(by="request"))
            return False
        seen = look(before, self._facts(actor, self.supervisor.clock.now()), rule)
        if seen.awake:
            self._seen[actor.record.id] = seen
            actor.post(ev.ResumeAsked(by="request"))
            return False
        self._seen.pop(actor.record.id, None)
        return True


def period(rule: Idle) -> float:
    """Seconds between two looks: short against the first step, and never so short that looking costs."""
    first = min(after for after in (rule.suspend, rule.stop, rule.remove, LONGEST * 10) if after is not None)
    return max(SHORTEST, min(LONGEST, first / 10))


def is_idle(record: EnvRecord) -> bool:
    """It sleeps, or was stopped, for having been idle."""
    return record.suspended_by == "idle" or (record.state is State.STOPPED and record.cause == "idle")
