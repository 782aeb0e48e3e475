"""Looks at the hierarchy of control groups: which group is in question, and what `delegation` decides by.

Imports `kernel.cgroups`; decides nothing. The daemon asks for its launcher, the doctor for one that there would be.
"""

import os

from sandboxd.errors import KernelError
from sandboxd.kernel import cgroups
from sandboxd.limits.delegation import Seen


def look(launcher: int | str, named: str) -> Seen:
    """What there is to decide by, for the group of a process ("self"), or for the one that is named (SANDBOXD_CGROUP)."""
    mount, v1 = mounted()
    path = named.removeprefix(mount).rstrip("/") if named else cgroups.own_path(launcher)
    group = mount + path
    others = 0
    if mount and path and os.path.isdir(group):
        others = sum(1 for pid in members(group) if pid != launcher)
    return Seen(
        mount=mount,
        v1=tuple(v1),
        path=path,
        named=bool(named),
        delegated=is_delegated(group),
        exists=os.path.isdir(group),
        writable=all(
            os.access(place, os.W_OK) for place in (group, f"{group}/cgroup.procs", f"{group}/cgroup.subtree_control")
        ),
        others=others,
        controllers=tuple(cgroups.controllers(group)),
    )


def mounted() -> tuple[str, list[str]]:
    """(where cgroup v2 is mounted, controllers that cgroup v1 has)."""
    mount, v1 = "", []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            kind = right.split(" ")[0]
            if kind == "cgroup2" and not mount:
                mount = left.split(" ")[4]
            elif kind == "cgroup":
                v1 += [name for name in right.split()[-1].split(",") if name in ("memory", "cpu", "pids", "blkio")]
    return mount, v1


def is_delegated(group: str) -> bool:
    """Whether systemd says so: it marks what it delegated (since 251: trusted.delegate, user.delegate)."""
    for mark in ("user.delegate", "trusted.delegate"):
        try:
            return os.getxattr(group, mark) == b"1"
        except OSError:
            continue
    return False


def members(group: str) -> list[int]:
    """The processes that live in the group itself."""
    try:
        return [int(pid) for pid in cgroups.read(group, "cgroup.procs").split()]
    except KernelError:
        return []


def disks(path: str) -> list[str]:
    """The disk behind a directory as "MAJOR:MINOR", or none: io.max takes whole disks only, and knows no file system's own
    device numbers (btrfs, overlay)."""
    device = os.stat(path).st_dev
    where = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}"
    try:
        real = os.path.realpath(where, strict=True)
        whole = os.path.dirname(real) if os.path.exists(f"{real}/partition") else real
        with open(f"{whole}/dev", encoding="ascii") as file:
            return [file.read().strip()]
    except OSError:
        return []
