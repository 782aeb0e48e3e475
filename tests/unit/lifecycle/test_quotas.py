"""Sums of what users and groups have, and which quota is met first."""

import msgspec
import pytest
from msgspec.structs import replace

from sandboxd.lifecycle.quotas import NAMES, RUNS, Bound, Person, bounds, over, read, sums, too_fast
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.states import ALIVE, State
from sandboxd.spec import EnvSpec, Limits, Quota, Quotas, Service

GIB = 1 << 30
ANN, BOB = Person("ann", frozenset({"students", "ann"})), Person("bob", frozenset({"students"}))
PEOPLE = {1: ANN, 2: BOB, 0: Person("root")}


def env(owner: int, state: State = State.READY, **limits: object) -> EnvRecord:
    spec = EnvSpec(services={"main": Service(command="x")}, limits=Limits(**limits))  # type: ignore[arg-type]
    return EnvRecord(
        id=f"{owner}{state}", name="web", owner=owner, group=owner, spec=spec, services={}, created=0.0, state=state
    )


def held(*records: EnvRecord) -> dict[int | str, dict[str, float]]:
    return {who: dict(sums) for who, sums in sums(records, PEOPLE, lambda record: record.state in ALIVE).items()}


def test_who_has_which() -> None:
    quotas = read({"envs": 2, "user": {"bob": {"memory": GIB}}, "group": {"students": {"pids": 9}, "staff": {"envs": 0}}})
    students = Bound("group students", Quota(pids=9), "students")
    assert bounds(quotas, 1, ANN) == [Bound("user ann", Quota(envs=2)), students]
    assert bounds(quotas, 2, BOB) == [Bound("user bob", Quota(memory=GIB)), students]  # his own table instead of everybody's
    assert bounds(quotas, 0, PEOPLE[0]) == []  # nobody said root's
    assert bounds(read({"envs": 2, "user": {"root": {"envs": 3}}}), 0, PEOPLE[0]) == [Bound("user root", Quota(envs=3))]
    assert bounds(Quotas(), 1, ANN) == []


def test_what_ended_holds_its_place_and_disk_only() -> None:
    limits = {"memory": GIB, "cpus": 1.5, "pids": 100, "disk": GIB}
    found = held(env(1, **limits), env(1, State.STOPPED, **limits), env(2, **limits), env(1, State.REMOVED, **limits))
    assert found[1] == {"envs": 2, "memory": GIB, "cpus": 1.5, "pids": 100, "disk": 2 * GIB}
    assert found["students"] == {"envs": 3, "memory": 2 * GIB, "cpus": 3.0, "pids": 200, "disk": 3 * GIB}
    assert set(found) == {1, 2, "students", "ann"}


@pytest.mark.parametrize(
    ("quota", "words"),
    [
        (Quota(envs=1), "the quota of user ann is 1 envs, and 1 are there"),
        (Quota(memory=3 * GIB), "3GiB of memory: its envs have 2GiB of that, and this one asks for 2GiB"),
        (Quota(cpus=3.5), "3.5 of cpus: its envs have 2 of that, and this one asks for 2"),
        (Quota(pids=199), "199 of pids: its envs have 100 of that, and this one asks for 100"),
        (Quota(disk=GIB), "1GiB of disk: its envs have 1GiB of that, and this one asks for 1GiB"),
    ],
)
def test_each_is_met_by_name(quota: Quota, words: str) -> None:
    limits = {"memory": 2 * GIB, "cpus": 2.0, "pids": 100, "disk": GIB}
    (name,) = [name for name in NAMES if getattr(quota, name) is not None]
    there, more = held(env(1, **limits), env(2, **limits)), env(1, **limits)
    met = over(Bound("user ann", quota), there, more, NAMES)
    assert met is not None
    assert met.limit == name
    assert words in met.text
    assert met.hint
    enough = replace(quota, **{name: getattr(quota, name) * 2})
    assert over(Bound("user ann", enough), there, more, NAMES) is None
    of_both = over(Bound("group students", enough, "students"), held(*[env(2, **limits)] * 4), more, NAMES)
    assert of_both is not None  # bob's count there
    assert "group students" in of_both.text


def test_what_is_unbounded_fits_into_no_quota() -> None:
    met = over(Bound("user ann", Quota(memory=GIB)), {}, env(1), NAMES)
    assert met is not None
    assert (met.limit, "-m" in met.hint) == ("memory", True)
    assert over(Bound("user ann", Quota(envs=1)), {}, env(1), NAMES) is None


def test_to_start_again_needs_no_place() -> None:
    there = held(env(1, State.STOPPED, disk=GIB, memory=GIB))
    bound = Bound("user ann", Quota(envs=1, disk=GIB, memory=GIB))
    assert over(bound, there, env(1, State.STOPPED, disk=GIB, memory=GIB), RUNS) is None


def test_rate_says_how_many() -> None:
    assert "7 starts a minute" in too_fast(Bound("user ann", Quota(rate=7))).text


def test_every_quota_has_words() -> None:
    assert {*NAMES, "rate"} == set(Quota.__struct_fields__)
    assert msgspec.convert({}, Quotas) == Quotas()
