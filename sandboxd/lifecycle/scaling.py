"""How many replicas an env is to have, and what follows for those that are there. Pure: time and counts are arguments.

Up at once, down late: more are wanted as soon as the load needs them; fewer once it has needed fewer for the whole of
`down_after`, and then as many as it needed at its highest in that time, so that a load that swings makes none come and go. The
first replica is the env itself; to zero and back is its idle ladder. Invariant: what is wanted is within `min` (one at least)
and `max`, whatever the load; nobody is drained while a replacement is still to come.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.states import ENDED, State, Wanted
from sandboxd.spec import EnvSpec, Idle, Replicas, Workspace

SPARE = 0.8  # of what the next smaller number could bear: a load at the edge must not swing between two numbers


class Level(NamedTuple):
    """How many are wanted; since when the load needs fewer (None: it does not), and how many it needed at most since then."""

    wanted: int = 1
    since: float | None = None
    peak: int = 1


def decide(rule: Replicas, level: Level, load: int, now: float) -> Level:
    """The level after a look. load: connections in use, over all replicas."""
    least = min(max(rule.min, 1), max(rule.max, 1))
    most = max(rule.max, 1)
    wanted = min(max(level.wanted, least), most)
    needed = min(max(math.ceil(load / rule.target_connections), least), most)
    if needed > wanted:
        return Level(wanted=needed)
    enough = min(max(math.ceil(load / (rule.target_connections * SPARE)), least), wanted)
    if enough >= wanted:
        return Level(wanted=wanted)
    since = now if level.since is None else level.since
    peak = enough if level.since is None else max(level.peak, enough)
    if now - since < rule.down_after:
        return Level(wanted, since, peak)
    return Level(wanted=min(max(peak, least), wanted))


class Replica(NamedTuple):
    """One besides the first. fresh: of the spec that holds now; busy: connections in use; draining: since when."""

    env_id: str
    number: int
    state: Literal["coming", "ready", "ended"]
    fresh: bool = True
    busy: int = 0
    draining: float | None = None


class Plan(NamedTuple):
    """What to do: numbers to start, ids to drain, to keep after all, to end now."""

    start: list[int]
    drain: list[str]
    keep: list[str]
    end: list[str]


def plan(wanted: int, replicas: Sequence[Replica], drain_timeout: float, now: float) -> Plan:
    """Have as many as wanted besides the first. What is drained ends once nobody uses it, or after its time."""
    ended = [one for one in replicas if one.state == "ended"]
    fresh = sorted((one for one in replicas if one.fresh and one not in ended), key=lambda one: (one.draining or 0, one.number))
    kept, spare = fresh[: max(0, wanted)], fresh[max(0, wanted) :]
    taken = {one.number for one in replicas if one not in ended}
    free = (number for number in range(2, len(taken) + max(0, wanted) + 3) if number not in taken)
    start = [number for number, _ in zip(free, range(wanted - len(kept)), strict=False)]
    stale = [one for one in replicas if not one.fresh and one not in ended]
    settled = not start and all(one.state == "ready" for one in kept)
    going = [*spare, *(one for one in stale if settled or one.draining is not None or one.state != "ready")]
    over = [one for one in going if one.draining is not None and (not one.busy or now - one.draining >= drain_timeout)]
    return Plan(
        start=start,
        drain=[one.env_id for one in going if one.draining is None],
        keep=[one.env_id for one in kept if one.draining is not None],
        end=[one.env_id for one in (*ended, *over)],
    )


def is_scaled(record: EnvRecord) -> bool:
    """Whether an env may have replicas; a replica has none."""
    return not record.replica_of and (record.spec.scale is not None or record.replicas is not None)


def rests(record: EnvRecord) -> bool:
    """Whether an env is to have no replicas now: it was stopped, is going, or sleeps until somebody asks for it."""
    if record.wanted is not Wanted.RUNNING or record.state in (State.REMOVED, State.SUSPENDED):
        return True
    return record.cause == "idle" or record.replicas == 0


def is_lost(record: EnvRecord) -> bool:
    """Whether the first replica has ended although it is to run, and nothing else will start it again."""
    return is_scaled(record) and record.state in ENDED and not rests(record) and record.error is None


def replica_spec(record: EnvRecord, name: str) -> EnvSpec:
    """A replica's own spec: as the env's, without what there can be one of only, and what its env decides for all."""
    spec = record.spec
    return EnvSpec(
        services=spec.services,
        name=name,
        workspace=Workspace(path=spec.workspace.path, mode=spec.workspace.mode),
        env=spec.env,
        limits=record.limits,
        isolation=spec.isolation,
        network=type(spec.network)(mode=spec.network.mode, egress=spec.network.egress, forward=spec.network.forward),
        mounts=spec.mounts,
        labels=spec.labels,
    )


def idle_rule(record: EnvRecord) -> Idle | None:
    """What becomes of an env that nobody uses: as its spec says; one that may scale to zero stops after `down_after`.

    None while it has replicas or is told how many to have: what it needs then is not for one of them to decide.
    """
    if record.replica_of or (record.replicas or 0) > 1:
        return None
    scale = record.spec.scale
    if record.spec.lifecycle.idle is not None or scale is None or scale.min > 0 or record.replicas is not None:
        return record.spec.lifecycle.idle
    return Idle(stop=scale.down_after)
