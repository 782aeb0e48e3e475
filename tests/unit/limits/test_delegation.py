"""Which group is ours: named or delegated, writable, and nobody else's; else why not, and the fix."""

import pytest

from sandboxd.limits.delegation import Seen, root_of

SCOPE = "/user.slice/user-1000.slice/user@1000.service/sandboxd.slice/sandboxd-envs.slice/sandboxd-envs-0a1b2c3d.scope"
GOOD = Seen(mount="/sys/fs/cgroup", path=SCOPE, writable=True, controllers=("cpuset", "cpu", "memory", "pids"))


def test_our_own_scope_is_ours() -> None:
    assert root_of(GOOD)[:2] == (f"/sys/fs/cgroup{SCOPE}", ("cpu", "memory", "pids"))


@pytest.mark.parametrize("seen", [GOOD._replace(path="/a/b", named=True), GOOD._replace(path="/a/b", delegated=True)])
def test_so_is_one_that_was_named_or_delegated(seen: Seen) -> None:
    assert root_of(seen).path == "/sys/fs/cgroup/a/b"


@pytest.mark.parametrize(
    ("seen", "reason", "fix"),
    [
        (Seen(), "it is not mounted", "unified_cgroup_hierarchy"),
        (Seen(v1=("memory", "pids")), "cgroup v1", "unified_cgroup_hierarchy"),
        (GOOD._replace(path="/user.slice/session-3.scope"), "not delegated", "daemon install"),
        (GOOD._replace(path="/a/sandboxd-envs-1.scope/below"), "not delegated", "SANDBOXD_CGROUP"),
        (GOOD._replace(named=True, path="/gone", exists=False), "no control group /gone", "SANDBOXD_CGROUP"),
        (GOOD._replace(writable=False), "not ours to write to", "daemon install"),
        (GOOD._replace(others=3), "3 other processes", "daemon install"),
        (GOOD._replace(controllers=("cpuset",)), "no controller that limits: none is delegated", "daemon install"),
        (GOOD._replace(controllers=(), v1=("memory",)), "cgroup v1 has memory", "unified_cgroup_hierarchy"),
    ],
)
def test_else_it_says_why_and_what_to_do(seen: Seen, reason: str, fix: str) -> None:
    found = root_of(seen)
    assert not found.path
    assert reason in found.reason
    assert fix in found.fix


def test_a_named_one_without_controllers_is_good_for_freezing_and_killing() -> None:
    found = root_of(GOOD._replace(named=True, path="/a", controllers=()))
    assert (found.path, found.controllers) == ("/sys/fs/cgroup/a", ())
    assert "no controller" in found.reason
