"""How the router gets into an env: one attempt to connect to a service, over a socket that was born in its namespace.

Where the socket comes from is `stock`'s. Nothing here waits: a connect that is not over at once is an event, and its time is
bounded. Invariant: whoever asked for a connection is told exactly once, if he does not cancel it.
"""

import _socket
import errno
import os
import socket
from typing import Protocol

from sandboxd.router.loop import LOST, WRITE, Loop, Timer
from sandboxd.router.stock import Stock

EPHEMERAL = 32768  # from here up a dial may be given its own target as its source, and so connect to itself (RFC 9293 3.5)
TCP_SYN_SENT = 2
CONNECTED = frozenset((1, 8))  # established; close-wait: a service that answers and closes at once has done so by now
LOOPBACK: dict[int, str] = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


class Dialled(Protocol):
    """Who wants a connection."""

    def connected(self, sock: _socket.socket) -> None:
        """It stands."""

    def unreachable(self, reason: str) -> None:
        """It cannot be had; the reason is the end of a sentence about the service."""


class Target(Protocol):
    """What a Dial needs of a Backend."""

    family: int
    loop: Loop

    @property
    def stock(self) -> Stock:
        """Where sockets come from."""


def dial_at_once(target: Target, port: int) -> _socket.socket | None:
    """A connection, where a ready socket is at hand and is connected when connect(2) returns: on loopback nearly always.

    None: it takes longer, and a `Dial`. Raises OSError where the host gives no socket.
    """
    sock = target.stock.take(target.family)
    if sock is None:
        return None
    target.loop.guard()
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
    sock.connect_ex((LOOPBACK[target.family], port))
    if is_established(sock, port):
        return sock
    abandon(sock)
    return None


def abandon(sock: _socket.socket) -> None:
    """Close it, whoever else holds it."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # ENOTCONN: there is nothing to end
    sock.close()


def is_established(sock: _socket.socket, port: int) -> bool:
    """Whether it is connected, and not to itself."""
    state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    return state in CONNECTED and not (port >= EPHEMERAL and sock.getsockname() == sock.getpeername())


class Dial:
    """One attempt: a socket of the family that worked last, connect, then the other family. Bounded as a whole."""

    __slots__ = ("_families", "_family", "_number", "_port", "_queue", "_sock", "_target", "_timer", "_who", "over")

    def __init__(self, target: Target, port: int, who: Dialled) -> None:
        self._target = target
        self._port = port
        self._who = who
        first = target.family
        self._families = [socket.AF_INET6 if first == socket.AF_INET else socket.AF_INET]
        self._family: int = first
        self._sock: _socket.socket | None = None
        self._timer: Timer | None = None
        self._queue: Stock | None = None
        self._number = 0
        self.over = False

    def start(self, bound: float) -> None:
        """Begin; `who` may be told before this returns."""
        self._try(self._family)
        if not self.over:
            self._timer = self._target.loop.at(self._target.loop.now + bound, self._expire)

    def cancel(self) -> None:
        """Nobody wants it any more."""
        self._end()
        self._drop()

    def supplied(self, sock: _socket.socket) -> None:
        """From the stock."""
        self._queue = None
        loop = self._target.loop
        loop.guard()
        result = sock.connect_ex((LOOPBACK[self._family], self._port))
        if result not in (0, errno.EINPROGRESS):
            abandon(sock)
            self._next(result)
            return
        self._sock = sock
        loop.hold_foreign()
        state = self._state()
        if state == TCP_SYN_SENT:
            loop.watch(sock.fileno(), self, WRITE)
        else:
            self._settle(state)

    def unsupplied(self, reason: str) -> None:
        """From the stock."""
        self._queue = None
        if self._families:
            self._try(self._families.pop())
        elif self._number:
            self._next(self._number)  # the other family's failure says more
        else:
            self._fail(reason)

    def on_event(self, mask: int) -> None:
        """Connected, or not."""
        state = self._state()
        if state == TCP_SYN_SENT and not mask & LOST:
            return
        if self._sock is not None:
            self._target.loop.forget(self._sock.fileno())
        self._settle(state)

    def abort(self, *, stalled: bool = False) -> None:
        """From the loop, after a failure of ours."""
        self._fail("connecting to it did not come to an end" if stalled else "connecting to it failed")

    def _try(self, family: int) -> None:
        self._family = family
        try:
            sock = self._target.stock.take(family)
        except OSError as error:
            self.unsupplied(os.strerror(error.errno or 0))
            return
        if sock is None:
            self._queue = self._target.stock
            self._queue.wait(family, self)
        else:
            self.supplied(sock)

    def _state(self) -> int:
        """TCP's state; on loopback the handshake is over before connect(2) returns, so mostly no event is needed."""
        return self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] if self._sock is not None else 0

    def _settle(self, state: int) -> None:
        sock = self._sock
        if sock is None:
            return
        if state in CONNECTED and is_established(sock, self._port):
            self._target.family = self._family
            self._sock = None
            self._target.loop.drop_foreign()
            self._end()
            self._who.connected(sock)
            return
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self._drop()
        self._next(number or errno.ECONNREFUSED)

    def _next(self, number: int) -> None:
        self._number = number
        if self._families:
            self._try(self._families.pop())
        elif number == errno.ECONNREFUSED:
            self._fail("nothing listens there, neither on 127.0.0.1 nor on [::1]")
        else:
            self._fail(f"it cannot be connected to: {os.strerror(number)}")

    def _expire(self) -> None:
        self._fail("it did not take the connection in time")

    def _fail(self, reason: str) -> None:
        self._end()
        self._drop()
        self._who.unreachable(reason)

    def _end(self) -> None:
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._queue is not None:
            self._queue.forget(self._family, self)
            self._queue = None

    def _drop(self) -> None:
        if self._sock is not None:
            self._target.loop.forget(self._sock.fileno())
            self._target.loop.drop_foreign()
            abandon(self._sock)
            self._sock = None
