"""What one look at an env saw, as plain numbers.

Pure. Init is no part of them: it is ours, and nobody inside can make it grow.
"""

import msgspec


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a process tree. Bytes and seconds since its start; `now` is the monotonic clock's.

    rss: resident sets added up, so what processes share counts once for each. pss: anonymous and shared memory with each
    page counted once, without the page cache, which the kernel takes back by itself; None: not looked at. tmpfs: files in
    the env's own memory file systems, and in memfds. mapped: the part of `tmpfs` that is in `pss` already. pids: tasks,
    threads included. descriptors: the most that one process has open; 0: not looked at.
    """

    rss: int
    tmpfs: int
    pids: int
    cpu_seconds: float
    io_read: int
    io_write: int
    now: float
    pss: int | None = None
    mapped: int = 0
    descriptors: int = 0

    @property
    def memory(self) -> int:
        """Bytes in use: true where pss is known, else no less than the truth."""
        return (self.rss if self.pss is None else self.pss) + self.tmpfs - self.mapped
