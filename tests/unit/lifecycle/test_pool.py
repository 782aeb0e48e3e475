"""The pool follows the demand."""

from hypothesis import given
from hypothesis import strategies as st

from sandboxd.lifecycle.pool import MOST, WINDOW, noted, wanted


def after(times, coming=1):
    bursts: dict[int, int] = {}
    for time in times:
        bursts = noted(bursts, coming, time)
    return bursts


def test_it_grows_with_a_burst_and_shrinks_after():
    assert wanted({}, 4, 100.0) == 4
    burst = noted(after([100.1], 20), 3, 100.2)
    assert wanted(burst, 4, 100.5) == 20
    assert wanted(burst, 4, 100.0 + WINDOW - 1) == 20
    assert wanted(burst, 4, 101.0 + WINDOW) == 4
    assert wanted(after([100.1] * 30), 4, 100.2) == 4  # one after another
    assert wanted(after([100.1], 500), 4, 100.2) == MOST
    assert wanted(burst, 0, 100.5) == 0  # no pool at all was asked for


@given(st.lists(st.floats(0, 1000), max_size=200).map(sorted), st.integers(1, 16))
def test_it_stays_within_its_bounds_and_forgets(times, usual):
    bursts = after(times)
    now = times[-1] if times else 0.0
    assert usual <= wanted(bursts, usual, now) <= max(usual, MOST)
    assert len(bursts) <= WINDOW + 1
    assert wanted(bursts, usual, now + WINDOW + 1) == usual
