"""Who a process is, for good: pidfds, and the identity (boot id, pid, start time) that survives a restart of ours.

Imports `errors`. A pid alone may belong to another process tomorrow; start time is stat field 22, in clock ticks since boot,
and is compared *after* pidfd_open, so that no reuse slips in between. A zombie counts as dead.
"""

import _signal  # type: ignore[import-not-found]  # as in kernel.signals
import os
import select

from sandboxd.errors import NotFound

_boot: list[str] = []


def boot_id() -> str:
    """The kernel's id of this boot, which no process sees the end of."""
    if not _boot:
        _boot.append(contents("/proc/sys/kernel/random/boot_id").decode().strip())
    return _boot[0]


def contents(path: str) -> bytes:
    """What a small file of /proc says, 8 KiB at most: hundreds are read at a start, some at each `run`, and a file object of
    Python's takes two to four times as long."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 8192)
    finally:
        os.close(fd)


def start_time(pid: int) -> int | None:
    """When that process started, in clock ticks since boot; None: there is none, or it is a zombie."""
    try:
        # The name may hold spaces and parentheses, so fields are counted after the last one (proc(5)).
        fields = contents(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] in {b"Z", b"X"}:
        return None
    return int(fields[19])


def wants_cpu(pid: int) -> bool:
    """Whether that process would run if it had a CPU, or its pages: it is runnable, or in a wait of the kernel's."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in {b"R", b"D"}  # proc(5)
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_stuck(pid: int, missed: int, most: int) -> bool:
    """Whether a process that has missed so many heartbeats is to be given up; who waits for a CPU may miss some more."""
    return missed >= most and (missed >= 6 * most or not wants_cpu(pid))


def parent_of(pid: int) -> int:
    """The parent's pid; 0 when the process is gone, or its parent is not in sight."""
    try:
        return int(contents(f"/proc/{pid}/stat").rpartition(b")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def adopt(pid: int, started: int, boot: str) -> int:
    """A pidfd of exactly that process; raises NotFound when it is gone or the pid is someone else's now."""
    gone = NotFound(f"process {pid} is gone", pid=pid)
    if boot != boot_id():
        raise gone
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        raise gone from None
    try:
        is_it = start_time(pid) == started
    except OSError:
        os.close(fd)
        raise
    if not is_it:
        os.close(fd)
        raise gone
    return fd


def send_signal(fd: int, number: int) -> bool:
    """Signal that process; False: it is gone already."""
    try:
        _signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    return True


def is_alive(fd: int) -> bool:
    """Whether the process of that pidfd still runs (a pidfd is readable once it ended)."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return not poll.poll(0)
