"""Memory that is in no process: files in an env's own tmpfs mounts (/tmp, /dev/shm, /run, its root).

Touches /proc and statfs. A tmpfs of the host that is bound into the env (a workspace below /tmp) is not the env's: it is in
our own mount table too. Nothing is kept open, since a descriptor would pin the file system, and with it the memory, past
the env's end. An env cannot mount, so what is there is looked up once per env.
"""

import os
import re
from typing import NamedTuple

SMAPS_DEVICE = re.compile(rb"^[0-9a-f]+-[0-9a-f]+ \S+ [0-9a-f]+ ([0-9a-f]+):([0-9a-f]+) ", re.ASCII)
ESCAPED = re.compile(r"\\([0-7]{3})")


class MemoryMount(NamedTuple):
    """A tmpfs: its device and where the env sees it."""

    device: tuple[int, int]
    path: str


def own_mounts(pid: int) -> list[MemoryMount]:
    """The tmpfs mounts that the env of this process has and we have not, each file system once; raises OSError."""
    ours = {mount.device for mount in memory_mounts("self")}
    found = {mount.device: mount for mount in reversed(memory_mounts(str(pid))) if mount.device not in ours}
    return list(found.values())


def memory_mounts(pid: str) -> list[MemoryMount]:
    """Every tmpfs in a process's mount table (proc_pid_mountinfo(5)); raises OSError."""
    with open(f"/proc/{pid}/mountinfo", "rb") as file:
        mounts = []
        for line in file:
            left, _, right = line.partition(b" - ")
            if right.startswith(b"tmpfs "):
                fields = os.fsdecode(left).split(" ", 5)
                major, _, minor = fields[2].partition(":")
                path = ESCAPED.sub(lambda found: chr(int(found[1], 8)), fields[4])
                mounts.append(MemoryMount((int(major), int(minor)), path))
    return mounts


def bytes_used(pid: int, mounts: list[MemoryMount]) -> int:
    """Bytes in the files of these mounts, seen through one process of the env; raises OSError when that is gone."""
    used = 0
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for mount in mounts:
            used += used_at(root, mount)
    finally:
        os.close(root)
    return used


def used_at(root: int, mount: MemoryMount) -> int:
    """Bytes used in one file system; 0 where the path does not lead to it (any more)."""
    facts = facts_at(root, mount)
    return (facts.f_blocks - facts.f_bfree) * facts.f_frsize if facts is not None else 0


def shared_files(pid: int) -> int:
    """How many files lie in /dev/shm of the env of this process, where it has one of its own; raises OSError."""
    root = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = [facts_at(root, mount) for mount in own_mounts(pid) if mount.path == "/dev/shm"]
    finally:
        os.close(root)
    return sum(facts.f_files - facts.f_ffree - 1 for facts in found if facts is not None)  # its top is none


def facts_at(root: int, mount: MemoryMount) -> os.statvfs_result | None:
    """What one file system says of itself; None where the path does not lead to it (any more)."""
    at = os.dup(root)
    try:
        for part in filter(None, mount.path.split("/")):  # step by step: links inside are the env's to make
            below = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = below
        device = os.fstat(at).st_dev
        return os.statvfs(at) if (os.major(device), os.minor(device)) == mount.device else None
    except OSError:
        return None
    finally:
        os.close(at)


def mapped_bytes(pid: int, mounts: list[MemoryMount]) -> int:
    """Bytes of these file systems that a process has mapped, its proportional share; raises OSError."""
    devices = {mount.device for mount in mounts}
    counting = False
    found = 0
    with open(f"/proc/{pid}/smaps", "rb") as file:
        for line in file:
            header = SMAPS_DEVICE.match(line)
            if header:
                counting = (int(header[1], 16), int(header[2], 16)) in devices
            elif counting and line.startswith(b"Pss:"):
                found += int(line.split()[1]) << 10
    return found
