"""What processes hold open: how many descriptors, and the memory in files that have no name (memfd_create(2)).

Touches /proc, waits for nothing. A memfd that nobody has mapped is in no RSS and in no mount; only a descriptor leads to it.
Not found: those of a process that made itself non-dumpable, those of a thread with a descriptor table of its own, and those
that are under way in a socket (SCM_RIGHTS). Bounded: an env decides how much it opens.
"""

import os
import re
from collections.abc import Iterable

MOST = 1 << 14  # descriptors in one look, some 50 ms
BLOCK = 512  # of st_blocks (stat(3type))
MEMFD = "/memfd:"
SMAPS_FILE = re.compile(rb"^[0-9a-f]+-[0-9a-f]+ \S+ [0-9a-f]+ [0-9a-f]+:[0-9a-f]+ (\d+)(?: |$)", re.ASCII)


def descriptors(pid: int) -> int:
    """How many a process has open: the size of its fd directory since Linux 6.2; 0 where that is not told, or it is gone."""
    try:
        return os.stat(f"/proc/{pid}/fd").st_size
    except OSError:
        return 0


def memfds(pids: Iterable[int]) -> dict[int, int]:
    """inode -> bytes allocated, of every memfd that these processes have open: each once, however many have it."""
    found: dict[int, int] = {}
    left = MOST
    for pid in pids:
        directory = f"/proc/{pid}/fd"
        try:
            numbers = os.listdir(directory)
        except OSError:  # it ended, or is not ours to look at
            continue
        for number in numbers:
            left -= 1
            if left < 0:
                return found
            try:
                if os.readlink(f"{directory}/{number}").startswith(MEMFD):
                    facts = os.stat(f"{directory}/{number}")
                    found[facts.st_ino] = facts.st_blocks * BLOCK
            except OSError:
                continue
    return found


def mapped_bytes(pid: int, files: Iterable[int]) -> int:
    """Bytes of these memfds (inodes) that a process has mapped, its proportional share; raises OSError."""
    wanted = set(files)
    counting = False
    found = 0
    with open(f"/proc/{pid}/smaps", "rb") as file:
        for line in file:
            header = SMAPS_FILE.match(line)
            if header:
                counting = int(header[1]) in wanted and b"/memfd:" in line
            elif counting and line.startswith(b"Pss:"):
                found += int(line.split()[1]) << 10
    return found
