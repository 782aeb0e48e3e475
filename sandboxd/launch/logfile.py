"""A service's log on disk: CRI records in two files, of which the older is emptied when the current one is full.

Runs inside pid 1, which knows the files by descriptor only. Records are `2026-11-23T04:38:22.123456789Z stdout F text`, P where
the line goes on in the next record of that stream. Invariants: files hold whole records; each stays under the limit (but for
one record that is over it alone); a write that the disk refuses is counted, never waited for, and told of once it writes again.
"""

from __future__ import annotations

import fcntl
import os
import time

SPREAD_LIMIT = 1 << 16  # a record head is 40 times an empty line: larger batches are cut before they are made
STAMP = len("2026-11-23T04:38:22.123456789Z")


class Stamp:
    """RFC 3339 with nanoseconds; the part before the point is made once a second."""

    __slots__ = ("second", "words")

    def __init__(self) -> None:
        self.second = -1
        self.words = ""

    def at(self, nanoseconds: int) -> str:
        """A time since the epoch as text."""
        second, rest = divmod(nanoseconds, 1_000_000_000)
        if second != self.second:
            self.second, self.words = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self.words}.{rest:09d}Z"


class LogFiles:
    """Two descriptors of one service's log: the current one grows to the limit, then the older is emptied and taken."""

    __slots__ = ("dropped", "fds", "limit", "reason", "size", "stamp")

    def __init__(self, fds: tuple[int, int], limit: int) -> None:
        for fd in fds:  # a write after ftruncate must not leave a hole before it
            fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
        newer = self.is_newer(fds[1], fds[0])
        self.fds = [fds[1], fds[0]] if newer else list(fds)
        self.size = os.lseek(self.fds[0], 0, os.SEEK_END)
        self.limit = limit
        self.dropped = 0
        self.reason = ""
        self.stamp = Stamp()

    @staticmethod
    def is_newer(fd: int, other: int) -> bool:
        """Whether an earlier init wrote the first file after the other: by their first records, since both may have been
        written within one tick of the clock that stamps files; a descriptor that cannot be read leaves only that."""
        size, others = os.lseek(fd, 0, os.SEEK_END), os.lseek(other, 0, os.SEEK_END)
        if not size or not others:
            return bool(size)
        try:
            return os.pread(fd, STAMP, 0) > os.pread(other, STAMP, 0)
        except OSError:
            return os.fstat(fd).st_mtime_ns > os.fstat(other).st_mtime_ns

    def is_same(self, fds: tuple[int, int]) -> bool:
        """Whether these descriptors are of the same two files."""
        ours = {(info.st_dev, info.st_ino) for info in map(os.fstat, self.fds)}
        return ours == {(info.st_dev, info.st_ino) for info in map(os.fstat, fds)}

    def write(self, records: bytes) -> None:
        """Append whole records, in the next file where they do not fit; what the disk refuses is counted and dropped."""
        while records:
            room = self.limit - self.size
            if len(records) <= room:
                cut = len(records)
            else:
                cut = records.rfind(b"\n", 0, max(room, 0)) + 1
                if not cut and self.size:
                    self.swap()
                    records = self.restamp(records)
                    continue
                cut = cut or records.find(b"\n") + 1  # one record over the limit alone
            self.append(records[:cut])
            records = records[cut:]

    def restamp(self, records: bytes) -> bytes:
        """The rest of a batch at a later time: no record in the next file may bear the time of one in the last, or nobody
        could tell which of the two files is older."""
        before, now = records[:STAMP] + b" ", self.stamp.at(time.time_ns()).encode() + b" "
        return now + records[len(before) :].replace(b"\n" + before, b"\n" + now)

    def swap(self) -> None:
        """Empty the older file and go on there."""
        self.fds.reverse()
        self.truncate(0)
        self.size = 0

    def truncate(self, size: int) -> None:
        """Cut the current file to that size; what is no regular file (a test's /dev/full) cannot be cut and holds nothing."""
        try:
            os.ftruncate(self.fds[0], size)
        except OSError:
            return

    def append(self, records: bytes) -> None:
        """Write to the current file as much as whole records go."""
        notice = self.notice() if self.dropped else b""
        whole = notice + records
        done, reason = self.put(whole)
        if done < len(whole):
            self.reason = reason
            done = whole.rfind(b"\n", 0, done) + 1
            self.truncate(self.size + done)  # no torn record: the next one follows a newline
        self.size += done
        if done >= len(notice) and notice:
            self.dropped = 0
        if done < len(whole):
            self.dropped += whole.count(b"\n", max(done, len(notice)))

    def put(self, data: bytes) -> tuple[int, str]:
        """Write until done or refused: (bytes written, why no more)."""
        done = 0
        while done < len(data):
            try:
                done += os.write(self.fds[0], data[done:])
            except OSError as error:  # whatever it is, the service's next line must not wait for it
                return done, error.strerror or ""
        return done, ""

    def notice(self) -> bytes:
        """One record that says how many are missing."""
        words = f"[sandboxd: {self.dropped} log records dropped: {self.reason}]"
        return f"{self.stamp.at(time.time_ns())} stderr F {words}\n".encode()

    def close(self) -> None:
        """Close both files."""
        for fd in self.fds:
            os.close(fd)
        self.fds = [-1, -1]


def spread(log: LogFiles, head: bytes, lines: bytes) -> None:
    """Write whole lines as records, in batches of bounded size."""
    count = lines.count(b"\n")
    if count > 1 and count * len(head) > SPREAD_LIMIT:
        middle = lines.find(b"\n", len(lines) // 2) + 1
        if 0 < middle < len(lines):
            spread(log, head, lines[:middle])
            spread(log, head, lines[middle:])
            return
    log.write(head + lines[:-1].replace(b"\n", b"\n" + head) + b"\n")
