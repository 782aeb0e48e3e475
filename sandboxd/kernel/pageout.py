"""process_madvise(2) with MADV_PAGEOUT: have the kernel take back the memory of a process that will not run for a while.

Imports errors, libc and pidfd. For processes other than the caller the kernel demands CAP_SYS_NICE in the first user namespace,
so an ordinary user's daemon gets EPERM (Linux 5.10 to 6.18, measured) and says so; root's does not. What cannot be written
anywhere (anonymous memory without swap) stays.
"""

import ctypes
import os

from sandboxd.errors import KernelError
from sandboxd.kernel.libc import check, syscall

MADV_PAGEOUT = 21
MOST_RANGES = 1024  # IOV_MAX (uio.h)
SKIPPED = (b"[vvar", b"[vdso", b"[vsyscall")


class Range(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


_process_madvise = syscall(440, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint)


def page_out(pid: int) -> int:
    """Bytes of a process that the kernel was told to take back, of which it takes what it can; raises KernelError, OSError."""
    ranges = private_ranges(pid)
    fd = os.pidfd_open(pid)
    told = 0
    try:
        while ranges:
            # A range that cannot be advised (locked, huge) ends the call at it, with what came before told or EINVAL.
            some = ranges[:MOST_RANGES]
            vector = (Range * len(some))(*(Range(start, length) for start, length in some))
            try:
                done = check(_process_madvise(fd, vector, len(some), MADV_PAGEOUT, 0), "process_madvise", str(pid))
            except KernelError as error:
                if error.errno not in (22, 12):
                    raise
                done = 0
            told += done
            ranges = after(ranges, done)
    finally:
        os.close(fd)
    return told


def after(ranges: list[tuple[int, int]], done: int) -> list[tuple[int, int]]:
    """The ranges that are left once `done` bytes of them were told; the one at which it ended is left out."""
    for index, (_, length) in enumerate(ranges):
        if done < length:
            return ranges[index + 1 :]
        done -= length
        if index + 1 == MOST_RANGES:
            return ranges[MOST_RANGES:]
    return []


def private_ranges(pid: int) -> list[tuple[int, int]]:
    """(start, length) of what a process has mapped, but for the kernel's own pages; raises OSError."""
    found = []
    with open(f"/proc/{pid}/maps", "rb") as file:
        for line in file:
            if any(name in line for name in SKIPPED):
                continue
            start, _, end = line.split(b" ", 1)[0].partition(b"-")
            found.append((int(start, 16), int(end, 16) - int(start, 16)))
    return found
