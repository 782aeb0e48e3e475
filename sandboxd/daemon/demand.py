"""Templates, and the envs made from them: for a request that the router holds, for `ensure`, or ahead of their keys.

`lifecycle.demand` decides whether one more may be made; this one makes it, once for each key: who holds a key is written down
before anything is awaited. Every env made here is attended to its end, so that its key is free again when it is over.
"""

import asyncio
import logging
import secrets
import time
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from sandboxd.daemon.making import record_of, user_of
from sandboxd.daemon.routes import is_asleep
from sandboxd.errors import Ambiguous, NotFound, QueueFull, SandboxdError, StoreFailed, TimedOut
from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.demand import (
    NOT_READY,
    Bucket,
    Made,
    Refusal,
    Template,
    drawn,
    is_full,
    is_over,
    is_stuck,
    is_warm,
    refusal,
    spec_of,
    too_fast,
    wanted_warm,
)
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.sharing import Owner
from sandboxd.lifecycle.states import ENDED, State, Wanted
from sandboxd.routing.keys import Door, network_of, secret_of, slot_of
from sandboxd.routing.orders import Ask, Deny
from sandboxd.spec import EnvSpec
from sandboxd.store.secret import load_secret

if TYPE_CHECKING:
    from sandboxd.daemon.actor import Actor
    from sandboxd.daemon.supervisor import Supervisor

log = logging.getLogger(__name__)
SETTLE = 0.5  # seconds after an end in which a restart may follow
FAILED_FOR = 60.0  # seconds for which an env that failed keeps its key
MOST_BUCKETS = 4096
WARM_AT_ONCE = 4
LOOK = 1.0  # seconds between two looks at what is kept warm
LATER = 10.0  # seconds until one is tried again after a warm env has failed


class Demand:
    """The templates, by id, and what was made of each. held: by template and key."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self.supervisor = supervisor
        self.templates: dict[str, Template] = {}
        self._secret = load_secret(supervisor.settings.state_dir / "secret")
        self._made: dict[str, Made] = {}
        self._held: dict[tuple[str, str], Actor] = {}
        self._doors: dict[str, Door] = {}
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._not_before: dict[str, float] = {}
        self._ending: set[str] = set()  # templates that are being removed
        self._asks: list[Ask] = []
        self._fresh: list[Actor] | None = None  # those made within a transaction that is not through as yet
        self._attended: set[str] = set()
        self._specs: dict[str, tuple[Template, EnvSpec]] = {}
        found = []
        for data in supervisor.journal.templates():
            try:
                found.append(msgspec.json.decode(data, type=Template))
            except msgspec.MsgspecError as error:
                log.error("a template cannot be read and is left alone: %s", error)
        for template in sorted(found, key=lambda one: not one.user):
            one = self._of_one(template) if supervisor.settings.shared and not template.user else template
            self.templates[one.id] = one

    def _of_one(self, template: Template) -> Template:
        """From when all were one user's, as `sharing.of_one` for its envs. One that he registered since is the newer."""
        named = replace(template, user=user_of(template.owner))
        if named.id not in self.templates:
            self.supervisor.journal.put_template(named.id, msgspec.json.encode(named))
        self.supervisor.journal.remove_template(template.name)
        return self.templates.get(named.id, named)

    # -- templates -----------------------------------------------------------------------------------------------------

    def doors(self) -> dict[str, Door]:
        """The templates as the router knows them."""
        return {name: self.door(name) for name in self.templates}

    def door(self, name: str) -> Door:
        """One of them."""
        template = self.templates[name]
        known = self._doors.get(name)
        if known is None:
            rule = template.rule
            known = self._doors[name] = Door(
                host=f"{name}.{self.supervisor.settings.base_domain}",
                name=name,
                owner=template.owner,
                secret=secret_of(self._secret, template.owner, name),
                keys=rule.keys,
                create=rule.create,
                strip=rule.strip,
                waiting_page=rule.waiting_page,
                share=template.share,
            )
        return known

    def find(self, owner: int, name: str) -> Template:
        """The template of that name, among those that this uid may see; raises NotFound, Ambiguous."""
        found = [template for template in self.of(owner) if name in (template.name, template.id)]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(sorted(template.id for template in found))
            raise Ambiguous(f"{name!r} is the name of {len(found)} templates: {names}", hint="say whose: NAME.USER")
        raise NotFound(f"no template {name!r}", hint="`sandbox template ls` lists them; `sandbox up` registers one")

    def of(self, owner: int) -> list[Template]:
        """Those that this uid may see; root sees all."""
        return [template for _, template in sorted(self.templates.items()) if owner in (0, template.owner)]

    def register(self, template: Template) -> None:
        """Have it from now on; what waits for a key is made anew if it changed. Raises StoreFailed."""
        self.supervisor.journal.put_template(template.id, msgspec.json.encode(template))
        self.templates[template.id] = template
        self._doors.pop(template.id, None)
        self._not_before.pop(template.id, None)
        self.supervisor.routes_changed()
        self.tend(template.id)

    async def end(self, template: Template, made: list[str]) -> None:
        """Remove these envs of it, and then itself: a daemon that dies in between leaves a template that can be removed once
        more, not envs of none. Raises StoreFailed."""
        actors = self.supervisor.actors
        self._ending.add(template.id)
        try:
            await asyncio.gather(*(self.supervisor.remove(actors[env_id]) for env_id in made if env_id in actors))
            if template.id in self.templates:
                self._unregister(template.id)
        finally:
            self._ending.discard(template.id)

    def _unregister(self, name: str) -> None:
        self.supervisor.journal.remove_template(name)
        del self.templates[name]
        self._doors.pop(name, None)
        self._specs.pop(name, None)
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if key[0] != name}
        self.supervisor.routes_changed()
        self.tend(name)

    def made_of(self, name: str) -> list[EnvRecord]:
        """The records of all envs of a template."""
        made = self._of(name)
        return [self._as_claimed(made, env_id) for env_id in (*made.free, *made.keys) if env_id in self.supervisor.actors]

    def _of(self, name: str) -> Made:
        return self._made.setdefault(name, Made())

    def _as_claimed(self, made: Made, env_id: str) -> EnvRecord:
        """The record, with the key that it is about to have: the word of that is on its way."""
        record, key = self.supervisor.actors[env_id].record, made.keys.get(env_id, "")
        return record if record.key == key else replace(record, key=key)

    def _free(self, name: str) -> "list[Actor]":
        """Those that no key has, oldest first."""
        actors = self.supervisor.actors
        return [actors[env_id] for env_id in self._of(name).free if env_id in actors]

    # -- envs ------------------------------------------------------------------------------------------------------------

    def know(self, actor: "Actor") -> None:
        """An env that was made from a template, now or by an earlier daemon."""
        record = actor.record
        if not record.template:
            return
        self._of(record.template).add(record.id, record.key, record.source)
        if record.key and not is_over(record):
            self._held[record.template, record.key] = actor
        self.ended(actor)

    def ended(self, actor: "Actor") -> None:
        """It may have come to its end: then somebody attends to it."""
        record = actor.settled
        if record.state in ENDED and record.template and record.id not in self._attended:
            self._attended.add(record.id)
            self.supervisor.own(self._attend(actor), name=f"attend-{record.name}")

    def forget(self, actor: "Actor") -> None:
        """It is removed."""
        record = actor.record
        if not record.template:
            return
        held = record.template, self._of(record.template).drop(record.id)
        if self._held.get(held) is actor:
            del self._held[held]
        self.tend(record.template)

    def asked(self, ask: Ask) -> None:
        """A request is at the router whose key has no env."""
        if not self._asks:
            asyncio.get_running_loop().call_soon(self._serve)
        self._asks.append(ask)

    def _serve(self) -> None:
        """All that were asked for in one turn of the loop: their records are one transaction."""
        asks, self._asks = self._asks, []
        fresh = self._fresh = []
        try:
            with self.supervisor.journal.together():
                for ask in asks:
                    self._answer(ask)
        except StoreFailed as error:
            for actor in fresh:
                actor.refuse(error)
            for ask in asks if not fresh else []:
                self._deny(ask.slot, error, 5.0)
        finally:
            self._fresh = None

    def _answer(self, ask: Ask) -> None:
        template = self.templates.get(ask.template)
        if template is None or not self.supervisor.adopted:
            return  # the newest table tells, or it asks again
        try:
            self.obtain(template, ask.key, ask.source)
        except QueueFull as error:
            retry = error.details.get("retry_after", 5)
            self._deny(ask.slot, error, float(retry) if isinstance(retry, (int, float)) else 5.0)
        except SandboxdError as error:
            log.warning("template %s: no env could be made: %s", template.id, error)
            self._deny(ask.slot, error, 5.0)

    def _deny(self, slot: str, error: SandboxdError, retry: float) -> None:
        self.supervisor.router.deny(Deny(slot=slot, text=error.message, hint=error.hint, retry_after=max(1, round(retry))))

    def obtain(self, template: Template, key: str, source: str | None) -> "tuple[Actor, bool]":
        """The env of a key, and whether it was made for this; raises QueueFull, StoreFailed. source: who asks, or None."""
        held = self._held.get((template.id, key))
        if held is not None and not is_free(held.record, self.supervisor.clock.now()):
            return held, False
        if template.id in self._ending:
            raise NotFound(f"template {template.name} is being removed", hint="`sandbox template ls` lists those that stay")
        if self.supervisor.end_all:
            raise QueueFull("sandboxd is about to end", limit="leaving", retry_after=5)
        asks = source and network_of(source)
        made = self._of(template.id)
        found = refusal(template, made, asks) or (self._draw(template, asks) if asks else None)
        if found is not None:
            raise QueueFull(found.text, hint=found.hint, limit=found.limit, retry_after=max(1, round(found.retry_after)))
        actor = self._warm(template)
        if actor is not None:
            self._held[template.id, key] = actor
            made.claim(actor.record.id, key, asks or "")
            actor.post(ev.Claimed(key=key, source=asks or ""))
        else:
            actor = self._make(template, key, asks or "")
        self.tend(template.id)
        return actor, True

    def _draw(self, template: Template, source: str) -> Refusal | None:
        """Take one out of the source's bucket, or say how long it is empty."""
        now, rate = time.monotonic(), template.rule.rate
        if len(self._buckets) >= MOST_BUCKETS:
            self._buckets = {
                at: bucket
                for at, bucket in self._buckets.items()
                if at[0] in self.templates and not is_full(bucket, self.templates[at[0]].rule.rate, now)
            }
        bucket, wait = drawn(self._buckets.get((template.id, source)), rate, now)
        self._buckets[template.id, source] = bucket
        return too_fast(template, wait) if wait else None

    def _make(self, template: Template, key: str, source: str) -> "Actor":
        """A new env; raises QueueFull, StoreFailed."""
        name = f"{template.name}-{secrets.token_hex(4)}"
        while self.supervisor.by_name(template.owner, name) is not None:
            name = f"{template.name}-{secrets.token_hex(4)}"
        owner = Owner(template.owner, template.group, template.user)
        record = record_of(self._spec(template), name, template.environ, template.directory, owner)
        record = replace(record, template=template.id, key=key, source=source, accepted=template.accepted)
        actor = self.supervisor.create(record)
        if self._fresh is not None:
            self._fresh.append(actor)
        return actor

    def _spec(self, template: Template) -> EnvSpec:
        """What each of its envs is started with; one and the same for all, which saves those that plan them much."""
        known = self._specs.get(template.id)
        if known is None or known[0] is not template:
            known = self._specs[template.id] = template, spec_of(template)
        return known[1]

    async def _attend(self, actor: "Actor") -> None:
        """Until it is removed, or runs again: free its key when it is over, and remove it then."""
        while (record := actor.settled).state in ENDED and record.state is not State.REMOVED:
            stopped = record.wanted is Wanted.STOPPED and record.error is None and record.cause != "ttl"
            if record.key and (is_asleep(record) or stopped):
                await actor.wait_until(lambda record: record.state not in ENDED)
                continue
            if record.error is not None and record.key and record.template in self.templates:
                self._tell_failed(record)
                actor.post(ev.RemoveAsked())
            elif not record.key:
                self._not_before[record.template] = time.monotonic() + LATER
                actor.post(ev.RemoveAsked())
            else:
                try:
                    # what its own policy or somebody starts again keeps its key
                    patience = FAILED_FOR if record.state is State.FAILED and record.cause != "ttl" else SETTLE
                    await actor.wait_until(lambda record: record.state not in ENDED, patience)
                    continue
                except TimedOut:
                    actor.post(ev.RemoveAsked())
            await actor.wait_until(lambda record: False)
        self._attended.discard(record.id)

    def _tell_failed(self, record: EnvRecord) -> None:
        """Those who wait for an env that could not even be started are told why."""
        assert record.error is not None
        _, message, hint = record.error
        self._deny(slot_of(self.door(record.template).secret, record.key), SandboxdError(message, hint=hint), 5.0)

    # -- ahead of keys -----------------------------------------------------------------------------------------------------

    def _warm(self, template: Template) -> "Actor | None":
        """One that waits for a key: the one that is furthest."""
        free = self._free(template.id)
        waiting = [actor for actor in free if is_warm(actor.record, self._spec(template))]
        order = {State.READY: 0, State.STARTING: 1, State.QUEUED: 2}
        return min(waiting, key=lambda actor: (order[actor.record.state], actor.record.created), default=None)

    def tend(self, name: str) -> None:
        """Start what is missing of what a template keeps warm, and remove what is not as it says any more."""
        template = self.templates.get(name)
        if template is not None and not template.rule.warm and not self._of(name).free:
            return
        spec = self._spec(template) if template is not None else None
        free = self._free(name)
        for actor in free:
            if actor.record.state not in ENDED and (spec is None or actor.record.spec != spec):
                actor.post(ev.RemoveAsked())
        if template is None or name in self._ending or not self.supervisor.adopted or self.supervisor.end_all:
            return
        if time.monotonic() < self._not_before.get(name, 0.0) or self.supervisor.admission.waiting:
            return
        starting = sum(1 for actor in free if actor.record.state is not State.READY)
        wanted = wanted_warm(template, len(self._of(name).keys), (actor.record for actor in free))
        for _ in range(min(wanted, WARM_AT_ONCE - starting)):
            try:
                self._make(template, "", "")
            except (QueueFull, StoreFailed) as error:
                log.debug("template %s: none is kept warm now: %s", name, error)
                self._not_before[name] = time.monotonic() + LATER
                return

    async def run(self) -> None:
        """Keep warm what is to be, the pools as large and the journal as short as they are to be, until the daemon leaves."""
        while True:
            for name in {*self.templates, *self._made}:
                self.tend(name)
            now = self.supervisor.clock.now()
            for actor in list(self.supervisor.actors.values()):
                if actor.record.template and is_stuck(actor.record, now):
                    actor.post(ev.KillAsked(cause="unready", reason=f"it was not ready after {NOT_READY:.0f} s"))
            self.supervisor.pooling.tend()
            self.supervisor.kept.tend()
            await asyncio.sleep(LOOK)


def is_free(record: EnvRecord, now: float) -> bool:
    """Whether the key of an env may be another's now: it is over, and no restart follows."""
    if not record.key and record.state in ENDED:
        return True  # it ended before the word of its key came
    ended = record.state in ENDED and now - (record.finished or 0.0) >= SETTLE
    return is_over(record) and (ended or record.state is State.REMOVED)
