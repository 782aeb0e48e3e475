"""The access log's file, and the thread that writes it: the loop hands over lines and waits for no disk.

Several workers append to one file. Each holds its lock (flock(2)) while it writes, so the bound is kept exactly: a file that
would outgrow it becomes PATH.1, in the place of the one before. Invariants: files hold whole lines; what cannot be written, and
what comes faster than the disk takes it, is dropped and counted, and the next line that is written tells how many.
"""

import fcntl
import logging
import os
import queue
import signal
import stat
import threading
import time
from pathlib import Path

from sandboxd.errors import UsageError
from sandboxd.router.loop import Loop, Timer
from sandboxd.routing import accesslog

MOST_WAITING = 1 << 20  # bytes of lines that the disk has not taken yet
DELAY = 0.1  # seconds from a line to its being handed over, with all that came meanwhile
LAST = 2.0  # seconds for the last lines at the end
LOOKS = 100

log = logging.getLogger("sandboxd.router")


class LogFile:
    """One process's view of the file. What fails raises OSError, and leaves it with whole lines."""

    def __init__(self, path: str, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._fd = -1

    def write(self, data: bytes) -> None:
        """Append these lines."""
        for piece in accesslog.pieces(data, self._limit):
            self._lock()
            try:
                self._append(piece)
            finally:
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def open(self) -> None:
        """Be sure that it can be written to; nothing but a file, which is not waited for."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        self._fd = os.open(self._path, flags, 0o600)
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            self.close()
            raise OSError(None, "it is not a file", self._path)

    def close(self) -> None:
        """Once."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, data: bytes) -> None:
        size = os.fstat(self._fd).st_size
        if size and size + len(data) > self._limit:
            os.replace(self._path, f"{self._path}.1")
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            self._lock()
            size = os.fstat(self._fd).st_size  # another may have written by now
        written = os.write(self._fd, data)
        if written < len(data):
            whole = data.rfind(b"\n", 0, written) + 1
            os.ftruncate(self._fd, size + whole)
            raise OSError(None, f"only {whole} of {len(data)} bytes were taken", self._path)

    def _lock(self) -> None:
        """Hold the lock of the file that has the name now; others rename it, and so may whoever rotates logs."""
        for _ in range(LOOKS):
            if self._fd < 0:
                self.open()
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            if self._is_named():
                return
            self.close()
        raise OSError(None, "it is replaced again and again", self._path)

    def _is_named(self) -> bool:
        held = os.fstat(self._fd)
        try:
            named = os.stat(self._path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)


class AccessLog:
    """For one worker's loop."""

    def __init__(self, loop: Loop, path: str, limit: int) -> None:
        self._loop = loop
        self._file = LogFile(path, limit)
        self._lines: list[bytes] = []
        self._size = 0
        self._lost = 0
        self._timer: Timer | None = None
        self._writing = False
        self._failing = False
        self._batches: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        # Signals are the loop's: one that this thread took would not break the call that it is meant to break.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def note(self, entry: accesslog.Entry) -> None:
        """Have it written."""
        line = accesslog.line(entry)
        if self._size + len(line) > MOST_WAITING:
            self._lost += 1
            return
        self._lines.append(line)
        self._size += len(line)
        if self._timer is None:
            self._timer = self._loop.at(self._loop.now + DELAY, self._hand_over)

    def close(self) -> None:
        """Write what is left, within a bound."""
        if self._timer is not None:
            self._timer.cancel()
        self._batches.put(self._batch())
        self._batches.put(None)
        self._thread.join(LAST)

    def _hand_over(self) -> None:
        self._timer = None
        if self._writing:  # the disk is slow: what comes meanwhile is kept up to its bound
            self._timer = self._loop.at(self._loop.now + DELAY, self._hand_over)
            return
        self._writing = True
        self._batches.put(self._batch())

    def _batch(self) -> bytes:
        if self._lost:
            self._lines.append(accesslog.line(accesslog.Lost(time=accesslog.stamp(time.time()), lost=self._lost)))
            self._lost = 0
        data = b"".join(self._lines)
        self._lines = []
        self._size = 0
        return data

    def _run(self) -> None:
        """The thread."""
        while (batch := self._batches.get()) is not None:
            try:
                self._file.write(batch)
                self._failing = False
            except OSError as error:
                self._lost += batch.count(b"\n")
                if not self._failing:
                    log.error("the access log cannot be written: %s", error)
                self._failing = True
            self._writing = False
        self._file.close()


def check(path: str) -> None:
    """Raise UsageError unless a log can be kept there."""
    if not path:
        return
    try:
        file = LogFile(path, 0)
        file.open()
        file.close()
    except OSError as error:
        hint = f"a file in a directory that is there and yours to write: {Path(path).parent}"
        raise UsageError(f"SANDBOXD_ACCESS_LOG={path!r}: {error.strerror}", hint=hint) from error
