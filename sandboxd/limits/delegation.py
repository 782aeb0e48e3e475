"""Which control group is ours to divide among envs, or why none is, and what to do about it.

Pure: what was seen of the host in, a Root out. A group is ours when it was named to us, or when systemd made it for us to
divide (Delegate=yes); and then only if nothing but our launcher lives in it: the kernel limits no group below one that has
processes. All below a user's manager *could* be written to, but what systemd did not delegate it goes on changing.
"""

import re
from typing import NamedTuple

OURS = re.compile(r"/sandboxd-envs[^/]*\.(scope|service)$")
WANTED = ("cpu", "io", "memory", "pids")
INSTALL = "start the daemon under systemd (sandbox daemon install), or name a delegated group in SANDBOXD_CGROUP"


class Seen(NamedTuple):
    """What was seen. mount: of cgroup v2, or ""; v1: controllers that cgroup v1 has.

    path: the group in question, below the mount. named: to us; delegated: systemd's mark is on it; writable: its directory,
    cgroup.procs and cgroup.subtree_control; others: how many processes but ours live in it.
    """

    mount: str = ""
    v1: tuple[str, ...] = ()
    path: str = ""
    named: bool = False
    delegated: bool = False
    exists: bool = True
    writable: bool = False
    others: int = 0
    controllers: tuple[str, ...] = ()


class Root(NamedTuple):
    """Where envs get their groups (absolute), and by what they can be limited; or with no path why not, and what to do."""

    path: str = ""
    controllers: tuple[str, ...] = ()
    reason: str = ""
    fix: str = ""


def root_of(seen: Seen) -> Root:
    """The decision."""
    if not seen.mount:
        why = "its controllers are those of cgroup v1" if seen.v1 else "it is not mounted"
        return Root(reason=f"this host has no cgroup v2: {why}", fix="boot with systemd.unified_cgroup_hierarchy=1")
    where = f"the control group {seen.path or '/'}"
    if not seen.exists:
        return Root(reason=f"there is no {where.removeprefix('the ')}", fix="correct SANDBOXD_CGROUP, or unset it")
    if not (seen.named or seen.delegated or OURS.search(seen.path)):
        return Root(reason=f"{where}, in which the daemon was started, is not delegated to it", fix=INSTALL)
    if not seen.writable:
        return Root(reason=f"{where} is not ours to write to", fix=INSTALL)
    if seen.others:
        return Root(reason=f"{where} has {seen.others} other processes in it", fix=INSTALL)
    usable = tuple(name for name in WANTED if name in seen.controllers)
    path = seen.mount + seen.path.rstrip("/")
    if usable:
        return Root(path=path, controllers=usable)
    why = f"cgroup v1 has {', '.join(seen.v1)}" if seen.v1 else "none is delegated"
    return Root(
        path=path if seen.named else "",  # without controllers it is still good for freezing and killing
        reason=f"{where} has no controller that limits: {why}",
        fix="boot with systemd.unified_cgroup_hierarchy=1" if seen.v1 else INSTALL,
    )
