"""Scaling's decisions: bounded and steady for every load and moment, up at once, down late, nobody drained for nothing."""

import itertools

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.scaling import Level, Replica, decide, idle_rule, is_lost, is_scaled, plan, replica_spec, rests
from sandboxd.lifecycle.states import State, Wanted
from sandboxd.spec import EnvSpec, Idle, Lifecycle, Network, Publish, Replicas, RouteRule, Service

RULE = Replicas(min=1, max=4, target_connections=10, down_after=30.0)
RULES = st.builds(
    Replicas,
    min=st.integers(0, 6),
    max=st.integers(1, 6),
    target_connections=st.integers(1, 50),
    down_after=st.floats(0.1, 100),
)
LEVELS = st.builds(Level, wanted=st.integers(-2, 300), since=st.none() | st.floats(0, 1e6), peak=st.integers(-2, 300))


def record(**changes: object) -> EnvRecord:
    spec = EnvSpec(name="shop", services={"web": Service(command="x", port=80)}, scale=RULE)
    env = EnvRecord(id="a" * 32, name="shop", owner=1, group=1, spec=spec, services={}, created=0.0, state=State.READY)
    return replace(env, started=1.0, **changes)


@given(rule=RULES, level=LEVELS, load=st.integers(0, 10_000), now=st.floats(0, 1e6))
def test_what_is_wanted_is_within_bounds_whatever_came_before(rule: Replicas, level: Level, load: int, now: float) -> None:
    wanted = decide(rule, level, load, now).wanted
    assert min(max(rule.min, 1), rule.max) <= wanted <= rule.max


@given(rule=RULES, load=st.integers(0, 400), wanted=st.integers(1, 6), steps=st.lists(st.floats(0.1, 50), max_size=30))
def test_a_load_that_stands_still_moves_it_at_most_once_and_one_way(
    rule: Replicas, load: int, wanted: int, steps: list[float]
) -> None:
    level, now, seen = Level(wanted), 0.0, []
    for pause in [0.0, *steps]:
        now += pause
        level = decide(rule, level, load, now)
        seen.append(level.wanted)
    changes = [later - earlier for earlier, later in itertools.pairwise(seen) if later != earlier]
    assert len(changes) <= 1
    assert all(change < 0 for change in changes)  # up was at once, at the first look


def test_up_is_at_once_and_as_far_as_is_needed() -> None:
    assert decide(RULE, Level(1), 10, 0.0).wanted == 1
    assert decide(RULE, Level(1), 11, 0.0).wanted == 2
    assert decide(RULE, Level(1), 35, 0.0).wanted == 4
    assert decide(RULE, Level(1), 1000, 0.0).wanted == 4


def test_down_is_late_and_to_the_most_that_was_needed_meanwhile() -> None:
    level = decide(RULE, Level(4), 0, 100.0)
    assert level.wanted == 4
    level = decide(RULE, level, 12, 110.0)  # two would do
    level = decide(RULE, level, 0, 129.9)
    assert level.wanted == 4
    level = decide(RULE, level, 0, 130.0)
    assert level == Level(2)
    level = decide(RULE, level, 0, 131.0)
    assert decide(RULE, level, 0, 160.9).wanted == 2
    assert decide(RULE, level, 0, 161.0).wanted == 1


def test_a_load_that_comes_back_in_time_ends_nothing() -> None:
    level = decide(RULE, Level(2), 3, 0.0)
    level = decide(RULE, level, 15, 29.0)
    assert level == Level(2)
    assert decide(RULE, level, 3, 31.0).wanted == 2


def test_at_the_edge_of_two_numbers_it_stays() -> None:
    level = Level(2)
    for now in range(1000):
        level = decide(RULE, level, 9 + now % 3, float(now))
    assert level.wanted == 2


REPLICAS = st.lists(
    st.builds(
        Replica,
        env_id=st.uuids().map(str),
        number=st.integers(2, 12),
        state=st.sampled_from(["coming", "ready", "ended"]),
        fresh=st.booleans(),
        busy=st.integers(0, 3),
        draining=st.none() | st.floats(0, 100),
    ),
    max_size=8,
    unique_by=lambda one: one.number,
)


@given(wanted=st.integers(-1, 10), replicas=REPLICAS, now=st.floats(100, 200))
def test_a_plan_adds_up(wanted: int, replicas: list[Replica], now: float) -> None:
    made = plan(wanted, replicas, 30.0, now)
    by_id = {one.env_id: one for one in replicas}
    alive = [one for one in replicas if one.state != "ended"]
    going = set(made.drain) | set(made.end) | {one.env_id for one in alive if one.draining is not None} - set(made.keep)
    staying = [one for one in alive if one.env_id not in going]
    assert len([one for one in staying if one.fresh]) + len(made.start) == max(0, wanted)
    assert not set(made.start) & {one.number for one in alive}
    assert len(set(made.start)) == len(made.start)
    for env_id in made.end:  # nobody who is in use is ended before its time
        one = by_id[env_id]
        assert one.state == "ended" or (one.draining is not None and (not one.busy or now - one.draining >= 30.0))
    for env_id in made.keep:
        assert by_id[env_id].draining is not None
        assert env_id not in made.end
    if made.start or any(one.state == "coming" and one.fresh for one in staying):
        ready = {one.env_id for one in alive if not one.fresh and one.state == "ready" and one.draining is None}
        assert not ready & set(made.drain)  # the old ones serve until the new ones do


def test_the_highest_numbers_go_first_and_those_that_go_may_come_back() -> None:
    three = [Replica(str(number), number, "ready") for number in (2, 3, 4)]
    assert plan(1, three, 30.0, 0.0).drain == ["3", "4"]
    draining = [three[0], three[1]._replace(draining=1.0, busy=1), three[2]._replace(draining=1.0)]
    assert plan(1, draining, 30.0, 2.0).end == ["4"]
    assert plan(2, draining, 30.0, 2.0).keep == ["3"]
    assert plan(1, draining, 30.0, 31.0).end == ["3", "4"]


def test_what_ended_is_replaced_and_its_number_used_again() -> None:
    made = plan(2, [Replica("x", 2, "ended"), Replica("y", 3, "ready")], 30.0, 0.0)
    assert (made.start, made.end) == ([2], ["x"])


def test_only_an_env_that_is_to_run_has_replicas() -> None:
    assert is_scaled(record())
    assert not is_scaled(record(replica_of="b" * 32))
    plain = replace(record(), spec=replace(record().spec, scale=None))
    assert not is_scaled(plain)
    assert is_scaled(replace(plain, replicas=3))
    assert not rests(record())
    for resting in (
        record(wanted=Wanted.STOPPED),
        record(state=State.SUSPENDED),
        record(state=State.STOPPED, cause="idle"),
        record(replicas=0),
    ):
        assert rests(resting)
        assert not is_lost(resting)
    assert is_lost(record(state=State.FAILED, cause="killed"))
    assert not is_lost(replace(plain, state=State.FAILED))


def test_a_replica_has_nothing_that_there_is_one_of() -> None:
    spec = replace(
        record().spec,
        network=Network(publish=[Publish(host_port=8080, port=80)]),
        routes=[RouteRule(path="/api")],
        lifecycle=Lifecycle(ttl=60.0, restart="always"),
    )
    own = replica_spec(replace(record(), spec=spec, overrides={"memory": 1 << 30}), "shop-2")
    assert (own.name, own.scale, own.routes, own.network.publish, own.lifecycle) == ("shop-2", None, [], [], Lifecycle())
    assert own.limits.memory == 1 << 30
    assert own.services == spec.services


def test_to_zero_only_where_that_is_asked_for() -> None:
    assert idle_rule(record()) is None
    zero = replace(record(), spec=replace(record().spec, scale=Replicas(min=0, down_after=5.0)))
    assert idle_rule(zero) == Idle(stop=5.0)
    assert idle_rule(replace(zero, replicas=2)) is None
    assert idle_rule(replace(zero, replica_of="b" * 32)) is None
    own = Idle(suspend=1.0)
    assert idle_rule(replace(zero, spec=replace(zero.spec, lifecycle=Lifecycle(idle=own)))) == own
