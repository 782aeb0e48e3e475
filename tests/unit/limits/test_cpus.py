"""The least loaded CPUs come first, by what was given out and by what is busy."""

import os

from hypothesis import given
from hypothesis import strategies as st

from sandboxd.limits.cpus import Load, rank, share, times


def test_what_was_given_counts_more_than_what_is_busy_now() -> None:
    assert rank([0, 1, 2], [], {}) == [0, 1, 2]
    assert rank([0, 1, 2], [[0], [0, 1]], {}) == [2, 1, 0]
    assert rank([0, 1, 2], [], {0: 0.9, 1: 0.2, 2: 0.5}) == [1, 2, 0]
    assert rank([0, 1], [[1]], {0: 0.9}) == [0, 1]
    assert rank([2, 3], [[0], [1]], {0: 1.0}) == [2, 3]


@given(st.lists(st.integers(0, 99), unique=True), st.lists(st.lists(st.integers(0, 99))))
def test_all_allowed_and_no_other(allowed: list[int], held: list[list[int]]) -> None:
    assert sorted(rank(allowed, held, {})) == sorted(allowed)


def test_shares_are_of_the_time_between_two_looks() -> None:
    assert share((0, 0), (50, 100)) == 0.5
    assert share((50, 100), (50, 100)) == 0.0
    assert share((60, 100), (50, 200)) == 0.0  # iowait may go backwards (proc_stat(5))


def test_the_kernel_tells_of_every_cpu_that_we_run_on() -> None:
    assert os.sched_getaffinity(0) <= set(times())
    assert all(0 <= busy <= 1 for busy in Load().busy().values())
