"""Looks come often while an env grows, seldom while it stands still, and never stop."""

from hypothesis import given
from hypothesis import strategies as st

from sandboxd.limits.pace import LEAST, MOST_TIMES, SELDOM, TICK, pause
from sandboxd.limits.usage import Sample

M = 1 << 20


def seen(now: float, cpu: float, memory: int) -> Sample:
    return Sample(rss=memory, tmpfs=0, pids=1, cpu_seconds=cpu, io_read=0, io_write=0, now=now)


def test_the_first_look_is_followed_by_the_usual_pause() -> None:
    assert pause(seen(1, 1, M), None, 100 * M, sampled=True, earlier=0) == TICK
    assert pause(seen(1, 1, M), None, None, sampled=False, earlier=0) == SELDOM


def test_an_env_that_grows_is_looked_at_before_it_can_be_there() -> None:
    # 10 MiB in 0.1 s: 50 MiB more take half a second, which is the usual pause twice
    assert pause(seen(1.1, 1.1, 50 * M), seen(1, 1, 40 * M), 100 * M, sampled=True, earlier=TICK) == TICK
    assert 0.04 < pause(seen(1.1, 1.1, 90 * M), seen(1, 1, 80 * M), 100 * M, sampled=True, earlier=TICK) < 0.06
    assert pause(seen(1.1, 1.1, 200 * M), seen(1, 1, 80 * M), 100 * M, sampled=True, earlier=TICK) == LEAST
    assert pause(seen(1.1, 1.1, 40 * M), seen(1, 1, 80 * M), 100 * M, sampled=True, earlier=TICK) == TICK


def test_an_env_that_stands_still_is_looked_at_ever_less_often() -> None:
    found = TICK
    for expected in (2, 4, 8, 8):
        found = pause(seen(2, 1, M), seen(1, 1, M), 100 * M, sampled=True, earlier=found)
        assert found == expected * TICK
    assert pause(seen(2, 1, M), seen(1, 1, M), None, sampled=False, earlier=SELDOM) == MOST_TIMES * SELDOM


SAMPLES = st.builds(seen, st.floats(0, 1e6), st.floats(0, 1e6), st.integers(0, 1 << 40))


@given(SAMPLES, SAMPLES, st.none() | st.integers(1, 1 << 40), st.booleans(), st.floats(0, 100))
def test_the_pause_is_always_within_its_bounds(
    last: Sample, before: Sample, limit: int | None, sampled: bool, earlier: float
) -> None:
    found = pause(last, before, limit, sampled=sampled, earlier=earlier)
    assert LEAST <= found <= SELDOM * MOST_TIMES
