"""Each limit has a way or is refused by name, with the reason and the fix; rlimits never pass the host's own."""

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.errors import LimitUnenforceable
from sandboxd.isolation.enforcement import CONTROLLERS, enforcement, rlimits
from sandboxd.isolation.facts import LimitFacts
from sandboxd.spec import Limits

FOUR = [0, 1, 2, 3]
BARE = LimitFacts(reason="this host has no cgroup v2", fix="boot with it", cpus=FOUR)
DELEGATED = LimitFacts(controllers=["cpu", "memory", "pids"], cpus=FOUR)
WHOLE = LimitFacts(controllers=["cpu", "io", "memory", "pids"], cpus=FOUR, devices=["8:0"])
G = 1 << 30
ALL: dict[str, Any] = {
    "memory": G, "memory_high": G // 2, "cpus": 1.5, "cpu_weight": 50, "pids": 64, "disk": G, "nofile": 64,
    "max_connections": 5, "io_read": G, "io_write": G,
}  # fmt: skip


def ways(facts: LimitFacts, *, kuid: int = 1000, pinned: bool = True, **limits: Any) -> dict[str, str]:
    return enforcement(Limits(**{"pids": None, "nofile": None, **limits}), facts, kuid=kuid, pinned=pinned)


def test_the_list_of_limits_is_whole() -> None:
    assert set(ALL) == set(Limits.__struct_fields__)


def test_with_every_controller_the_kernel_counts_the_whole_env() -> None:
    found = ways(WHOLE, **ALL)
    assert found == {name: "cgroup" for name in CONTROLLERS} | {
        "disk": "sampled", "nofile": "rlimit", "max_connections": "router",
    }  # fmt: skip


def test_without_cgroups_what_can_be_held_is_and_how_is_said() -> None:
    assert ways(BARE, memory=G, pids=64, nofile=64, disk=G, cpus=2) == {
        "memory": "sampled", "pids": "rlimit", "nofile": "rlimit", "disk": "sampled", "cpus": "affinity",
    }  # fmt: skip
    assert ways(BARE, pids=64, kuid=0) == {"pids": "sampled"}, "RLIMIT_NPROC does not bind root"


@dataclass
class Refusal:
    facts: LimitFacts
    limits: dict[str, Any]
    reason: str
    hint: str
    pinned: bool = True


@pytest.mark.parametrize(
    "case",
    [
        Refusal(BARE, {"cpus": 1.5}, "this host has no cgroup v2", "--cpus 2"),
        Refusal(BARE, {"cpus": 2}, "this host has no cgroup v2", "boot with it", pinned=False),
        Refusal(BARE, {"cpu_weight": 10}, "this host has no cgroup v2", "boot with it"),
        Refusal(BARE, {"memory_high": G}, "this host has no cgroup v2", "boot with it"),
        Refusal(BARE, {"io_read": G}, "this host has no cgroup v2", "boot with it"),
        Refusal(DELEGATED, {"io_write": G}, "'io' is not delegated", "Delegate=cpu io memory pids"),
        Refusal(LimitFacts(controllers=["io"]), {"io_write": G}, "the disk", "leave io_write out"),
        Refusal(LimitFacts(unbound="the router is old"), {"max_connections": 5}, "the router is old", "daemon stop --all"),
        Refusal(BARE, {"cpus": 5}, "has 4", "at most 4"),
        Refusal(WHOLE, {"cpus": 4.5}, "has 4", "at most 4"),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_name(case: Refusal) -> None:
    with pytest.raises(LimitUnenforceable) as refused:
        ways(case.facts, pinned=case.pinned, **case.limits)
    assert refused.value.details["limit"] == next(iter(case.limits))
    assert case.reason in refused.value.message
    assert case.hint in refused.value.hint


@given(st.sets(st.sampled_from(sorted(ALL))), st.sampled_from([BARE, DELEGATED, WHOLE]), st.booleans())
def test_every_limit_has_a_way_or_a_refusal(names: set[str], facts: LimitFacts, pinned: bool) -> None:
    refused: set[object] = set()
    found: set[str] = set()
    for name in names:
        try:
            found |= set(ways(facts, pinned=pinned, **{name: ALL[name]}))
        except LimitUnenforceable as error:
            refused.add(error.details["limit"])
    assert found | refused == names
    assert not found & refused


def test_rlimits_bind_what_nothing_better_does() -> None:
    everything = Limits(memory=G, disk=G, pids=64, nofile=64)
    bare = rlimits(everything, {"memory": "sampled", "pids": "rlimit", "disk": "sampled"}, {})
    assert bare == {"CORE": (0, 0), "NOFILE": (64, 64), "NPROC": (64, 64), "DATA": (2 * G + (256 << 20), -1), "FSIZE": (G, -1)}
    kernel = rlimits(everything, {"memory": "cgroup", "pids": "cgroup", "disk": "sampled"}, {})
    assert kernel == {"CORE": (0, 0), "NOFILE": (64, 64), "FSIZE": (G, -1)}
    assert rlimits(Limits(pids=None, nofile=None), {}, {}) == {"CORE": (0, 0)}


@given(st.integers(16, 1 << 40), st.integers(-1, 1 << 40))
def test_no_rlimit_passes_the_hosts_own(value: int, hard: int) -> None:
    asked = Limits(memory=value, disk=value, pids=value, nofile=value)
    own = dict.fromkeys(("NOFILE", "NPROC", "DATA", "FSIZE"), hard)
    for soft, most in rlimits(asked, {"memory": "sampled", "pids": "rlimit"}, own).values():
        assert hard < 0 or (soft <= hard and most <= hard)
        assert soft >= 0
