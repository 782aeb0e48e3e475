"""A request that waits for a service which is ready as soon as it listens finds that out by itself, and first of all.

The daemon sees it, too, and tells by the table: some hops later. So one of the requests that wait for an endpoint that is
`early` tries to connect, at once and again in short steps; the connection that comes to stand is that request's own, so the
service sees none that asks nothing. Only for a moment: what takes longer to listen is left to the daemon. Imports dialer, loop.
Invariant: a place has one at a time, and none after one in vain; whatever becomes of it, its socket is given or closed.
"""

import _socket
import errno
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from sandboxd.router.dialer import LOOPBACK, abandon, is_established
from sandboxd.router.loop import Watcher

if TYPE_CHECKING:
    from sandboxd.router.backends import Backend

PAUSE, GROWTH, MOST = 0.0003, 1.25, 24  # seconds between tries; all together a quarter of a second


class Waiting(Watcher, Protocol):
    """Whose request waits."""

    @property
    def is_held(self) -> bool:
        """Whether it does so still."""

    def reconsider(self) -> None:
        """Something changed: it may be let in."""


class Knock:
    """See above; for one place of a table, on behalf of one who waits there."""

    __slots__ = ("_backend", "_pause", "_sock", "_stands", "_stock", "_tries", "_who")

    def __init__(self, backend: "Backend", who: Waiting) -> None:
        self._backend = backend
        self._who = who
        self._stock = backend.stock
        self._sock: _socket.socket | None = None
        self._stands = False
        self._tries = 0
        self._pause = PAUSE

    def start(self) -> None:
        """Begin."""
        self._backend.env.held.add(self)
        self._ask()

    def _ask(self) -> None:
        if not self._goes_on():
            self.end()
            return
        try:
            sock = self._stock.take(socket.AF_INET)
        except OSError:
            self.end()
            return
        if sock is None:
            self._stock.wait(socket.AF_INET, self)
        else:
            self.supplied(sock)

    def supplied(self, sock: _socket.socket) -> None:
        """From the stock."""
        self._sock = sock
        self._backend.loop.hold_foreign()
        self._backend.loop.on_behalf(self._who, self._try)

    def unsupplied(self, reason: str) -> None:
        """From the stock: its init is not there yet, or any more, or gives none."""
        self._later(self._ask)

    def give(self, who: object) -> _socket.socket | None:
        """The connection, once it stands, for whom it was made."""
        sock = self._sock
        if sock is None or not self._stands or who is not self._who:
            return None
        self._sock = None
        self._backend.loop.drop_foreign()
        self.end()
        return sock

    def release(self) -> None:
        """The env goes away."""
        self.end()

    def end(self, *, in_vain: bool = False) -> None:
        """No more of it; in_vain: nor of another."""
        self._backend.env.held.discard(self)
        if self._backend.knock is self and not in_vain:
            self._backend.knock = None
        if self._sock is not None:
            self._backend.loop.drop_foreign()
            abandon(self._sock)
            self._sock = None

    def _try(self) -> None:
        sock, loop, port = self._sock, self._backend.loop, self._backend.endpoint.port or 0
        if sock is None:
            return
        if not self._goes_on():
            self.end()
            return
        loop.guard()
        sock.connect_ex((LOOPBACK[socket.AF_INET], port))
        self._stands = is_established(sock, port)  # on loopback it is known when the call returns
        # Refused, it can be connected anew (connect(2)), once a second call has said so (inet_stream_connect).
        if not self._stands and sock.connect_ex((LOOPBACK[socket.AF_INET], port)) == errno.ECONNREFUSED:
            self._later(self._try)
            return
        try:
            if self._stands:
                self._who.reconsider()
        finally:
            self.end()

    def _goes_on(self) -> bool:
        is_current = self._backend.knock is self and self in self._backend.env.held
        return is_current and self._who.is_held and not self._stock.over

    def _later(self, again: Callable[[], None]) -> None:
        if self._tries == MOST:
            self.end(in_vain=True)
            return
        self._tries += 1
        loop = self._backend.loop
        loop.at(loop.now + self._pause, partial(loop.on_behalf, self._who, again))
        self._pause *= GROWTH
