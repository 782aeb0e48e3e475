"""Why a namespace was refused, and the exact fix: errno and the host's settings in, an Offer out.

Pure. What kernels and distributions do: Debian's old kernels have kernel.unprivileged_userns_clone, Ubuntu >= 23.10 has
kernel.apparmor_restrict_unprivileged_userns (the clone succeeds, the capabilities in it are denied), every kernel has the
quotas user.max_*_namespaces (ENOSPC, user_namespaces(7)), and container runtimes forbid by seccomp (EPERM) and mask /proc
(EPERM at mount).
"""

import errno
from collections.abc import Mapping

from sandboxd.isolation.facts import Offer

QUOTAS = {
    "user": "user.max_user_namespaces",
    "mount": "user.max_mnt_namespaces",
    "pid": "user.max_pid_namespaces",
    "net": "user.max_net_namespaces",
    "ipc": "user.max_ipc_namespaces",
    "uts": "user.max_uts_namespaces",
    "cgroup": "user.max_cgroup_namespaces",
}
CLONE_SWITCH = "kernel.unprivileged_userns_clone"
APPARMOR = "kernel.apparmor_restrict_unprivileged_userns"
SETTINGS = (*QUOTAS.values(), CLONE_SWITCH, APPARMOR)
ENOUGH = 10000
DOCTOR = "sudo sandbox doctor --fix"  # installs a profile for sandboxd alone; the sysctl would open every program
NESTED = "the host masks parts of /proc, as containers do, and the kernel then refuses a fresh one"


def explain(wall: str, number: int, settings: Mapping[str, str]) -> Offer:
    """An Offer that says why `wall` failed with that errno, given the values of SETTINGS ("" or missing: no such setting)."""
    return ITS_OWN[wall](number) if wall in ITS_OWN else without_namespace(wall, number, settings)


def without_namespace(wall: str, number: int, settings: Mapping[str, str]) -> Offer:
    """Why a namespace, or what is done in one, is not to be had."""
    name = errno.errorcode.get(number, str(number))
    quota = QUOTAS.get(wall, "")
    if settings.get(CLONE_SWITCH) == "0":
        return refused(f"{CLONE_SWITCH} is 0: ordinary users may not make user namespaces", f"sudo sysctl -w {CLONE_SWITCH}=1")
    for key in dict.fromkeys([quota, QUOTAS["user"]]):
        if settings.get(key) == "0":
            return refused(f"{key} is 0", f"sudo sysctl -w {key}={ENOUGH}")
    if settings.get(APPARMOR) == "1" and number in (errno.EPERM, errno.EACCES):
        return refused(
            f"{APPARMOR} is 1: AppArmor takes the capabilities away from user namespaces of programs without a profile",
            DOCTOR,
        )
    if number == errno.ENOSPC and quota:
        return refused(
            f"the quota {quota}={settings.get(quota, '?')} is used up, or namespaces are nested more than 32 deep",
            f"sudo sysctl -w {quota}={ENOUGH}",
        )
    if wall == "proc":
        return refused(
            f"{NESTED} ({name})",
            "run sandboxd outside the container, or unmask its /proc (docker: --security-opt systempaths=unconfined)",
        )
    if number == errno.EPERM:
        return refused(
            f"this host forbids it ({name}), as the seccomp filters of containers do",
            "run sandboxd outside the container, or give it --security-opt seccomp=unconfined",
        )
    if number in (errno.EINVAL, errno.ENOSYS):
        return refused(f"this kernel does not have it ({name})", "run a kernel of 5.12 or later with namespaces built in")
    return refused(f"it failed with {name}", "")


def without_landlock(number: int) -> Offer:
    """Why there is no Landlock (landlock_create_ruleset(2))."""
    if number == errno.EOPNOTSUPP:
        return refused(
            "this kernel has Landlock, but it was not enabled at boot",
            "add landlock to the list of the kernel parameter lsm= (see /sys/kernel/security/lsm), and boot again",
        )
    if number == errno.ENOSYS:
        return refused("this kernel has no Landlock", "run a kernel of 5.13 or later with CONFIG_SECURITY_LANDLOCK")
    name = errno.errorcode.get(number, str(number))
    return refused(
        f"this host forbids it ({name}), as the seccomp filters of containers do",
        "run sandboxd outside the container, or give it --security-opt seccomp=unconfined",
    )


def refused(reason: str, fix: str) -> Offer:
    """An Offer of nothing."""
    return Offer(offered=False, reason=reason, fix=fix)


def without_seccomp(number: int) -> Offer:
    """Why there is no filter of system calls (seccomp(2))."""
    if number in (errno.EINVAL, errno.ENOSYS):
        return refused(
            "this kernel has no seccomp filters, or this is no architecture that we have one for",
            "run a kernel with CONFIG_SECCOMP_FILTER, on x86-64 or aarch64",
        )
    name = errno.errorcode.get(number, str(number))
    return refused(
        f"this host forbids it ({name}), as the seccomp filters of containers may do",
        "run sandboxd outside the container, or give it --security-opt seccomp=unconfined",
    )


def without_nftables(number: int) -> Offer:
    """Why there is no way out of a network namespace: the rules could not be loaded (nf_tables in a user namespace)."""
    name = errno.errorcode.get(number, str(number))
    if number in (errno.ENOENT, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP):
        return refused(
            f"this kernel has no nf_tables with nat, notrack and reject at hand ({name})",
            "sudo modprobe -a nf_tables nft_chain_nat nft_ct nft_reject_inet",
        )
    return refused(f"this host forbids nf_tables in a user namespace ({name})", "allow it, or use --egress none")


# Walls that no setting of the host has to do with.
ITS_OWN = {"landlock": without_landlock, "seccomp": without_seccomp}
