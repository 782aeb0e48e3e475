"""A small pool of pipes for splice(2), lent out only while they carry bytes.

Why so few: `pipe-user-pages-soft` counts the pages of all pipes of one uid, the users' own included; a router that took a
pipe per connection would leave every later pipe of the user (logs, shells) with one or two pages. A direction that gets none
goes on with recv and send. Imports kernel.splice. Invariant: a pipe in the pool is empty.
"""

import os

from sandboxd.errors import KernelError
from sandboxd.kernel.splice import make_pipe

WANTED = 1 << 20
LEAST = 1 << 16  # below that, splice moves less a call than recv does


class Pipe:
    """Two ends and how much fits."""

    __slots__ = ("capacity", "read", "write")

    def __init__(self, read: int, write: int, capacity: int) -> None:
        self.read = read
        self.write = write
        self.capacity = capacity

    def close(self) -> None:
        """Both ends."""
        os.close(self.read)
        os.close(self.write)


class Pipes:
    """`made` counts those in use and those at rest, at most `most`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._free: list[Pipe] = []
        self._least_free = 0
        self.made = 0

    def take(self) -> Pipe | None:
        """An empty pipe; None: none to be had now."""
        if self._free:
            pipe = self._free.pop()
            self._least_free = min(self._least_free, len(self._free))
            return pipe
        if self.made >= self._most:
            return None
        try:
            pipe = Pipe(*make_pipe(WANTED))
        except KernelError:
            return None
        if pipe.capacity < LEAST:
            pipe.close()
            return None
        self.made += 1
        return pipe

    def give(self, pipe: Pipe) -> None:
        """Back, empty."""
        self._free.append(pipe)

    def discard(self, pipe: Pipe) -> None:
        """Back with bytes in it that nobody wants any more."""
        pipe.close()
        self.made -= 1

    def trim(self) -> None:
        """Close those that were not needed since the last call."""
        for _ in range(self._least_free):
            self.discard(self._free.pop())
        self._least_free = len(self._free)

    def close(self) -> None:
        """Close all that are here."""
        while self._free:
            self.discard(self._free.pop())
