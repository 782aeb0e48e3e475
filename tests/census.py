"""Everything countable that belongs to one daemon, read from the kernel and the disk; and what differs between two counts.

For the test and the bench that hold sandboxd to leaving nothing behind. What the kernel takes down in its own time (network
namespaces, sockets) is waited for within a bound; what is left after that is a leak.
"""

import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

from sandboxd.settings import Settings
from tests.conftest import mounts
from tests.daemons import PATIENCE, Daemon

READY = re.compile(r"\.ready-[0-9a-f]{32}")
GROUP = re.compile(r"env-[0-9a-f]{16}")
Census = dict[str, Counter[str]]


def census(daemon: Daemon, client: Any) -> Census:
    """Tasks, mounts, descriptors, files, control groups, routes and parked children, by what they are."""
    from sandboxd.protocol.messages import List, Status

    status = client.call(Status())
    ours = {"daemon": status.pid, "launcher": status.launcher_pid, "router": status.router_pid}
    mounted = Counter(f"host {line}" for line in mounts())
    for name, pid in ours.items():
        mounted[name] = len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines())
    return {
        "tasks": Counter(name.partition(":")[0] for _, _, name in daemon.keeper.settle(0)),
        "mounts": mounted,
        "descriptors": Counter({f"{who} {kind}": n for who, pid in ours.items() for kind, n in descriptors(pid).items()}),
        # places made ahead have names of chance: they are counted
        "files": Counter(READY.sub(".ready", str(path.relative_to(daemon.dir))) for path in daemon.dir.rglob("*")),
        "cgroups": groups(status.launcher_pid),
        "routes": Counter(env.name for env in client.call(List(all=True)).envs),
        "pool": Counter(parked=status.pool),
    }


def descriptors(pid: int) -> Counter[str]:
    """A process's open descriptors by kind: socket, pipe, anon_inode:[pidfd], or the file's name."""
    found: Counter[str] = Counter()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        what = os.readlink(fd)
        found[READY.sub(".ready", what) if what.startswith(("/", "anon_inode")) else what.partition(":")[0]] += 1
    return found


def groups(launcher: int) -> Counter[str]:
    """The control groups of envs that stand beside the launcher's own, in the unified hierarchy (cgroups(7))."""
    line = next((line for line in Path(f"/proc/{launcher}/cgroup").read_text().splitlines() if line.startswith("0::")), "0::/")
    place = Path("/sys/fs/cgroup") / line.removeprefix("0::").lstrip("/")
    return Counter(GROUP.sub("env", path.name) for path in place.parent.glob("env-*") if GROUP.fullmatch(path.name))


def differences(before: Census, after: Census) -> dict[str, dict[str, int]]:
    """What there is more, or less (below 0), of each kind; kinds that are alike are left out."""
    found: dict[str, dict[str, int]] = {}
    for kind in before:
        names = before[kind].keys() | after[kind].keys()
        changed = {name: after[kind][name] - before[kind][name] for name in names if after[kind][name] != before[kind][name]}
        if changed:
            found[kind] = changed
    return found


def settled(daemon: Daemon, client: Any, wanted: Census | None) -> Census:
    """The census once it is as wanted (None: once it stands still), or as it is when patience ends.

    The pools of places for envs to come are larger for half a minute after a burst: it stands still once they are as usual.
    """
    usual = Settings.from_environ(daemon.environ, os.geteuid()).pool
    deadline = time.monotonic() + 3 * PATIENCE
    last = census(daemon, client)
    while time.monotonic() < deadline:
        if last == wanted:
            break
        time.sleep(0.5)
        now = census(daemon, client)
        if wanted is None and now == last and now["pool"]["parked"] == usual:
            break
        last = now
    return last
