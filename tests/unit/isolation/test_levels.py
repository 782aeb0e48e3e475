"""The levels below full: what they demand, refuse and do."""

from typing import Any

import pytest

from sandboxd.errors import SandboxdError, SpecInvalid, WallUnavailable
from sandboxd.isolation import landlock as ll
from sandboxd.isolation import levels
from sandboxd.isolation.facts import MountFact, Offer
from sandboxd.isolation.plan import LaunchPlan, plan
from sandboxd.isolation.steps import Landlock, Prove, Rlimits, Rules, Ruleset, Seccomp, in_order
from sandboxd.spec import Isolation, Limits, Network
from tests.unit.isolation.hosts import host, place, spec

NO_USERNS = Offer(offered=False, reason="user.max_user_namespaces is 0", fix="sudo sysctl -w user.max_user_namespaces=10000")
LOST = {wall: NO_USERNS for wall in ("user", "mount", "pid", "net", "ipc", "uts", "proc", "capabilities")}


def planned(level: Any = "landlock", *, uid: int = 1000, isolation: dict[str, Any] | None = None, **given: Any) -> LaunchPlan:
    parts = given.pop("parts", {})
    what = spec(isolation=Isolation(level=level, **(isolation or {})), **{"network": Network(mode="host"), **parts})
    facts = {"host": host(**LOST), "place": place(), "environ": {}, **given}
    return plan(what, id="a" * 32, name="shop", uid=uid, gid=uid, **facts)


def test_landlock_needs_no_namespace_and_says_what_it_demands() -> None:
    made = planned()
    assert {wall for wall, info in made.walls.items() if info.demanded} == set(levels.DEMANDED["landlock"])
    assert not made.profile.namespaces
    assert (made.base, made.handed) == ([], [])
    assert in_order(made.steps)
    assert [type(step) for step in made.steps] == [Ruleset, Rules, Rlimits, Seccomp, Landlock, Prove]
    (service,) = made.init.services.values()
    assert [type(step) for step in service.confine] == [Ruleset, Rules, Seccomp, Landlock], (
        "each program takes them upon itself"
    )
    assert made.init.services["web"].env["HOME"] == "/state/envs/x/home"
    assert made.init.services["web"].env["TMPDIR"] == "/state/envs/x/home/tmp"


def test_none_promises_nothing_but_that_it_ends() -> None:
    made = planned("none", host=host(**LOST, landlock=NO_USERNS))
    assert {wall for wall, info in made.walls.items() if info.demanded} == {"no_new_privs"}
    assert [type(step) for step in made.steps] == [Rlimits, Prove]
    assert made.init.services["web"].confine == []


def test_what_may_be_reached_is_the_system_and_what_is_its_own() -> None:
    granted = dict(planned(place=place(tools=["/home/ada/.nvm"])).steps[0].rules)  # type: ignore[union-attr]
    assert ll.beneath(granted, "/usr/bin/env") & ll.READ == ll.READ
    assert ll.beneath(granted, "/data/opt/x") & ll.READ == ll.READ, "where /opt really lies"
    assert ll.beneath(granted, "/home/ada/.nvm/bin/node") & ll.READ == ll.READ
    for path in ("/home/ada/src/shop/x", "/state/envs/x/home/x"):
        assert ll.beneath(granted, path) & ll.CHANGE == ll.CHANGE
    for path in ("/", "/home/ada", "/home/ada/.ssh/id", "/state/journal", "/tmp", "/dev/shm", "/run", "/dev/pts/0", "/var"):
        assert not ll.beneath(granted, path), path
    assert not ll.beneath(granted, "/proc/1/oom_score_adj") & ll.WRITE_FILE


def test_limits_do_not_count_what_else_the_user_runs() -> None:
    made = planned(parts={"limits": Limits(pids=20)})
    assert made.limits["pids"] == "sampled"
    assert "NPROC" not in [name for step in made.steps if isinstance(step, Rlimits) for name, _, _ in step.limits]


@pytest.mark.parametrize(
    ("kind", "wall", "given"),
    [
        (WallUnavailable, "net", {"parts": {"network": Network(mode="none")}}),
        (WallUnavailable, "mount", {"isolation": {"home": "readonly"}}),
        (WallUnavailable, "user", {"isolation": {"user": "root"}}),
        (SpecInvalid, "", {"uid": 0}),
        (
            WallUnavailable,
            "mount",
            {"place": place(mounts=[MountFact(source="/data", target="/srv", readonly=True, file=False)])},
        ),
    ],
)
@pytest.mark.parametrize("level", ["landlock", "none"])
def test_what_takes_a_namespace_is_refused_by_name(kind: type[SandboxdError], wall: str, given: Any, level: str) -> None:
    with pytest.raises(kind) as refused:
        planned(level, **given)
    assert refused.value.details.get("wall", "") == wall
    assert refused.value.hint


@pytest.mark.parametrize("abi", [1, 2])
def test_an_abi_that_lets_every_file_be_emptied_is_too_low(abi: int) -> None:
    import msgspec

    low = msgspec.structs.replace(host(**LOST), landlock=abi)
    with pytest.raises(
        WallUnavailable, match=f"the landlock wall is too low: its ABI {abi} lets every file be trunc"
    ) as refused:
        planned(host=low)
    assert refused.value.hint == "run a kernel of 6.2 or later"
    assert refused.value.details["wall"] == "landlock"
    with pytest.raises(WallUnavailable) as full:
        planned("full", parts={"network": Network()}, host=low)
    assert "--isolation landlock works here" not in full.value.hint, "what would be refused is not recommended"


@pytest.mark.parametrize(
    ("abi", "said"),
    [
        (3, "ABI 3 of this kernel says nothing of TCP ports, ioctl on devices, signals, abstract sockets"),
        (4, "ABI 4 of this kernel says nothing of ioctl on devices, signals, abstract sockets"),
        (5, "ABI 5 of this kernel says nothing of signals, abstract sockets"),
        (6, ""),
    ],
)
def test_what_an_older_abi_leaves_open_is_told(abi: int, said: str) -> None:
    import msgspec

    older = msgspec.structs.replace(host(**LOST), landlock=abi)
    assert planned(host=older).walls["landlock"].reason == said


def test_our_own_code_is_not_handed_to_an_env_that_could_rewrite_it() -> None:
    own = place(own=["/home/ada/src/shop/sandboxd"])
    with pytest.raises(WallUnavailable, match="to keep /home/ada/src/shop/sandboxd, sandboxd's own code,") as refused:
        planned(place=own)
    assert "use level full" in refused.value.hint
    assert planned("none", place=own).id, "which promises nothing"
    assert planned("full", parts={"network": Network()}, host=host(), place=own).id, "where it is shown read-only"


def test_full_is_never_less_and_names_what_would_work() -> None:
    with pytest.raises(WallUnavailable) as refused:
        planned("full", parts={"network": Network()})
    assert refused.value.details == {"wall": "user", "reason": NO_USERNS.reason}
    assert refused.value.hint.startswith(NO_USERNS.fix)
    assert "--isolation landlock works here" in refused.value.hint
    with pytest.raises(WallUnavailable) as hopeless:
        planned("full", parts={"network": Network()}, host=host(**LOST, landlock=NO_USERNS))
    assert "--isolation" not in hopeless.value.hint
