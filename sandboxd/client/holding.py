"""What both colours of the client hold, and let go of, in the same way: idle connections, and a session's descriptors.

Imports client.session. Nothing here waits: what does has a colour, and is in `blocking` and `aio`.
"""

import os
from typing import Any, Generic, Protocol, TypeVar

from sandboxd.client.session import Exchange, named, session_of
from sandboxd.protocol.messages import Reply


class Wire(Protocol):
    """A connection: descriptors that came over it and were not taken, and whether an idle one is still good."""

    fds: list[int]

    @property
    def is_fresh(self) -> bool: ...  # noqa: D102 - the class says it

    def close(self) -> None: ...  # noqa: D102


W = TypeVar("W", bound=Wire)


class Idle(list[W]):
    """Connections without a call, `most` of them. Safe for threads: a list's append and pop are atomic."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def take(self) -> W | None:
        """One that is still good; None: there is none."""
        while self:
            try:
                wire = self.pop()
            except IndexError:  # another thread was faster
                break
            if wire.is_fresh:
                return wire
            wire.close()
        return None

    def give_back(self, wire: W, exchange: Exchange) -> None:
        """A connection whose call is over, or was given up."""
        if exchange.reusable and not wire.fds and len(self) < self._most:
            self.append(wire)
        else:
            wire.close()

    def close(self) -> None:
        """Close them all."""
        while self:
            self.pop().close()


class Opened(Generic[W]):
    """An open session: `fds` has the outer ends by name (`pty`, or `stdin`, `stdout`, `stderr`), the caller's to use.

    What is popped from `fds` is the caller's to close; the rest closes with the session, which lives as long as its
    connection. `first` and `last` are its answers.
    """

    blocking = False

    def __init__(self, wire: W, exchange: Exchange, first: Reply) -> None:
        self.fds: dict[str, int] = {}
        self.last: Any = None
        self.session = ""
        self.is_closed = False
        self._wire = wire
        self._exchange = exchange
        try:
            self.first: Any = self._seen(first)
        except BaseException:
            wire.close()
            raise

    def _seen(self, reply: Reply) -> Any:
        """An answer, its descriptors taken."""
        if self._wire.fds:
            self.fds |= named(reply, self._wire.fds)
            self._wire.fds = []
            for fd in self.fds.values():
                os.set_blocking(fd, self.blocking)  # init had them without; this end is ours alone now
        self.session = session_of(reply) or self.session
        self.last = reply
        return reply

    def close(self) -> None:
        """End the session, if it has not ended, and close what is left in `fds`."""
        self.is_closed = True
        self._wire.close()
        while self.fds:
            os.close(self.fds.popitem()[1])
