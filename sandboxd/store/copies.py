"""The way of each env's record to the journal, and to a copy in the env's own directory, from which a damaged one is made anew.

Copies are written a moment later, many changes at once, off every request's way; whole or not at all, by rename. The journal
is what counts: a copy is read only when that had to be set aside. Its log is taken into its database by a thread, too. Neither
is done while many envs start, as long as that can wait. Imports rundir, journal and errors.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from sandboxd.errors import StoreFailed
from sandboxd.store.journal import Journal, fold
from sandboxd.store.rundir import RunDir

log = logging.getLogger(__name__)
NAME = "record"
DELAY = 1.0  # seconds: an env that starts changes five times in one, and a copy costs three entries of a directory
AT_ONCE, PAUSE = 32, 0.02  # files, and seconds between so many: a daemon that writes hundreds on end answers nobody meanwhile
PUT_OFF = 10  # times that copies make way for envs that start
FEW, MANY = 250, 5_000  # changes until the log is taken into the database: about a thousand pages, as sqlite does by itself
RETRY = 1.0  # seconds; a full disk tells nobody when it is not
MOST = 4 << 20  # bytes of a record that is read
DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")


class Kept:
    """Records on their way to the journal and to their copies. is_crowded: whether so many envs start that these go first."""

    def __init__(self, rundir: RunDir, journal: Journal, is_crowded: Callable[[], bool] = lambda: False) -> None:
        self._rundir = rundir
        self._journal = journal
        self._is_crowded = is_crowded
        self._put_off = 0
        self._folded = journal.written
        self._folding: asyncio.Future[None] | None = None
        self._waiting: dict[str, bytes] = {}  # for their copies
        self._unsaved: dict[str, bytes | None] = {}  # None: to be forgotten
        self._is_due = False
        self._is_behind = False
        self._waiters: list[asyncio.Future[None]] = []
        self._retry: asyncio.TimerHandle | None = None

    def create(self, env_id: str, record: bytes) -> None:
        """Write a new env's record; raises StoreFailed, and then it is not there."""
        self._journal.put(env_id, record)
        self._note(env_id, record)

    def save(self, env_id: str, record: bytes) -> None:
        """Have a record written, with all others of this turn of the loop (see `saved`); one that cannot be written now is
        written as soon as one can be."""
        self._note(env_id, record)
        self._change(env_id, record)

    def remove(self, env_id: str) -> None:
        """The same of an env that is to be forgotten."""
        self._waiting.pop(env_id, None)
        self._change(env_id, None)

    async def saved(self) -> None:
        """Wait until what is to be written is there, or is known to have to wait."""
        if self._is_due:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def _change(self, env_id: str, record: bytes | None) -> None:
        self._unsaved[env_id] = record
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._catch_up)

    def _catch_up(self) -> None:
        self._is_due = False
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        try:
            self._write_all()
        except StoreFailed as error:
            self._retry = asyncio.get_running_loop().call_later(RETRY, self._catch_up)
            if not self._is_behind:
                log.error("the journal cannot be written, changes are kept in memory: %s", error)
            self._is_behind = True
        else:
            if self._is_behind:
                log.info("the journal can be written again, and has all changes")
            self._is_behind = False
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _write_all(self) -> None:
        """As one transaction, or where that is too much for the disk, as many as it takes."""
        try:
            self._journal.change(self._unsaved)
        except StoreFailed:
            if len(self._unsaved) == 1:
                raise
            for env_id, record in list(self._unsaved.items()):
                self._journal.change({env_id: record})
                del self._unsaved[env_id]
        self._unsaved.clear()

    def close(self) -> None:
        """Write what waits, as far as it can be."""
        self._write(list(self._waiting))
        if self._unsaved:
            self._catch_up()
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    def _note(self, env_id: str, record: bytes) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_later(DELAY, self.write)
        self._waiting[env_id] = record

    def write(self) -> None:
        """Write what waits, some of it now."""
        if self._put_off < PUT_OFF and self._is_crowded():
            self._put_off += 1
            asyncio.get_running_loop().call_later(DELAY, self.write)
            return
        self._write(list(itertools.islice(self._waiting, AT_ONCE)))
        if self._waiting:
            asyncio.get_running_loop().call_later(PAUSE, self.write)
        else:
            self._put_off = 0

    def tend(self) -> None:
        """Have the journal's log taken into its database where it has become long; called once a second."""
        changed = self._journal.written - self._folded
        if changed < FEW or (changed < MANY and self._is_crowded()) or self._folding is not None:
            return
        self._folded = self._journal.written
        self._folding = asyncio.get_running_loop().run_in_executor(None, fold, self._journal.path)
        self._folding.add_done_callback(self._has_folded)

    def _has_folded(self, folding: "asyncio.Future[None]") -> None:
        self._folding = None
        if not folding.cancelled() and folding.exception() is not None:
            log.warning("the journal's log grows: %s", folding.exception())

    def _write(self, env_ids: list[str]) -> None:
        """An env without a directory has nothing to lose; what the disk refuses is copied another time."""
        for env_id in env_ids:
            record = self._waiting.pop(env_id)
            path = self._rundir.env_dir(env_id) / NAME
            fresh = path.with_suffix(".new")
            try:
                fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
                try:
                    if os.write(fd, record) < len(record):
                        continue  # a disk that is full takes a part (write(2)): the copy before stays
                finally:
                    os.close(fd)
                fresh.rename(path)
            except OSError as error:
                log.debug("no copy of the record of env %s: %s", env_id, error)


def open_or_rebuild(path: Path, rundir: RunDir) -> Journal:
    """The journal; a damaged one is set aside whole, and made anew from the copies. Raises StoreFailed for other faults."""
    try:
        return Journal(path)
    except StoreFailed as error:
        if error.details.get("sqlite") not in DAMAGED:
            raise
        log.error("%s: it is set aside, and made anew from the copies of its records", error)
    token = time.strftime("%Y%m%d-%H%M%S") + f"-{os.getpid()}"
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{path}.bad-{token}{suffix}")
    journal = Journal(path)
    for env_id in rundir.env_ids():
        try:
            with open(rundir.env_dir(env_id) / NAME, "rb") as file:
                journal.put(env_id, file.read(MOST))
        except OSError as error:
            log.error("env %s is lost: there is no copy of its record (%s)", env_id, error)
    return journal
