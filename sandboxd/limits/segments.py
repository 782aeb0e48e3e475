"""System V shared memory that no process has attached: in no RSS, in no mount, behind no descriptor of the env's.

Reads a descriptor of /proc/sysvipc/shm that was opened inside: what it shows is the opener's ipc namespace (proc_sysvipc(5)).
What is attached is in the PSS of who has it. Bounded, and nothing waits: the descriptor came from the env's side.
"""

import os

MOST = 1 << 20  # bytes: shmmni is 4096, a line some 150
ATTACHED, RESIDENT, SWAPPED = 6, 14, 15  # columns


def unattached(fd: int) -> int:
    """Bytes of it; 0 where that cannot be told."""
    data = b""
    try:
        while len(data) < MOST and (more := os.pread(fd, 1 << 16, len(data))):
            data += more
        rows = [line.split() for line in data.splitlines()[1:]]
        return sum(int(row[RESIDENT]) + int(row[SWAPPED]) for row in rows if len(row) > SWAPPED and row[ATTACHED] == b"0")
    except (OSError, ValueError):
        return 0
