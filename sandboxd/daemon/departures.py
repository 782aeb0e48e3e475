"""Who hangs up while nobody reads what he says: for a connection whose input waits in the kernel until its call is answered.

Imports the standard library only. Descriptors stay their owners', who take them away before they close them.
"""

import asyncio
import select
from collections.abc import Callable


class Departures:
    """Sees clients hang up whose sockets are not being read: epoll always reports EPOLLHUP, also where nothing is asked for.

    One epoll for all of them, watched by the loop; the loop's own readers cannot ask for a hang-up alone.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[], None]] = {}
        loop.add_reader(self._epoll.fileno(), self._ready)

    def watch(self, fd: int, gone: Callable[[], None]) -> None:
        """Call `gone` when the other end of this socket is closed."""
        if fd not in self._watched:
            self._epoll.register(fd, 0)
            self._watched[fd] = gone

    def forget(self, fd: int) -> None:
        """No more of that; before the descriptor is closed."""
        if self._watched.pop(fd, None):
            self._epoll.unregister(fd)

    def _ready(self) -> None:
        for fd, _ in self._epoll.poll(0):
            if fd in self._watched:
                self._watched[fd]()

    def close(self) -> None:
        """Watch nothing any more."""
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
