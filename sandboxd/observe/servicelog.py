"""One service's two log files, read in order while init writes, swaps and empties them.

Touches those files only. Init appends to one, and when that is full empties the other and goes on there; inodes stay. What
cannot be had is a lock, so each chunk is believed only if the file still begins with the same record after it was read as
before: an emptied file begins with a later one. Offsets move by whole records, so that a record that is being written, or is
cut off again by init on a full disk, is read when it stands.
"""

import os
from pathlib import Path

from sandboxd.observe import records
from sandboxd.observe.records import Record

CHUNK = 64 << 10


class LogFile:
    """One of the two files, as far as it was read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = -1
        self.head = b""
        self.offset = 0

    def open(self) -> bool:
        """Open it if it is there."""
        if self.fd < 0:
            try:
                self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except OSError:
                return False
        return True

    def look(self) -> int:
        """Its size; read from the start again if it was emptied since."""
        head = os.pread(self.fd, records.STAMP, 0)
        if not head.startswith(self.head):
            self.offset = 0
        self.head = head
        size = os.fstat(self.fd).st_size if head else 0  # what came since the head was read has a head not yet known
        self.offset = min(self.offset, size)
        return size

    def read(self) -> bytes:
        """The next whole lines, 64 KiB at most; empty when there are none now, or the file was emptied meanwhile."""
        data = os.pread(self.fd, CHUNK, self.offset)
        end = data.rfind(b"\n") + 1
        if not end and len(data) >= CHUNK:
            end = len(data)  # no record is that long: pass over it
        if not os.pread(self.fd, records.STAMP, 0).startswith(self.head):
            return b""
        self.offset = self.after_hole(self.offset + end) if b"\n" not in data[:end] else self.offset + end
        return data[:end]

    def after_hole(self, offset: int) -> int:
        """Where there is something to read again: a terabyte of holes costs a hostile pid 1 nothing, and reading them hours."""
        try:
            return os.lseek(self.fd, offset, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole up to the end (lseek(2))
            return max(offset, os.fstat(self.fd).st_size)

    def rewind(self, lines: int, keep: int) -> tuple[int, int]:
        """Move forward to `lines` full lines, or `keep` bytes, before the end: (lines, bytes) that lie after that."""
        position = size = self.look()
        found = 0
        while position > self.offset and found <= lines and size - position < keep:
            start = max(position - CHUNK, 0)
            data = os.pread(self.fd, position - start, start)
            cut = data.find(b"\n") + 1 if start else 0  # the record that begins before this block counts with the one before
            if start and (not cut or cut == len(data)):
                position = start
                continue
            found += len(records.FULL.findall(data[cut:]))
            position = start + cut
        self.offset = max(self.offset, position)
        return found, size - self.offset

    def close(self) -> None:
        """Close it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class ServiceLog:
    """The records of one service, oldest first. Owns its descriptors."""

    def __init__(self, directory: Path, service: str) -> None:
        self.service = service
        self._files = [LogFile(directory / f"{service}.{number}.log") for number in (0, 1)]

    def start_at(self, since: bytes) -> None:
        """Pass over what is older than a time; by halving, so that a large log costs little."""
        for file in self._ordered():
            low, high = 0, file.look()
            while high - low > CHUNK:
                middle = (low + high) // 2
                found = records.RECORD.search(after_newline(file.fd, middle)[0])
                if found is None or found[1] >= since:
                    high = middle
                else:
                    low = middle
            if low:  # the record it lies in comes before one that is older
                file.offset = after_newline(file.fd, low)[1]

    def start_before_end(self, lines: int, keep: int) -> None:
        """Pass over all but the last lines, and all but the last `keep` bytes; both to within a chunk."""
        for file in reversed(self._ordered()):
            if lines < 0 or keep <= 0:
                file.offset = file.look()
            else:
                found, size = file.rewind(lines, keep)
                lines, keep = lines - found, keep - size

    def read(self) -> list[Record]:
        """The next records, in order; empty when there are none now. Bounded by one chunk."""
        for file in self._ordered():  # each to its end, as it is now: init ends one before it begins the next
            while data := file.read():
                found = records.parse_records(data, self.service)
                if found:
                    return found
        return []

    def _ordered(self) -> list[LogFile]:
        """The files that hold something, the older first.

        One that was empty when it was looked at is left for the next look: read without a head to know it by, what it got
        since could come before the end of the other, and its next emptying would go unseen.
        """
        files = [file for file in self._files if file.open()]
        for file in files:
            file.look()
        return sorted((file for file in files if file.head), key=lambda file: file.head)

    def close(self) -> None:
        """Close both."""
        for file in self._files:
            file.close()


def after_newline(fd: int, offset: int) -> tuple[bytes, int]:
    """What follows the first newline from an offset on, and where that is."""
    data = os.pread(fd, records.MAX_RECORD, offset)
    start = data.find(b"\n") + 1
    return data[start:], offset + start
