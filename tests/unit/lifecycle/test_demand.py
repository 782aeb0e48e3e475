"""Whether one more env may be made of a template, and when a key is free again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sandboxd.lifecycle.demand import (
    Made,
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
from sandboxd.lifecycle.records import EnvRecord, ServiceRecord
from sandboxd.lifecycle.states import State, Wanted
from sandboxd.spec import EnvSpec, Idle, Lifecycle, Network, OnDemand, Service


def template(*, lifecycle=None, **more):
    spec = EnvSpec(
        name="shop",
        services={"web": Service(command="x")},
        lifecycle=lifecycle or Lifecycle(),
        on_demand=OnDemand(key="cookie", **more),
    )
    return Template(name="shop", owner=1, group=1, spec=spec, created=0.0)


def record(key="cookie:a", **more):
    values = {"spec": spec_of(template()), "state": State.READY, "template": "shop", "source": "10.0.0.1", **more}
    return EnvRecord(
        id="0" * 32,
        name="shop-1",
        owner=1,
        group=1,
        services={"web": ServiceRecord(name="web")},
        created=0.0,
        key=key,
        **values,
    )


def test_of_many_users_each_has_a_template_of_that_name():
    own, of_box = template(), replace(template(), user="alice")
    assert (own.id, own.share) == ("shop", "")
    assert (of_box.id, of_box.share) == ("shop.alice", "private")
    shared = replace(of_box, spec=replace(of_box.spec, network=Network(share="box")))
    assert shared.share == "box"


def test_its_envs_are_no_templates_and_do_not_stay_for_ever():
    spec = spec_of(template())
    assert (spec.on_demand, spec.name) == (None, None)
    assert spec.lifecycle.idle.remove == 3600.0
    own = Lifecycle(ttl=5.0)
    assert spec_of(template(lifecycle=own)).lifecycle == own
    own = Lifecycle(idle=Idle(suspend=5.0))
    assert spec_of(template(lifecycle=own)).lifecycle == own


def test_ceilings_count_what_has_a_key():
    made = Made()
    for number, address in enumerate(("10.0.0.1", "10.0.0.1", "10.0.0.1")):
        made.add(f"a{number}", f"cookie:{number}", address)
    made.add("free", "", "")
    assert refusal(template(max=4), made, "10.0.0.1") is None
    assert refusal(template(max=3), made, "10.0.0.1").limit == "max"
    assert refusal(template(max=3), made, None).limit == "max"
    assert refusal(template(per_user=3), made, "10.0.0.1").limit == "per_user"
    assert refusal(template(per_user=3), made, "10.0.0.2") is None
    assert refusal(template(per_user=3), made, None) is None
    made.claim("free", "cookie:b", "10.0.0.2")
    assert (made.of("10.0.0.2"), list(made.free)) == (1, [])
    assert refusal(template(max=4), made, None).limit == "max"
    assert (made.drop("a0"), made.of("10.0.0.1")) == ("cookie:0", 2)
    assert refusal(template(max=4, per_user=3), made, "10.0.0.1") is None
    assert made.drop("unknown") == ""


@given(st.integers(1, 100), st.lists(st.floats(0, 30), max_size=400))
def test_no_more_than_the_rate_and_its_burst_come_through(rate, pauses):
    bucket, now, taken = None, 0.0, 0
    for pause in pauses:
        now += pause
        bucket, wait = drawn(bucket, rate, now)
        taken += not wait
        assert 0 <= wait <= 60 / rate + 1e-6
        assert 0 <= bucket.left <= rate
    assert taken <= rate + now * rate / 60 + 1e-6


def test_who_waits_as_told_is_let_through():
    bucket, now = None, 0.0
    for _ in range(5):
        bucket, wait = drawn(bucket, 5, now)
        assert wait == 0
    bucket, wait = drawn(bucket, 5, now)
    assert wait == pytest.approx(12)
    assert not is_full(bucket, 5, now)
    assert drawn(bucket, 5, now + wait + 0.001)[1] == 0
    assert is_full(bucket, 5, now + 61)
    assert drawn(None, 0, 0.0)[1] == 0
    assert "5 new" in too_fast(template(rate=5), 12.0).text


@pytest.mark.parametrize(
    ("changes", "over"),
    [
        ({}, False),
        ({"state": State.STOPPED}, True),
        ({"state": State.STOPPED, "wanted": Wanted.STOPPED}, False),
        ({"state": State.STOPPED, "cause": "idle", "wanted": Wanted.STOPPED}, False),
        ({"state": State.FAILED}, False),
        ({"state": State.FAILED, "cause": "memory"}, False),
        ({"state": State.FAILED, "cause": "ttl", "wanted": Wanted.STOPPED}, True),
        ({"state": State.STOPPING, "cause": "ttl"}, True),
        ({"wanted": Wanted.REMOVED}, True),
        ({"state": State.REMOVED, "wanted": Wanted.REMOVED}, True),
        ({"state": State.SUSPENDED}, False),
    ],
)
def test_when_a_key_is_free_again(changes, over):
    assert is_over(record(**changes)) is over


def test_what_does_not_get_ready_is_given_up():
    assert is_stuck(record(state=State.STARTING, started=100.0), 500.0)
    assert not is_stuck(record(state=State.STARTING, started=400.0), 500.0)
    assert not is_stuck(record(state=State.READY, started=100.0), 500.0)
    assert not is_stuck(record(state=State.QUEUED), 500.0)


def test_what_is_kept_warm():
    made = [record("", state=State.READY), record("", state=State.STARTING), record("", state=State.FAILED)]
    assert wanted_warm(template(warm=5), 1, made) == 3
    assert wanted_warm(template(warm=2), 1, made) == 0
    assert wanted_warm(template(warm=5, max=5), 1, made) == 2  # four have room beside the one with a key
    changed = template(warm=5, lifecycle=Lifecycle(ttl=9.0))
    assert wanted_warm(changed, 1, made) == 5
    assert not is_warm(made[0], spec_of(changed))
    assert not is_warm(replace(made[0], key="cookie:b"), spec_of(template()))
