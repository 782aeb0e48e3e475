import errno

import pytest

from sandboxd.isolation.hints import QUOTAS, explain

CLONE = {"kernel.unprivileged_userns_clone": "0"}
APPARMOR = {"kernel.apparmor_restrict_unprivileged_userns": "1"}
NO_USER, NO_NET, FEW_NET = (
    {"user.max_user_namespaces": "0"},
    {"user.max_net_namespaces": "0"},
    {"user.max_net_namespaces": "20"},
)
SET = "sudo sysctl -w"


@pytest.mark.parametrize(
    ("wall", "number", "settings", "says", "fix"),
    [
        ("user", errno.EPERM, CLONE, "userns_clone is 0", f"{SET} kernel.unprivileged_userns_clone=1"),
        ("user", errno.ENOSPC, NO_USER, "max_user_namespaces is 0", f"{SET} user.max_user_namespaces=10000"),
        ("net", errno.ENOSPC, NO_NET, "max_net_namespaces is 0", f"{SET} user.max_net_namespaces=10000"),
        ("net", errno.ENOSPC, NO_USER, "max_user_namespaces is 0", f"{SET} user.max_user_namespaces=10000"),
        ("net", errno.ENOSPC, FEW_NET, "=20 is used up", f"{SET} user.max_net_namespaces=10000"),
        ("mount", errno.EACCES, APPARMOR, "AppArmor", "sudo sandbox doctor --fix"),
        ("proc", errno.EPERM, {}, "masks parts of /proc", "unmask"),
        ("user", errno.EPERM, {}, "seccomp", "seccomp=unconfined"),
        ("user", errno.EINVAL, {}, "kernel does not have it (EINVAL)", "5.12"),
        ("seccomp", errno.EINVAL, NO_USER, "no seccomp filters", "CONFIG_SECCOMP_FILTER"),
        ("seccomp", errno.EPERM, {}, "forbids it (EPERM)", "seccomp=unconfined"),
        ("mount", errno.EIO, {}, "EIO", ""),
    ],
)
def test_the_reason_and_the_fix(wall: str, number: int, settings: dict[str, str], says: str, fix: str) -> None:
    offer = explain(wall, number, settings)
    assert not offer.offered
    assert says in offer.reason
    assert fix in offer.fix


def test_an_apparmor_switch_that_is_off_is_not_blamed() -> None:
    assert "AppArmor" not in explain("mount", errno.EACCES, {"kernel.apparmor_restrict_unprivileged_userns": "0"}).reason


def test_every_namespace_has_its_quota() -> None:
    assert set(QUOTAS) == {"user", "mount", "pid", "net", "ipc", "uts", "cgroup"}
