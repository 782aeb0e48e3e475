"""One inotify instance per event loop, shared by all who follow files there.

A user has 128 instances in all (fs.inotify.max_user_instances), editors included, so one for each follower would run out.
Imports kernel and asyncio. The instance is made with the first watch and closed with the last.
"""

import asyncio
import contextlib
import errno
import os
from weakref import WeakKeyDictionary

from sandboxd.errors import KernelError
from sandboxd.kernel import inotify

MASK = inotify.IN_MODIFY | inotify.IN_CREATE | inotify.IN_MOVED_TO | inotify.IN_DELETE_SELF | inotify.IN_MOVE_SELF

_by_loop: "WeakKeyDictionary[asyncio.AbstractEventLoop, Watches]" = WeakKeyDictionary()


class Watches:
    """The watched directories of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._fd = -1
        self._waiting: dict[int, set[asyncio.Event]] = {}

    def add(self, directory: str, changed: asyncio.Event) -> int:
        """Set `changed` whenever something in a directory does, until `drop`; raises KernelError."""
        if self._fd < 0:
            self._fd = inotify.inotify_init()
            self._loop.add_reader(self._fd, self._ready)
        try:
            watch = inotify.inotify_add_watch(self._fd, directory, MASK | inotify.IN_ONLYDIR)
        except KernelError as error:
            self._close_if_unused()
            if error.errno == errno.ENOSPC:  # "no space" is what inotify says for its own quota
                error.hint = "the limit of watches is used up: raise sysctl fs.inotify.max_user_watches"
            raise
        self._waiting.setdefault(watch, set()).add(changed)
        return watch

    def drop(self, watch: int, changed: asyncio.Event) -> None:
        """Be told no more."""
        waiting = self._waiting.get(watch, set())
        waiting.discard(changed)
        if not waiting and self._waiting.pop(watch, None) is not None:
            with contextlib.suppress(KernelError):  # the directory is gone, and its watch with it
                inotify.inotify_rm_watch(self._fd, watch)
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if not self._waiting and self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _ready(self) -> None:
        while events := inotify.read_events(self._fd):
            for event in events:
                # A watch of -1: the queue was full and events were lost, so everyone looks.
                told = self._waiting.get(event.watch, ()) if event.watch >= 0 else set().union(*self._waiting.values())
                for changed in told:
                    changed.set()


def watches() -> Watches:
    """The running loop's."""
    loop = asyncio.get_running_loop()
    found = _by_loop.get(loop)
    if found is None:
        found = _by_loop[loop] = Watches(loop)
    return found
