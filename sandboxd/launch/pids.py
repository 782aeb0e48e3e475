"""Which process of the host is which process of an env: inner pids, as init and people inside know them, to host pids.

Used by the daemon; reads /proc only. One walk over `children` files (kernel.org, proc.rst 3.7) instead of a look at every
process of the host. A process that ends or is born meanwhile may be missed, and none that is no descendant of init is named.
"""

import os

WALK_LIMIT = 65536  # a fork bomb must not keep the daemon walking


def host_pids(init_pid: int) -> dict[int, int]:
    """{inner pid: host pid} of init (1) and all below it; empty when init is gone."""
    level = len(namespace_pids(init_pid)) - 1  # nested namespaces have more columns, ours is the same for all
    found: dict[int, int] = {}
    waiting = [init_pid]
    while waiting and len(found) < WALK_LIMIT:
        pid = waiting.pop()
        inner = namespace_pids(pid)
        if 0 <= level < len(inner):
            found[inner[level]] = pid
        waiting.extend(children(pid))
    return found


def children(pid: int) -> list[int]:
    """Host pids of a process's children, of all its threads."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found.extend(map(int, file.read().split()))
    except OSError:
        return found  # it ended meanwhile
    return found


def namespace_pids(pid: int) -> list[int]:
    """A process's pid in each pid namespace from this one inwards (NSpid, proc_pid_status(5)); empty when it is gone."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"NSpid:"):
                    return [int(word) for word in line.split()[1:]]
    except OSError:
        return []
    return []
