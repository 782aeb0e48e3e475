"""Whether an env is used: each kind of use by itself, what keep-alives may do, and the ladder down."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.lifecycle.idle import Facts, look, next_step, outlook
from sandboxd.spec import Idle

RULE = Idle(suspend=60.0, stop=600.0, remove=6000.0)


def watched(*facts, rule=RULE):
    """What is known after looks at these."""
    seen = None
    for one in facts:
        seen = look(seen, one, rule)
    return seen


def test_what_nobody_touches_is_unused_since_the_first_look():
    seen = watched(*(Facts(now=float(now), cpu=1.0) for now in range(100)))
    assert (seen.since, seen.awake) == (0.0, [])


@pytest.mark.parametrize(
    ("before", "after", "rule", "said"),
    [
        ({}, {"busy": 1}, {}, "1 request under way"),
        ({}, {"busy": 2}, {}, "2 requests under way"),
        ({"requests": 4}, {"requests": 5}, {}, "a request a moment ago"),
        ({}, {"tunnels": 1}, {}, "just opened or closed"),
        ({"tunnels": 1}, {"tunnels": 1, "tunnelled": 1025}, {}, "through 1 open tunnel"),
        ({}, {"sessions": 1}, {}, "1 open session of exec or attach"),
        ({"cpu": 1.0}, {"cpu": 2.0}, {}, "10% of a CPU"),
        ({}, {"busy": 1, "requests": 1}, {"requests": False}, ""),
        ({}, {"sessions": 1}, {"sessions": False}, ""),
        ({"tunnels": 1}, {"tunnels": 1, "tunnelled": 1024}, {}, ""),
        ({"tunnels": 1}, {"tunnels": 1, "tunnelled": 5000}, {"traffic": 5000}, ""),
        ({"cpu": 1.0}, {"cpu": 1.4}, {}, ""),
        ({"cpu": 1.0}, {"cpu": 2.0}, {"cpu": 20.0}, ""),
        ({"tunnelled": 9000}, {"tunnelled": 0}, {}, ""),
    ],
)
def test_what_counts_as_use(before, after, rule, said):
    rule = Idle(suspend=60.0, **rule)
    seen = watched(Facts(now=0.0, **before), Facts(now=10.0, **after), rule=rule)
    assert seen.since == (10.0 if said else 0.0)
    assert any(said in text for text in seen.awake) if said else not seen.awake


def test_pings_for_an_hour_are_no_use_and_typing_is():
    pings = watched(*(Facts(now=now * 20.0, tunnels=1, tunnelled=now * 60) for now in range(180)))
    assert pings.since == 0.0
    typing = watched(*(Facts(now=now * 5.0, tunnels=1, tunnelled=now * 200) for now in range(60)))
    assert typing.since > 200.0


def test_bytes_of_long_ago_count_no_more():
    facts = [Facts(now=0.0, tunnels=1), Facts(now=1.0, tunnels=1, tunnelled=9000)]
    facts += [Facts(now=float(now), tunnels=1, tunnelled=9000) for now in range(2, 300)]
    assert watched(*facts).since < 62.0


def test_a_load_is_told_over_a_second_at_least():
    facts = [Facts(now=0.1 * step, cpu=0.01 * (step // 5)) for step in range(100)]  # 2 %, in hundredths of a second
    assert watched(*facts).since == 0.0


def test_work_without_clients_keeps_it_awake():
    facts = [Facts(now=float(now), cpu=0.3 * now) for now in range(100)]
    assert watched(*facts).since == 99.0


def test_the_ladder():
    assert next_step(RULE, "ready", 100.0) == ("suspend", 160.0)
    assert next_step(RULE, "suspended", 100.0) == ("stop", 700.0)
    assert next_step(RULE, "stopped", 100.0) == ("remove", 6100.0)
    assert next_step(Idle(remove=5.0), "ready", 1.0) == ("remove", 6.0)
    assert next_step(Idle(suspend=5.0), "suspended", 1.0) is None
    assert next_step(RULE, "starting", 1.0) is None


def test_people_are_told_what_is_coming():
    assert outlook(RULE, "ready", 0.0, 15.0) == ["nothing, for 15s: it is suspended in 45s"]
    assert outlook(RULE, "stopped", 0.0, 600.0) == ["nothing, for 10m: it is removed in 1h30m"]
    assert "--idle" in outlook(None, "ready", 0.0, 0.0)[0]


FACTS = st.builds(
    dict,
    busy=st.integers(0, 2),
    requests=st.integers(0, 3),
    tunnels=st.integers(0, 2),
    tunnelled=st.integers(0, 5000),
    sessions=st.integers(0, 1),
    cpu=st.one_of(st.none(), st.floats(0, 10)),
)


@given(st.lists(st.tuples(st.floats(0.01, 100.0), FACTS), max_size=20))
def test_it_is_used_now_or_the_time_stands(looks):
    seen, now = None, 0.0
    for pause, facts in looks:
        before, now = seen, now + pause
        seen = look(before, Facts(now=now, **facts), RULE)
        if before is None or seen.awake:
            assert seen.since == now
        else:
            assert seen.since == before.since
