"""Whom the kernel's OOM killer is to take first: what an env runs, not the pid 1 that keeps its logs and writes down its end.

Touches /proc. Where the env has a control group, that is what the kernel ends (memory.oom.group). Without one it picks a
process of the whole machine by its size and oom_score_adj, which anybody may raise for what is theirs, and which children
inherit (proc_pid_oom_score_adj(5)). Pid 1 is left where it is: to lower a score takes CAP_SYS_RESOURCE.
"""

import os
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from sandboxd.limits.sampler import Stat

SCORE = 200  # of -1000 to 1000: as systemd gives what an ordinary user starts


def sacrifice(init_pid: int, tree: Mapping[int, Stat], known: AbstractSet[int]) -> AbstractSet[int]:
    """Raise the score of all below an init, as they were seen just now, where it has children besides the known ones; its
    children now."""
    found = frozenset(pid for pid, stat in tree.items() if stat.parent == init_pid)
    if found - known:
        for pid in tree:
            raise_score(pid)
    return found


def raise_score(pid: int) -> None:
    """Of one process, unless it has a higher one; of what ended, or is not ours to touch, nothing."""
    try:
        fd = os.open(f"/proc/{pid}/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if int(os.read(fd, 16)) < SCORE:
            os.pwrite(fd, b"%d" % SCORE, 0)
    except (OSError, ValueError):
        return
    finally:
        os.close(fd)
