"""Verdicts: RSS never condemns, PSS and tmpfs do, and the words say what to do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.limits.usage import Sample
from sandboxd.limits.verdict import Verdict, amount, judge, over, suggested
from sandboxd.spec import Limits
from sandboxd.units import parse_size

M = 1 << 20


def sample(**more) -> Sample:
    return Sample(**{"rss": 0, "tmpfs": 0, "pids": 1, "cpu_seconds": 0.0, "io_read": 0, "io_write": 0, "now": 0.0, **more})


LIMITS = Limits(memory=100 * M)


@pytest.mark.parametrize(
    "seen",
    [
        sample(rss=1700 * M),
        sample(rss=1700 * M, pss=99 * M),
        sample(rss=1700 * M, pss=100 * M),
        sample(rss=0, tmpfs=300 * M),
        sample(pss=60 * M, tmpfs=60 * M, mapped=30 * M),
    ],
)
def test_within(seen):
    assert judge(seen, LIMITS, {}) == Verdict()
    assert judge(seen, LIMITS, {}).within
    assert judge(seen, LIMITS, {}).describe() == ""


def test_without_a_limit_nothing_is_over():
    assert judge(sample(pss=1 << 50), Limits(memory=None), {}).within


def test_over_says_how_much_and_what_to_do():
    verdict = judge(sample(rss=700 * M, pss=612 * M), Limits(memory=512 * M), {})
    assert not verdict.within
    assert (verdict.limit, verdict.value, verdict.ceiling) == ("memory", 612 * M, 512 * M)
    assert verdict.describe().startswith("512MiB limit, peak 612MiB;")
    assert "-m 768m" in verdict.describe()
    assert "/tmp" not in verdict.describe()


def test_files_in_memory_are_named_as_the_cause():
    verdict = judge(sample(pss=10 * M, tmpfs=95 * M), LIMITS, {})
    assert verdict.value == 105 * M
    assert "/dev/shm" in verdict.describe()


@given(st.integers(0, 1 << 45))
def test_what_is_suggested_would_have_been_enough(used):
    assert parse_size(suggested(used)) > used
    assert parse_size(suggested(used)) <= max(used * 3, 2 * M)


@given(st.builds(Sample, rss=st.integers(0, 1 << 45), pss=st.none() | st.integers(0, 1 << 45), tmpfs=st.integers(0, 1 << 45),
                 pids=st.just(1), cpu_seconds=st.just(0.0), io_read=st.just(0), io_write=st.just(0), now=st.just(0.0)),
       st.integers(1, 1 << 45))  # fmt: skip
def test_over_exactly_when_memory_is_known_to_be_more(seen, ceiling):
    verdict = judge(seen, Limits(memory=ceiling), {})
    assert verdict.within == (seen.pss is None or seen.pss + seen.tmpfs <= ceiling)


def test_only_what_is_sampled_is_judged():
    huge = sample(pss=1 << 50, pids=5000)
    assert judge(huge, Limits(memory=1, pids=10), {"memory": "cgroup", "pids": "rlimit"}).within
    verdict = judge(huge, Limits(pids=10), {"pids": "sampled"})
    assert (verdict.limit, verdict.value, verdict.ceiling) == ("pids", 5000, 10)
    assert "10 limit, peak 5000; raise it with --pids-limit" in verdict.describe()


@pytest.mark.parametrize("limit", Limits.__struct_fields__)
def test_every_limit_has_advice_and_words(limit):
    assert f"limits.{limit}" in over(limit, 3 << 20, 2 << 20).hint
    assert amount(limit, 2 << 20)
