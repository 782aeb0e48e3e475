"""The stagehand (sandboxd.launch.stagehand) and the children that borrow its memory (sandboxd.kernel.beside)."""

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sandboxd.errors import LaunchFailed
from sandboxd.kernel import pidfd
from sandboxd.kernel.beside import LOST
from sandboxd.launch.stagehand import TITLE
from tests.walls.envs import TIMEOUT, Walls

BORROW = """
import os, signal, sys
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
from sandboxd.kernel.beside import Beside
here, seen, cwd, cores = Beside(), [], os.getcwd(), os.sched_getaffinity(0)
def refuse():
    raise ValueError("no")
def deeper(levels):
    return 1 + deeper(levels - 1) if levels else os.getppid()
def act():
    assert os.sched_getaffinity(0) == cores  # it began on ours, and may go where we may
    os.chdir("/")
    fds.append(os.open("/", os.O_RDONLY))
    here.run(lambda: seen.append(deeper(500)), 1)
    seen.append(os.getpid() + 500)
fds = []
for _ in range(50):
    here.run(act)
    assert len(seen) == 2 and seen[0] == seen[1] != os.getpid() + 500, seen
    seen.clear()
    try:
        here.run(refuse)
    except ValueError as error:
        assert str(error) == "no"
    else:
        raise AssertionError
assert os.getcwd() == cwd and os.sched_getaffinity(0) == cores
assert not os.path.exists(f"/proc/self/fd/{fds[0]}") and len(os.listdir("/proc/self/fd")) == 4
try:
    os.waitpid(-1, 0)  # they are let go of a moment before they are reaped
except ChildProcessError:
    print("whole", flush=True)
if sys.argv[1:]:
    here.run(lambda: os.kill(os.getpid(), signal.SIGKILL))
    print("and on")
"""


def test_a_child_borrows_memory_and_nothing_else() -> None:
    done = subprocess.run([sys.executable, "-c", BORROW], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr


def test_one_that_is_killed_halfway_is_the_end_of_both() -> None:
    done = subprocess.run([sys.executable, "-c", BORROW, "kill"], capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert (done.returncode, done.stdout) == (LOST, "whole\n"), done.stderr


@pytest.fixture
def walls(tmp_path: Path, require: Any) -> Any:
    """A launcher without a pool: every child is waited for."""
    require("userns", "unprivileged")
    made = Walls(tmp_path, pool=0)
    made.inside("found = 1")  # the first is made before there is one
    yield made
    made.close()


def hands_of(walls: Walls) -> list[int]:
    """The pids of the launcher's stagehands."""
    pid = walls.launcher.pid
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):  # an env that is just ending
            if Path(f"/proc/{child}/comm").read_text().strip() == TITLE[:15]:
                found.append(int(child))
    return found


def settled_count(walls: Walls) -> int:
    """How many descriptors the launcher has once it sleeps: an env may have ended before it got to close what it gave away."""
    place = Path(f"/proc/{walls.launcher.pid}")
    deadline = time.monotonic() + TIMEOUT
    while (place / "stat").read_text().rpartition(") ")[2][0] != "S":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return len(os.listdir(place / "fd"))


def test_it_stages_one_after_another_and_keeps_nothing(walls: Walls) -> None:
    (hand,) = hands_of(walls)
    assert walls.inside("found = 1") == 1
    before = settled_count(walls)
    for _ in range(5):
        assert walls.inside("found = 1") == 1
    assert settled_count(walls) == before
    assert hands_of(walls) == [hand]


def test_where_it_is_busy_a_child_has_a_stager_of_its_own(walls: Walls) -> None:
    (hand,) = hands_of(walls)
    os.kill(hand, signal.SIGSTOP)
    try:
        with pytest.raises(LaunchFailed, match="namespaces"):  # it was thought to be free
            walls.inside("found = 1")
        assert [walls.inside("found = 1") for _ in range(3)] == [1, 1, 1]
    finally:
        os.kill(hand, signal.SIGCONT)
    assert walls.inside("found = 1") == 1


def test_where_it_was_killed_there_is_another(walls: Walls) -> None:
    (hand,) = hands_of(walls)
    process = os.pidfd_open(hand)
    pidfd.send_signal(process, signal.SIGKILL)
    os.close(process)
    with contextlib.suppress(LaunchFailed):  # the launcher may not have heard of it yet
        walls.inside("found = 1")
    assert [walls.inside("found = 1") for _ in range(2)] == [1, 1]  # by the second it has
    assert hands_of(walls) not in ([], [hand])


def test_it_ends_without_a_word_with_a_launcher_that_ends_while_it_works(walls: Walls) -> None:
    (hand,) = hands_of(walls)
    process = os.pidfd_open(hand)
    outside = Path("/proc/self/uid_map").read_text()
    os.kill(hand, signal.SIGSTOP)
    try:
        walls.launcher.expect()
        walls.runner.run(asyncio.sleep(0))
        deadline = time.monotonic() + TIMEOUT
        while all(mapped in ("", outside) for mapped in maps_of_children(walls)):  # they are written after the word to it
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(walls.launcher.pid, signal.SIGKILL)
    finally:
        os.kill(hand, signal.SIGCONT)
    assert select.select([process], [], [], TIMEOUT)[0]
    os.close(process)  # what it said, if anything, `walls` finds in the log


def maps_of_children(walls: Walls) -> list[str]:
    """The maps of uids of the launcher's children."""
    pid, found = walls.launcher.pid, []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            found.append(Path(f"/proc/{child}/uid_map").read_text())
    return found
