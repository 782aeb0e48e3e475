"""The pool follows the demand, and what templates say of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.lifecycle.pool import COST, MOST, PART, WINDOW, Bounds, budget, granted, noted, refusal, wanted

PLENTY = 1 << 50
GIB = 1 << 30


def after(times, coming=1):
    bursts: dict[int, int] = {}
    for time in times:
        bursts = noted(bursts, coming, time)
    return bursts


def test_it_grows_with_a_burst_and_shrinks_after():
    assert wanted({}, 4, PLENTY, 100.0) == 4
    burst = noted(after([100.1], 20), 3, 100.2)
    assert wanted(burst, 4, PLENTY, 100.5) == 20
    assert wanted(burst, 4, PLENTY, 100.0 + WINDOW - 1) == 20
    assert wanted(burst, 4, PLENTY, 101.0 + WINDOW) == 4
    assert wanted(after([100.1] * 30), 4, PLENTY, 100.2) == 4  # one after another
    assert wanted(after([100.1], 500), 4, PLENTY, 100.2) == MOST
    assert wanted(burst, 0, PLENTY, 100.5) == 0  # no pool at all was asked for


def test_what_came_at_once_is_kept_as_far_as_memory_goes():
    spike = after([100.1], 200)
    assert wanted(spike, 4, 200 * COST * PART, 100.2) == 200
    assert wanted(spike, 4, 200 * COST * PART - 1, 100.2) == 199
    assert wanted(spike, 4, COST, 100.2) == 4
    assert wanted(spike, 4, -COST, 100.2) == 4  # less is left than is to stay free


@given(st.lists(st.floats(0, 1000), max_size=200).map(sorted), st.integers(1, 16))
def test_it_stays_within_its_bounds_and_forgets(times, usual):
    bursts = after(times)
    now = times[-1] if times else 0.0
    assert usual <= wanted(bursts, usual, PLENTY, now) <= max(usual, MOST)
    assert len(bursts) <= WINDOW + 1
    assert wanted(bursts, usual, PLENTY, now + WINDOW + 1) == usual


def test_what_templates_may_have_kept_is_the_operators_to_say():
    assert budget(None, 20 * GIB) == GIB
    assert budget(0, 20 * GIB) == 0
    room = Bounds(GIB, None, 1 << 20)
    assert refusal(256, 0, room, is_alone=True) is None
    found = refusal(257, 0, room, is_alone=True)
    assert found is not None
    assert found.limit == "pool_memory"
    assert "places for 256" in found.text
    assert "SANDBOXD_POOL_MEMORY (1GiB)" in found.hint
    assert refusal(56, 200, room, is_alone=True) is None
    assert refusal(57, 200, room, is_alone=True) is not None
    assert refusal(28, 200, room, is_alone=False) is None, "half of what the others leave"
    assert refusal(29, 200, room, is_alone=False) is not None
    assert refusal(1, 300, room, is_alone=True) is not None, "less is allowed than was"


@pytest.mark.parametrize(
    ("limit", "room", "word"), [("namespaces", Bounds(GIB, 80, 1 << 20), "80"), ("descriptors", Bounds(GIB, None, 720), "720")]
)
def test_places_leave_most_of_a_quota_to_envs(limit, room, word):
    assert refusal(10, 0, room, is_alone=True) is None
    found = refusal(11, 0, room, is_alone=True)
    assert found is not None
    assert (found.limit, word in found.hint) == (limit, True)


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 50), max_size=8), st.integers(-10, 200))
def test_the_first_have_their_places_first(asked, room):
    found = granted(asked, room)
    assert list(found) == list(asked)
    assert sum(found.values()) == max(0, min(room, sum(asked.values())))
    short = [name for name in asked if found[name] < asked[name]]
    assert all(found[name] == 0 for name in list(asked)[list(asked).index(short[0]) + 1 :] if asked[name]) if short else True
