"""Templates, and whether one more env may be made from one: ceilings of the template, and how fast one address asks. Pure.

A template is a spec that is started for each key that comes. What an address may ask for flows back into its bucket with time;
whoever asks for nothing new takes nothing out of it. An env belongs to its key as long as it lives: `is_over` says when not.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Literal, NamedTuple

import msgspec
from msgspec.structs import replace

from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.states import ENDED, State, Wanted
from sandboxd.spec import EnvSpec, Idle, OnDemand

NOT_READY = 300.0  # seconds after which what does not get ready is given up: it takes the place of another
UNUSED = 3600.0  # seconds without use after which an env goes whose template says nothing of its end


class Template(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon remembers of a template. user: as an env's; environ: of whoever registered it, as for an env of his."""

    name: str
    owner: int
    group: int
    user: str = ""
    spec: EnvSpec
    environ: dict[str, str] = {}
    directory: str | None = None
    accepted: list[str] = []
    created: float

    @property
    def id(self) -> str:
        """What no other template is called: what stands before the base domain in its URL. A template's name has no dot."""
        return f"{self.name}.{self.user}" if self.user else self.name

    @property
    def share(self) -> Literal["", "private", "box", "link"]:
        """As an env's."""
        return self.spec.network.share or ("private" if self.user else "")

    @property
    def rule(self) -> OnDemand:
        """Its `[on_demand]`."""
        assert self.spec.on_demand is not None
        return self.spec.on_demand


class Refusal(NamedTuple):
    """Why no env is made now, what to do, and when to ask again (seconds)."""

    limit: str
    text: str
    hint: str
    retry_after: float


class Bucket(NamedTuple):
    """What an address may still ask for, as it was at some time."""

    left: float
    at: float


def spec_of(template: Template) -> EnvSpec:
    """What each of its envs is started with: nothing made on demand stays for ever."""
    spec = replace(template.spec, on_demand=None, name=None)
    if spec.lifecycle.idle is None and spec.lifecycle.ttl is None:
        spec = replace(spec, lifecycle=replace(spec.lifecycle, idle=Idle(remove=UNUSED)))
    return spec


class Made:
    """What was made of one template, by env id: the key of each that has one, and those that wait for theirs. Kept up with each
    change, as a burst asks for each of its keys anew."""

    def __init__(self) -> None:
        self.keys: dict[str, str] = {}
        self.free: dict[str, None] = {}  # oldest first
        self._sources: dict[str, str] = {}
        self._counts: Counter[str] = Counter()

    def add(self, env_id: str, key: str, source: str) -> None:
        """One more."""
        if key:
            self.claim(env_id, key, source)
        else:
            self.free[env_id] = None

    def claim(self, env_id: str, key: str, source: str) -> None:
        """It is that key's, asked for by that address ("": by the owner) from here on."""
        self.drop(env_id)
        self.keys[env_id] = key
        self._sources[env_id] = source
        self._counts[source] += 1

    def drop(self, env_id: str) -> str:
        """It is removed; the key it had."""
        self.free.pop(env_id, None)
        source = self._sources.pop(env_id, None)
        if source is not None:
            self._counts[source] -= 1
            if not self._counts[source]:
                del self._counts[source]
        return self.keys.pop(env_id, "")

    def of(self, source: str) -> int:
        """How many were made for an address."""
        return self._counts[source]


def refusal(template: Template, made: Made, source: str | None) -> Refusal | None:
    """What keeps a template from one more env. source: who asks, None: its owner, by name."""
    rule = template.rule
    if len(made.keys) >= rule.max:
        return Refusal(
            "max",
            f"{rule.max} environments are there, which is all that {template.name} may have",
            f"Try again later, or raise on_demand.max of {template.name}.",
            5.0,
        )
    if source is not None and rule.per_user is not None:
        own = made.of(source)
        if own >= rule.per_user:
            return Refusal(
                "per_user",
                f"{own} environments were made for this address, which is all that {template.name} makes for one",
                f"Use one of them, or raise on_demand.per_user of {template.name}.",
                5.0,
            )
    return None


def drawn(bucket: Bucket | None, rate: int, now: float) -> tuple[Bucket, float]:
    """Take one env out of an address's bucket, which holds a minute's worth: what is left, and the seconds until there is one
    (0: it was taken). rate: envs a minute, 0: as many as one likes."""
    if rate == 0:
        return Bucket(0.0, now), 0.0
    left = float(rate) if bucket is None else min(float(rate), bucket.left + max(0.0, now - bucket.at) * rate / 60)
    if left < 1:
        return Bucket(left, now), (1 - left) * 60 / rate
    return Bucket(left - 1, now), 0.0


def is_full(bucket: Bucket, rate: int, now: float) -> bool:
    """Whether a bucket says nothing any more that a new one would not."""
    return bucket.left + (now - bucket.at) * rate / 60 >= rate


def too_fast(template: Template, wait: float) -> Refusal:
    """More new keys of one address than may come."""
    rate = template.rule.rate
    text = f"{rate} new environments a minute are made for one address"
    return Refusal("rate", text, f"Try again in a moment, or raise on_demand.rate of {template.name}.", wait)


def is_over(record: EnvRecord) -> bool:
    """Whether its key is free for another env: it came to its end by itself or by its ttl. What failed keeps its key for a
    while, so that it can be looked at and is not made again and again; what somebody stopped keeps it, too."""
    if record.wanted is Wanted.REMOVED or record.state is State.REMOVED:
        return True
    if record.cause == "ttl":
        return record.state in (*ENDED, State.STOPPING)
    return record.state is State.STOPPED and record.wanted is Wanted.RUNNING and record.cause != "idle"


def is_stuck(record: EnvRecord, now: float) -> bool:
    """Whether it will hardly get ready any more."""
    return record.state is State.STARTING and record.started is not None and now - record.started > NOT_READY


def is_warm(record: EnvRecord, spec: EnvSpec) -> bool:
    """Whether an env waits for a key, as the template is now."""
    return (
        not record.key
        and record.state in (State.QUEUED, State.STARTING, State.READY)
        and (replace(record.spec, name=None) == spec and not is_over(record))
    )


def wanted_warm(template: Template, keyed: int, waiting: Iterable[EnvRecord]) -> int:
    """How many more are to be started ahead of their keys. keyed: how many have one; waiting: those that have none."""
    spec = spec_of(template)
    ready = sum(1 for record in waiting if is_warm(record, spec))
    return max(0, min(template.rule.warm, template.rule.max - keyed) - ready)
