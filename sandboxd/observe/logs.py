"""Reading and following what an env's services wrote, all of them merged by time.

Touches the log files and inotify. Memory is bounded whatever the logs hold: a follower has a chunk per service, a reading the
newest 32 MiB. Follow with an `asyncio.timeout` or a task of your own around it; close it (`contextlib.aclosing`) to give
up its watch at once.
"""

import asyncio
import contextlib
import errno
import heapq
import os
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path

from sandboxd.errors import KernelError
from sandboxd.observe.records import Decoder, Record, last_lines, stamp
from sandboxd.observe.servicelog import ServiceLog
from sandboxd.observe.watches import watches
from sandboxd.protocol.messages import LogLine

MAX_HISTORY = 32 << 20  # bytes of records, all services together
MAX_BATCH = 128 << 10  # bytes of text; JSON may write six for one, and a frame holds 1 MiB
RECORD_COST = 150  # bytes that a record takes in a frame besides its text
MAX_TURN = 16  # chunks of one service before the others get their turn


def read_logs(
    directory: Path, services: Sequence[str], *, tail: int | None = None, since: float | None = None
) -> list[LogLine]:
    """What there is now, oldest first; tail: the last so many lines; since: seconds since the epoch. Blocks on the disk."""
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context(contextlib.closing(ServiceLog(directory, service))) for service in services]
        return Decoder().lines(history(logs, tail=tail, since=since, bounded=True))


async def follow(
    directory: Path, services: Sequence[str], *, tail: int | None = None, since: float | None = None, ended: asyncio.Event
) -> AsyncGenerator[list[LogLine], None]:
    """Batches of what there is and then of what comes, until `ended` is set (then: what is left) or the logs are removed."""
    changed = asyncio.Event()
    decoder = Decoder()
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context(contextlib.closing(ServiceLog(directory, service))) for service in services]
        try:
            watch = watches().add(str(directory), changed)  # before the first look: nothing can fall between
        except KernelError as error:
            if error.errno == errno.ENOENT:
                return
            raise
        stack.callback(watches().drop, watch, changed)
        ender = asyncio.ensure_future(ended.wait())
        ender.add_done_callback(lambda _: changed.set())
        stack.callback(ender.cancel)
        for batch in batches(history(logs, tail=tail, since=since, bounded=False)):
            yield decoder.lines(batch)
            await asyncio.sleep(0)  # a long history must not keep the loop from others
        while True:
            last = ended.is_set() or not is_there(directory)
            changed.clear()
            for batch in batches(news(logs, changed)):
                yield decoder.lines(batch)
            if last and not changed.is_set():
                return
            await changed.wait()


def history(logs: list[ServiceLog], *, tail: int | None, since: float | None, bounded: bool) -> Iterator[Record]:
    """The records there are, merged by time. bounded: the newest 32 MiB; else all, read as they are taken."""
    after = stamp(since) if since is not None else b""
    share = MAX_HISTORY // max(len(logs), 1)
    for log in logs:
        if after:
            log.start_at(after)
        if tail is not None or bounded:
            log.start_before_end(share if tail is None else tail, share)
    merged = heapq.merge(*(all_of(log, after) for log in logs), key=lambda record: record.time)
    return iter(last_lines(list(merged), tail)) if tail is not None else merged


def all_of(log: ServiceLog, after: bytes) -> Iterator[Record]:
    """The records of one service from a time on, chunk by chunk."""
    while found := log.read():
        yield from (record for record in found if record.time >= after)


def news(logs: list[ServiceLog], changed: asyncio.Event) -> list[Record]:
    """What came since, by time; sets `changed` when there may be more."""
    found: list[Record] = []
    for log in logs:
        for turn in range(MAX_TURN):
            chunk = log.read()
            found.extend(chunk)
            if not chunk:
                break
            if turn == MAX_TURN - 1:
                changed.set()
    return sorted(found, key=lambda record: record.time)


def batches(found: Iterator[Record] | list[Record]) -> Iterator[list[Record]]:
    """Records in lists that fit a frame; no empty ones."""
    batch: list[Record] = []
    size = 0
    for record in found:
        batch.append(record)
        size += len(record.text) + RECORD_COST
        if size >= MAX_BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def is_there(directory: Path) -> bool:
    """Whether the logs are still where they were."""
    return os.path.isdir(directory)
