"""Two sockets joined for good: raw TCP, and what follows a 101. Half-close passes through, a reset ends as a reset.

When one side cannot be written to any more, what it had still sent is read out first (a server may answer and close without
reading its input, which makes its kernel send a reset); only then is the other side reset. Imports relay and closing.
"""

import socket
from collections.abc import Callable

from sandboxd.kernel.splice import unacknowledged
from sandboxd.router.closing import release, reset, reset_when_taken
from sandboxd.router.loop import READ
from sandboxd.router.pipes import Pipes
from sandboxd.router.relay import ENDLESS, Flow, How, Side


class Dozing(Flow):
    """In the place of a tunnel's inward flow while its env is asleep: the first byte wakes it, and no other pays for that."""

    __slots__ = ("_rouse", "flow")

    def __init__(self, flow: Flow, rouse: Callable[[], None]) -> None:
        self.flow = flow
        self._rouse = rouse

    def move(self) -> None:
        """The client sent something."""
        self.rise()
        self._rouse()
        self.flow.move()

    def rise(self) -> None:
        """Give the flow its place back."""
        if self.flow.source.outgoing is self:
            self.flow.source.outgoing = self.flow


class Tunnel:
    """Owns both sides until both directions are over, then calls `on_end` once. `moved`: bytes from near, bytes from far."""

    __slots__ = ("_dozing", "_lost", "_on_end", "_open", "far", "inward", "near", "outward")

    def __init__(self, near: Side, far: Side, pipes: Pipes, on_end: Callable[[], None]) -> None:
        """`near` is the client, `far` the service."""
        self.near = near
        self.far = far
        self._on_end = on_end
        self._lost: Side | None = None
        self._dozing: Dozing | None = None
        self._open = 2
        self.inward = Flow(near, far, ENDLESS, pipes, self._ended)
        self.outward = Flow(far, near, ENDLESS, pipes, self._ended)

    def doze(self, rouse: Callable[[], None]) -> None:
        """Its env is asleep: call `rouse` when the client sends something."""
        if self._dozing is None and self.near.outgoing is self.inward:
            self._dozing = self.near.outgoing = Dozing(self.inward, rouse)

    def rise(self) -> None:
        """Its env is awake."""
        if self._dozing is not None:
            self._dozing.rise()
            self._dozing = None

    def near_ended(self) -> None:
        """The client had half-closed before the tunnel stood."""
        self._ended(self.inward, How.EOF)

    def broken(self, side: Side) -> None:
        """From a side: nothing can be sent there any more."""
        flow = self.inward if side is self.far else self.outward
        self._ended(flow, How.SINK_LOST)

    def cut(self) -> None:
        """The env goes away: both ends at once, the client with a reset after what it was sent."""
        self._finish(self.far)

    def _ended(self, flow: Flow, how: How) -> None:
        if self._open <= 0:
            return
        self.rise()
        source, sink = flow.source, flow.sink
        if flow is not source.outgoing:
            return  # told twice
        flow.stop()
        self._open -= 1
        if how == How.SOURCE_LOST:
            self._finish(source)
            return
        if how == How.SINK_LOST:
            self._lost = sink
        elif self._lost is None and (self._open or sink.shared):
            sink.half_close()
        if self._open:
            source.want(source.mask & ~READ)
        else:
            self._finish(self._lost)

    def _finish(self, lost: Side | None) -> None:
        """`lost`: the side that broke; None: both came to a clean end."""
        self._open = 0
        self.rise()
        self.inward.stop()
        self.outward.stop()
        for side in (self.near, self.far):
            if not side.open:
                continue
            if lost is None:
                side.close()
            elif side is lost:
                shut(side)
            else:
                reset_when_taken(side)
        self._on_end()


def shut(side: Side) -> None:
    """Close a side that broke. A duplicate of its socket may be kept elsewhere, so the connection is ended first."""
    release(side)
    if unacknowledged(side.sock):
        reset(side.sock)
        return
    try:
        side.sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is gone as it is
    side.sock.close()
