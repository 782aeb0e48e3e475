"""Limits that hold against who lives under them: each attack fails, works without the limit, and leaves a neighbour alone.

Of those that rlimits, affinity and the filter of system calls hold together; bombs are test_bombs.py's, cgroups the guest's.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandboxd.spec import Limits
from tests.walls.envs import Walls, outside

M = 1 << 20


@pytest.fixture
def walls(tmp_path: Path, require: Any) -> Iterator[Walls]:
    require("userns", "unprivileged")
    made = Walls(tmp_path)
    yield made
    made.close()


def limited(walls: Walls, code: str, **limits: Any) -> Any:
    """What code finds under these limits."""
    return walls.inside(code, parts={"limits": Limits(**limits)})


CPUS = """
import threading
all_of_them = set(range(os.cpu_count() or 1))
more = tried(os.sched_setaffinity, 0, all_of_them)
other = []
thread = threading.Thread(target=lambda: other.append(sorted(os.sched_getaffinity(0))))
thread.start(); thread.join()
found = [more, len(os.sched_getaffinity(0)), len(other[0])]
"""


def test_cpus_given_by_affinity_cannot_be_changed(walls: Walls) -> None:
    mine = len(os.sched_getaffinity(0))
    assert limited(walls, CPUS, cpus=1) == ["EPERM", 1, 1]
    assert limited(walls, CPUS)[0] == "ok"
    assert limited(walls, CPUS) == [outside(CPUS)[0], mine, mine]


RAISE = """
import resource
def more(name):
    which = getattr(resource, "RLIMIT_" + name)
    soft, hard = resource.getrlimit(which)
    try:
        resource.setrlimit(which, (soft * 2, hard * 2))
    except (ValueError, OSError):
        return "EPERM"
    return "ok"
def less(name):
    which = getattr(resource, "RLIMIT_" + name)
    soft, hard = resource.getrlimit(which)
    resource.setrlimit(which, (soft // 2, hard))
    return resource.getrlimit(which)[0] * 2 == soft
found = [more("NOFILE"), more("NPROC"), less("NOFILE")]
"""


def test_rlimits_cannot_be_raised_and_can_be_lowered(walls: Walls) -> None:
    assert limited(walls, RAISE, nofile=64, pids=64) == ["EPERM", "EPERM", True]


PID_1 = """
import resource
def limit(pid):
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (16, 16))
child = os.fork()
if not child:
    time.sleep(60)
    os._exit(0)
found = [tried(limit, 1), tried(limit, child)]
os.kill(child, signal.SIGKILL)
"""


def test_pid_1_is_not_limited_from_inside_and_a_child_is(walls: Walls) -> None:
    assert limited(walls, PID_1, nofile=64) == ["EPERM", "ok"]


WRITE = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def fill(path, size):
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    try:
        os.posix_fallocate(fd, 0, size)
    finally:
        os.close(fd)
home = os.path.expanduser("~")
found = [tried(fill, home + "/big", 40 << 20), tried(fill, "/tmp/big", 40 << 20), tried(fill, home + "/small", 1 << 20)]
"""


def test_no_file_is_larger_than_the_disk_limit(walls: Walls) -> None:
    assert limited(walls, WRITE, disk=16 * M) == ["EFBIG", "EFBIG", "ok"]
    assert limited(walls, WRITE) == ["ok", "ok", "ok"]


TMP = """
def fill(path):
    with open(path, "wb", buffering=0) as file:
        for _ in range(40):
            file.write(bytes(1 << 20))
found = [tried(fill, "/tmp/a"), tried(fill, "/tmp/b")]
"""


def test_tmp_is_no_larger_than_memory_or_disk(walls: Walls) -> None:
    assert limited(walls, TMP, memory=64 * M) == ["ok", "ENOSPC"]
    assert limited(walls, TMP, disk=64 * M) == ["ok", "ENOSPC"]
    assert limited(walls, TMP) == ["ok", "ok"]
