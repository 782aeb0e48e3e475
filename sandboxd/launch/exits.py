"""Exit statuses on disk: pid 1 of an env writes one JSON line for each service that ended, a daemon reads them later.

The status of a process that is not our child is lost to us once it is reaped (waitid says ECHILD), so a daemon that was away
learns it from here. Imports os and `plain`. Invariants: one whole line per exit or none; the file stays under FILE_LIMIT, where
the last exit of each service is kept; a full disk delays a record and loses none while pid 1 lives. The reader trusts nothing.
"""

from __future__ import annotations

import fcntl
import os

from sandboxd.launch.plain import decode, encode

FILE_LIMIT = 1 << 18
PENDING_LIMIT = 256
TAIL = 2048


class Exit:
    """A main process ended. wait_status: as of waitpid(2); time: seconds since the epoch; n: counts up in one file."""

    __slots__ = ("n", "pid", "service", "time", "wait_status")

    def __init__(self, service: str, pid: int, wait_status: int, time: float, n: int) -> None:
        self.service = service
        self.pid = pid
        self.wait_status = wait_status
        self.time = time
        self.n = n

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Exit) and self.line() == other.line()

    def __hash__(self) -> int:
        return hash((self.service, self.pid, self.n))

    def __repr__(self) -> str:
        return f"Exit({self.service!r}, pid={self.pid}, wait_status={self.wait_status}, time={self.time}, n={self.n})"

    def line(self) -> bytes:
        """As it stands in the file."""
        fields = {
            "service": self.service, "pid": self.pid, "wait_status": self.wait_status, "time": self.time, "n": self.n,
        }  # fmt: skip
        return encode(fields) + b"\n"


class ExitFile:
    """The writing side, on a descriptor; -1: nowhere."""

    __slots__ = ("count", "fd", "last", "lead", "pending", "size")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.size = -1  # not looked at yet: the first service's start must not wait for it
        self.lead = b""
        self.count = 0
        self.pending: list[Exit] = []
        self.last: dict[str, Exit] = {}

    def look(self) -> None:
        """Find out what an earlier init left."""
        self.size = 0
        if self.fd < 0:
            return
        fcntl.fcntl(self.fd, fcntl.F_SETFL, fcntl.fcntl(self.fd, fcntl.F_GETFL) | os.O_APPEND)
        self.size = os.lseek(self.fd, 0, os.SEEK_END)
        self.lead = b"\n" if self.size else b""  # it may have died within a line
        self.count = last_number(self.fd, self.size)

    def record(self, service: str, pid: int, wait_status: int, time: float) -> bool:
        """Append; False when the disk refused and `retry` is wanted."""
        if self.size < 0:
            self.look()
        self.count += 1
        self.last[service] = Exit(service, pid, wait_status, time, self.count)
        self.pending.append(self.last[service])
        return self.retry()

    def retry(self) -> bool:
        """Write what is not written yet; False when some is left."""
        if self.fd < 0:
            self.pending.clear()
        if len(self.pending) > PENDING_LIMIT:
            self.pending = list(self.last.values())
        lines = self.lead + b"".join(exit.line() for exit in self.pending) if self.pending else b""
        if self.size + len(lines) > FILE_LIMIT:
            os.ftruncate(self.fd, 0)
            self.size = 0
            lines = b"".join(exit.line() for exit in self.last.values())
        if lines and not self.append(lines):
            return False
        if lines:
            self.lead = b""
        self.pending.clear()
        return True

    def append(self, lines: bytes) -> bool:
        """Write all or nothing."""
        done = 0
        try:
            while done < len(lines):
                done += os.write(self.fd, lines[done:])
        except OSError:
            self.cut()
            return False
        self.size += done
        return True

    def cut(self) -> None:
        """Take back a record that is not whole; where that is refused too, `lead` comes to the same."""
        try:
            os.ftruncate(self.fd, self.size)
        except OSError:
            return


def last_number(fd: int, size: int) -> int:
    """The `n` of the last record, where the descriptor can be read; else 0."""
    try:
        lines = os.pread(fd, TAIL, max(0, size - TAIL)).splitlines()
    except OSError:
        return 0
    return next((exit.n for exit in map(read_line, reversed(lines)) if exit is not None), 0)


def read_exits(path: str | os.PathLike[str]) -> list[Exit]:
    """What the file holds, oldest first; nothing when there is none. Lines that are no record are passed over."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return []
    with open(fd, "rb") as file:
        lines = file.read(2 * FILE_LIMIT).splitlines()
    found = [read_line(line) for line in lines]
    return [exit for exit in found if exit is not None]


def read_line(line: bytes) -> Exit | None:
    """One line as a record."""
    try:
        fields = decode(line)
        whole = {key: fields[key] for key in ("pid", "wait_status", "n")}
        if not isinstance(fields["service"], str) or any(type(value) is not int for value in whole.values()):
            return None
        return Exit(fields["service"], whole["pid"], whole["wait_status"], float(fields["time"]), whole["n"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
