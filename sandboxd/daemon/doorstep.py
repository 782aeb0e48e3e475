"""Keeps the control socket where clients look for it: somebody may sweep its directory away (/tmp cleaners, the last logout).

The kernel tells of each removal (inotify(7)); then the directory is made and checked anew, and another socket is bound there.
Who is connected stays so. What cannot be made now (no XDG_RUNTIME_DIR without a login) is tried again every so often.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable

from sandboxd.errors import KernelError, SandboxdError
from sandboxd.kernel import inotify
from sandboxd.store.rundir import RunDir

log = logging.getLogger(__name__)
SOON, LATER = 0.1, 5.0  # seconds; a sweep takes the socket first and then its directory
SELF = inotify.IN_DELETE_SELF | inotify.IN_MOVE_SELF | inotify.IN_IGNORED
EVENTS = inotify.IN_DELETE | inotify.IN_MOVED_FROM | inotify.IN_DELETE_SELF | inotify.IN_MOVE_SELF


class Doorstep:
    """Watches until it is closed. moved: given each new socket, before the old one is closed."""

    def __init__(self, rundir: RunDir, moved: Callable[[socket.socket], None]) -> None:
        self._rundir = rundir
        self._moved = moved
        self._loop = asyncio.get_running_loop()
        self._due: asyncio.TimerHandle | None = None
        self._inotify = -1
        self._said = False
        self._watch()

    def _watch(self) -> None:
        try:
            if self._inotify < 0:
                self._inotify = inotify.inotify_init()
                self._loop.add_reader(self._inotify, self._heard)
            inotify.inotify_add_watch(self._inotify, str(self._rundir.socket_path.parent), EVENTS | inotify.IN_ONLYDIR)
        except KernelError as error:  # the user's instances are used up: then it is looked at
            log.debug("the control socket's directory cannot be watched: %s", error)
            self._look_in(LATER)

    def _heard(self) -> None:
        name = self._rundir.socket_path.name
        if any(event.mask & SELF or event.name in (name, "") for event in inotify.read_events(self._inotify)):
            self._look_in(SOON)

    def _look_in(self, seconds: float) -> None:
        if self._due is None:
            self._due = self._loop.call_later(seconds, self._look)

    def _look(self) -> None:
        self._due = None
        try:
            fresh = self._rundir.renew(self._moved)
        except (SandboxdError, OSError) as error:
            if not self._said:
                log.error("clients do not find this daemon, its socket is gone and cannot be made anew as yet: %s", error)
            self._said = True
            self._look_in(LATER)
            return
        if fresh:
            log.warning("%s was taken away: it is there again", self._rundir.socket_path)
        self._said = False
        self._watch()

    def close(self) -> None:
        """Watch no more."""
        if self._due is not None:
            self._due.cancel()
        if self._inotify >= 0:
            self._loop.remove_reader(self._inotify)
            os.close(self._inotify)
            self._inotify = -1
