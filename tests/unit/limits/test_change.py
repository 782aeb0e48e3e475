"""`update` refuses what cannot be meant, what cannot reach what runs, and what is below what is in use; nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.errors import InvalidState, LimitUnenforceable, UsageError
from sandboxd.limits.change import changed, overrides, refuse, refuse_below_use
from sandboxd.spec import Limits

M = 1 << 20


def test_what_is_named_changes_and_the_rest_stays() -> None:
    assert changed(Limits(memory=M, cpus=2), {"memory": 2 * M}) == Limits(memory=2 * M, cpus=2)
    assert changed(Limits(memory=M), {"memory": None}).memory is None


@pytest.mark.parametrize("asked", [{"memry": 1}, {"memory": -1}, {"memory": 1.5}, {"pids": "many"}, {"cpus": True}])
def test_what_cannot_be_meant(asked: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        changed(Limits(), asked)  # type: ignore[arg-type]


LIMITS = st.builds(
    Limits,
    memory=st.none() | st.integers(1, 1 << 40),
    cpus=st.none() | st.floats(0.01, 64),
    pids=st.none() | st.integers(1, 9999),
)


@given(LIMITS, LIMITS)
def test_spec_and_overrides_give_back_what_was_wanted(spec: Limits, wanted: Limits) -> None:
    assert changed(spec, overrides(spec, wanted)) == wanted
    assert overrides(spec, spec) == {}


BARE = {"pids": "rlimit", "memory": "sampled", "nofile": "rlimit"}
KERNEL = dict.fromkeys(("pids", "memory", "cpus"), "cgroup")


@pytest.mark.parametrize(
    ("old", "new", "ways", "planned", "limit"),
    [
        (Limits(pids=10), Limits(pids=20), BARE, BARE, "pids"),
        (Limits(pids=10), Limits(pids=None), BARE, {}, "pids"),
        (Limits(nofile=64), Limits(nofile=128), KERNEL, KERNEL, "nofile"),
        (Limits(), Limits(cpus=1), BARE, {**BARE, "cpus": "affinity"}, "cpus"),
        (Limits(pids=20), Limits(pids=10), BARE, BARE, ""),
        (Limits(pids=None), Limits(pids=10), {}, BARE, ""),
        (Limits(pids=10), Limits(pids=20), KERNEL, KERNEL, ""),
        (Limits(memory=M), Limits(memory=9 * M), BARE, BARE, ""),
        (Limits(cpus=1), Limits(cpus=2), {"cpus": "affinity"}, {"cpus": "affinity"}, ""),
        (Limits(cpus=1), Limits(), {"cpus": "affinity"}, {}, ""),
    ],
)
def test_what_cannot_reach_what_runs(
    old: Limits, new: Limits, ways: dict[str, str], planned: dict[str, str], limit: str
) -> None:
    if not limit:
        refuse(old, new, ways, planned)
        return
    with pytest.raises(LimitUnenforceable) as refused:
        refuse(old, new, ways, planned)
    assert refused.value.details["limit"] == limit
    assert "start" in refused.value.hint


def test_below_what_is_in_use_is_refused_with_the_use_named() -> None:
    with pytest.raises(InvalidState, match="60MiB of memory are in use, more than 50MiB"):
        refuse_below_use(Limits(memory=100 * M), Limits(memory=50 * M), {"memory": 60 * M})
    refuse_below_use(Limits(memory=100 * M), Limits(memory=70 * M), {"memory": 60 * M})
    refuse_below_use(Limits(memory=40 * M), Limits(memory=50 * M), {"memory": 60 * M})  # growing is never refused
    refuse_below_use(Limits(), Limits(disk=50 * M), {})
