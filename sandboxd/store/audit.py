"""The audit log on disk: JSON Lines in two files of bounded size, the older one replaced when the newer is full.

It is appended to with one write(2) a line, so that a crash leaves whole lines, but for the last on a full disk. Whoever cannot
write it says so once and goes on: what users ask for must not depend on a log. Kept 0600 in the state directory.
"""

import logging
import os
from collections import deque
from pathlib import Path

log = logging.getLogger(__name__)
CHUNK = 64 << 10


class AuditLog:
    """path: of the newer file; the older one is beside it, with `.1` at its end. limit: bytes of both together, 0: nothing."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.older = path.with_name(f"{path.name}.1")
        self.limit = limit
        self.lost = 0  # lines that could not be written since the last that could
        self._fd = -1
        self._size = 0

    def add(self, line: bytes) -> None:
        """Append one line, without its end."""
        if not self.limit:
            return
        try:
            if self._fd < 0:
                self._open()
            if self._size and self._size + len(line) + 1 > self.limit // 2:
                self.close()
                os.replace(self.path, self.older)
                self._open()
            self._size += os.write(self._fd, line + b"\n")
        except OSError as error:
            if not self.lost:
                log.error("the audit log cannot be written: %s: %s", self.path, error.strerror)
            self.lost += 1
        else:
            if self.lost:
                log.error("the audit log %s lacks %d lines", self.path, self.lost)
                self.lost = 0

    def last(self, count: int) -> list[bytes]:
        """The newest lines, oldest first."""
        found: deque[bytes] = deque(maxlen=count)
        for path in (self.older, self.path):
            try:
                with open(path, "rb", buffering=CHUNK) as file:
                    found.extend(line.rstrip(b"\n") for line in file)
            except FileNotFoundError:
                continue
        return list(found)

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(self.path, flags, 0o600)
        self._size = os.fstat(self._fd).st_size
