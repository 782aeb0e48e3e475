"""Bytes between an in-band session's descriptors and a client's replies: bounded by one chunk per stream, no threads."""

import asyncio
import os
from collections.abc import Awaitable, Callable

CHUNK = 32768


async def pump(fds: dict[str, int], deliver: Callable[[str, bytes], Awaitable[None]]) -> None:
    """Read every output descriptor to its end, delivering chunk by chunk; the next is read once the last was taken.

    fds: by stream; a pty counts as stdout, stdin is left alone.
    """
    outputs = {"stdout" if name == "pty" else name: fd for name, fd in fds.items() if name != "stdin"}
    async with asyncio.TaskGroup() as group:
        for stream, fd in outputs.items():
            group.create_task(_pump_one(stream, fd, deliver))


async def _pump_one(stream: str, fd: int, deliver: Callable[[str, bytes], Awaitable[None]]) -> None:
    os.set_blocking(fd, False)
    while True:
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            await readable(fd)
            continue
        except OSError:
            return  # EIO: the last holder of the pty's other side has closed it (pty(7))
        if not data:
            return
        await deliver(stream, data)


async def write_all(fd: int, data: bytes) -> None:
    """Write it all, waiting while the other side is slow; raises BrokenPipeError when nobody reads any more."""
    os.set_blocking(fd, False)
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            await writable(fd)


async def readable(fd: int) -> None:
    """Until the descriptor can be read."""
    loop = asyncio.get_running_loop()
    await _watched(fd, loop.add_reader, loop.remove_reader)


async def writable(fd: int) -> None:
    """Until the descriptor can be written."""
    loop = asyncio.get_running_loop()
    await _watched(fd, loop.add_writer, loop.remove_writer)


async def _watched(fd: int, add: Callable[..., object], remove: Callable[[int], object]) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    own = os.dup(fd)  # one watcher per descriptor number: a pty is read and written at once
    try:
        add(own, lambda: None if ready.done() else ready.set_result(None))
        await ready
    finally:
        remove(own)
        os.close(own)
