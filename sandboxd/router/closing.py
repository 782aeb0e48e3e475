"""Ends of connections that take a moment: letting a client take its answer, and a reset that overtakes no data.

close(2) with unread input sends a reset at once, and a reset makes the peer's kernel drop what it has not yet delivered: the
answer that said why. So a refused client is told, half-closed, and read out for a bounded time (RFC 9112 9.6). And where a
service broke off, its client must not take the end for a clean one: it gets the bytes that came, and then a reset.
"""

import _socket
import socket
from collections.abc import Callable

from sandboxd.kernel.splice import reset_on_close, unacknowledged
from sandboxd.router.loop import Loop
from sandboxd.router.relay import Side, shared

MOST_DISCARDED = 1 << 20
LOOK = 0.02
PATIENCE = 10.0
# A client that half-closed may be gone altogether, which nothing tells us while its service is silent (a closed event
# stream). Probes do: its kernel answers them with a reset once it has forgotten the socket (tcp(7), tcp_fin_timeout).
PROBE_IDLE, PROBE_INTERVAL, PROBE_COUNT = 15, 15, 4


class Lingering(Side):
    """A refused client: half-closed, what still comes is thrown away, until its end or the deadline."""

    __slots__ = ("discarded",)

    def __init__(self, loop: Loop, sock: _socket.socket, patience: float) -> None:
        super().__init__(loop, sock)
        self.discarded = 0
        self.half_close()
        loop.at(loop.now + patience, self.close)

    def readable(self) -> None:
        """Throw away."""
        try:
            count = self.sock.recv_into(shared, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        self.discarded += count
        if not count or self.discarded > MOST_DISCARDED:
            self.close()


class Resetting:
    """A socket that is reset once its peer has confirmed all that was sent, or will not within a bound."""

    def __init__(self, loop: Loop, sock: _socket.socket, closed: Callable[[], None]) -> None:
        """`sock` is out of the loop and belongs to this object from here on; `closed` is called once it is."""
        self._loop = loop
        self._sock = sock
        self._closed = closed
        self._until = loop.now + PATIENCE
        self._look()

    def _look(self) -> None:
        # No event tells of the last acknowledgement, so this looks; on loopback the first look is nearly always the last.
        if unacknowledged(self._sock) and self._loop.now < self._until:
            self._loop.at(self._loop.now + LOOK, self._look)
            return
        reset(self._sock)
        self._closed()


def reset(sock: _socket.socket) -> None:
    """Close with a reset; what was not yet delivered is lost."""
    try:
        reset_on_close(sock)
    except OSError:
        pass  # already gone: close is all there is to do
    sock.close()


def linger(side: Side, patience: float) -> None:
    """Take the socket out of a role that is over, and see its end through."""
    if side.open:
        release(side)
        Lingering(side.loop, side.sock, patience)


def reset_when_taken(side: Side) -> None:
    """The same, for a client whose answer broke off."""
    if side.open:
        release(side)
        if side.backlog:  # it did not even take what we have: nothing can be told apart any more
            reset(side.sock)
        else:
            Resetting(side.loop, side.sock, side.closed)


def release(side: Side) -> None:
    """Out of the loop, the socket left open."""
    side.open = False
    if not side.parked:
        side.loop.forget(side.fd)


def probe(sock: _socket.socket) -> None:
    """Have the kernel find out when a client that half-closed is gone altogether; of a Unix socket's it tells by itself."""
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBE_IDLE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBE_INTERVAL)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBE_COUNT)
