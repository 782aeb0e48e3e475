"""The hot relay: `Side` is a socket with what waits to be sent on it, `Flow` moves one direction between two of them.

Small messages go by recv_into and send through one shared buffer; a flow that fills it changes to splice through a lent pipe
and back when there is little again. Back-pressure: a source is read only while its sink has taken everything before. So a
flow holds at most one buffer or one pipe of bytes, its end is reached with nothing in between, and the kernel's windows slow
the sender down.

What does not work: MSG_PEEK on what cannot be used yet (the descriptor stays readable: a busy loop); reading on while
nothing can be sent (memory); ignoring EPOLLHUP and EPOLLERR while not reading (always reported: a busy loop, see `park`).
Sockets that were born in an env may be held by it, too: MSG_DONTWAIT on each call, shutdown(2) before close(2).
"""

import _socket
import enum
import os
import socket
from collections.abc import Callable

from sandboxd.kernel.splice import SPLICE_F_MOVE, SPLICE_F_NONBLOCK
from sandboxd.router.loop import LOST, READ, WRITE, Loop
from sandboxd.router.pipes import Pipe, Pipes
from sandboxd.routing.chunked import Chunked
from sandboxd.routing.framing import FramingError

BUFFER = 1 << 16
SPLICE = 1 << 20
SMALL = 1 << 14  # less than this in one splice: recv and send are cheaper (measured)
ENDLESS = 1 << 62
DONTWAIT = socket.MSG_DONTWAIT
LAST = socket.MSG_DONTWAIT | socket.MSG_MORE
FLAGS = SPLICE_F_MOVE | SPLICE_F_NONBLOCK

shared = bytearray(BUFFER)  # one loop, one buffer: nothing is kept in it from one event to the next
view = memoryview(shared)


class How(enum.Enum):
    """How a flow ended. DONE: the body is over and handed to the kernel. EOF: the source ended. BROKEN: see `Flow.error`."""

    DONE = 1
    EOF = 2
    SOURCE_LOST = 3
    SINK_LOST = 4
    BROKEN = 5


class Side:
    """One socket of a pair. `backlog`: bytes that the kernel did not take yet; while there are any, nothing more is put."""

    __slots__ = ("backlog", "fd", "feeder", "loop", "mask", "open", "outgoing", "parked", "sock")
    shared = True  # somebody else may have a duplicate of its socket, so that close(2) alone ends nothing

    def __init__(self, loop: Loop, sock: _socket.socket, mask: int = READ) -> None:
        """`mask` 0: not in the loop until something is wanted."""
        self.loop = loop
        self.sock = sock
        self.fd = sock.fileno()
        self.mask = mask
        self.backlog = b""
        self.feeder: Flow | None = None  # whose sink this is
        self.outgoing: Flow | None = None  # whose source this is
        self.parked = not mask
        self.open = True
        if mask:
            loop.watch(self.fd, self, mask)

    # -- what the roles fill in ------------------------------------------------------------------------------------------

    def readable(self) -> None:
        """There may be something to read."""
        if self.outgoing is not None:
            self.outgoing.move()
        else:
            self.want(self.mask & ~READ)

    def drained(self) -> None:
        """The backlog is out."""
        if self.feeder is not None:
            self.feeder.resume()

    def broken(self) -> None:
        """Nothing can be sent any more."""

    def lost(self) -> None:
        """EPOLLHUP or EPOLLERR while nobody reads."""
        self.park()

    def closed(self) -> None:
        """Its socket was still open when it was let go of, and is now closed."""

    def abort(self, *, stalled: bool = False) -> None:
        """Give up at once."""
        self.close()

    # -- the loop --------------------------------------------------------------------------------------------------------

    def on_event(self, mask: int) -> None:
        """From the loop: a hint."""
        if mask & (WRITE | LOST) and self.mask & WRITE:
            self.flush()
            if not self.open:
                return
        if mask & ~WRITE:
            if self.mask & READ:
                self.readable()
            elif mask & LOST and not self.mask:
                self.lost()

    def want(self, mask: int) -> None:
        """Be told of other things from now on."""
        if mask == self.mask:
            return
        self.mask = mask
        if self.parked:
            if mask:
                self.parked = False
                self.loop.watch(self.fd, self, mask)
        else:
            self.loop.change(self.fd, mask)

    def park(self) -> None:
        """Out of the loop until something is wanted again."""
        if not self.parked:
            self.parked = True
            self.loop.forget(self.fd)

    def put(self, data: bytes | memoryview) -> bool:
        """Send; what the kernel does not take waits. True: all went. Raises OSError when the peer is gone."""
        if self.backlog:
            self.backlog += data
            return False
        try:
            sent = self.sock.send(data, DONTWAIT)
        except BlockingIOError:
            sent = 0
        if sent == len(data):
            return True
        self.backlog = bytes(data[sent:])
        self.want(self.mask | WRITE)
        return False

    def put_last(self, data: bytes | memoryview) -> bool:
        """The same for what is followed at once by close(2) or shutdown(2): data and FIN then go as one segment.

        tcp(7): MSG_MORE holds a partial segment back, and closing pushes it; it spares both sides a packet and a wake-up.
        """
        if self.backlog:
            self.backlog += data
            return False
        try:
            sent = self.sock.send(data, LAST)
        except BlockingIOError:
            sent = 0
        if sent == len(data):
            return True
        self.backlog = bytes(data[sent:])
        self.want(self.mask | WRITE)
        return False

    def flush(self) -> None:
        """The kernel takes more."""
        flow = self.feeder
        try:
            if flow is not None and flow.piped:
                flow.drain()
                if flow.piped:
                    return
            elif self.backlog:
                sent = self.sock.send(self.backlog, DONTWAIT)
                self.backlog = self.backlog[sent:]
                if self.backlog:
                    return
        except BlockingIOError:
            return
        except OSError:
            self.backlog = b""
            self.broken()
            return
        self.want(self.mask & ~WRITE)
        self.drained()

    def send_at_once(self) -> None:
        """Several sends are to come: no waiting for acknowledgements in between (tcp(7), TCP_NODELAY)."""

    def half_close(self) -> None:
        """No more from us; a peer that is gone needs no telling."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def close(self) -> None:
        """Out of the loop, then closed, once."""
        if self.open:
            self.open = False
            if not self.parked:
                if self.shared:
                    self.loop.forget(self.fd)
                else:
                    self.loop.drop(self.fd)
            self.sock.close()


class Flow:
    """One direction of a body or tunnel. `left`: bytes still to move. `extra`: what was read behind the end of the body."""

    __slots__ = (
        *("source", "sink", "left", "moved", "on_end", "bulk", "pipe", "piped", "pipes"),
        *("chunked", "carry", "extra", "error", "nonblocking"),
    )

    def __init__(self, source: Side, sink: Side, left: int, pipes: Pipes, on_end: "Callable[[Flow, How], None]") -> None:
        """Reading begins at once, or when the sink has taken what waits there."""
        self.source = source
        self.sink = sink
        self.left = left
        self.pipes = pipes
        self.on_end = on_end
        self.chunked: Chunked | None = None
        self.carry = b""
        self.extra = b""
        self.bulk = False
        self.nonblocking = False
        self.pipe: Pipe | None = None
        self.piped = 0
        self.moved = 0
        self.error: FramingError | None = None
        sink.feeder = self
        sink.send_at_once()
        source.outgoing = self
        source.want(source.mask & ~READ if sink.backlog else source.mask | READ)

    def move(self) -> None:
        """The source may have something."""
        if not self.bulk or not self._splice():
            self._copy()

    def resume(self) -> None:
        """The sink has taken everything: read on, or report the end."""
        if self.left:
            self.source.want(self.source.mask | READ)
        else:
            self.on_end(self, How.DONE)

    def stop(self) -> None:
        """Let go of the pipe and of both sides; nothing is reported."""
        if self.pipe is not None:
            self.pipes.discard(self.pipe)
            self.pipe = None
            self.piped = 0
        if self.sink.feeder is self:
            self.sink.feeder = None
        if self.source.outgoing is self:
            self.source.outgoing = None

    def drain(self) -> None:
        """Move on what stands in the pipe; raises BlockingIOError or OSError of the sink."""
        pipe = self.pipe
        if pipe is None:
            return
        self.piped -= os.splice(pipe.read, self.sink.fd, self.piped, flags=FLAGS)
        if not self.piped:
            self.pipe = None
            self.pipes.give(pipe)

    def _copy(self) -> None:
        held = len(self.carry)
        size = min(self.left, BUFFER - held)
        try:
            if held:
                view[:held] = self.carry
                count = self.source.sock.recv_into(view[held:], size, DONTWAIT)
            else:
                count = self.source.sock.recv_into(shared, size, DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            self.on_end(self, How.SOURCE_LOST)
            return
        if not count:
            self.on_end(self, How.EOF)
            return
        self.moved += count
        if self.chunked is not None:
            count = self._scan(self.chunked, held + count)
            if count < 0:
                return
        else:
            self.left -= count
            self.bulk = count == BUFFER
        self._put(count)

    def _scan(self, chunked: Chunked, end: int) -> int:
        """How much of shared[:end] may go on; -1 when the body turned out to be broken."""
        try:
            good = chunked.scan(shared, 0, end)
        except FramingError as error:
            self.error = error
            self.on_end(self, How.BROKEN)
            return -1
        self.carry = bytes(view[good:end])
        if chunked.done:
            self.left = 0
            self.extra, self.carry = self.carry, b""
        else:
            self.bulk = chunked.left >= BUFFER
        return good

    def _put(self, count: int) -> None:
        try:
            gone = not count or self.sink.put(view[:count])
        except OSError:
            self.on_end(self, How.SINK_LOST)
            return
        if not gone:
            self.source.want(self.source.mask & ~READ)
        elif not self.left:
            self.on_end(self, How.DONE)

    def _splice(self) -> bool:
        """Move much at once; False: there is no pipe, or nothing that may go unseen."""
        if not self.nonblocking:
            # SPLICE_F_NONBLOCK alone does not keep splice(2) from waiting on a socket.
            self.nonblocking = True
            self.source.sock.setblocking(False)
            self.sink.sock.setblocking(False)
        limit = self.left if self.chunked is None else self.chunked.left
        pipe = self.pipes.take() if limit else None
        if pipe is None:
            return False
        try:
            count = os.splice(self.source.fd, pipe.write, min(limit, SPLICE), flags=FLAGS)
        except BlockingIOError:
            self.pipes.give(pipe)
            return True
        except OSError:
            self.pipes.give(pipe)
            self.on_end(self, How.SOURCE_LOST)
            return True
        if not count:
            self.pipes.give(pipe)
            self.on_end(self, How.EOF)
            return True
        self.moved += count
        if self.chunked is None:
            self.left -= count
        else:
            self.chunked.take(count)
        self.bulk = count >= SMALL
        self.pipe = pipe
        self.piped = count
        self._pour()
        return True

    def _pour(self) -> None:
        """Out of the pipe as far as the sink takes it."""
        try:
            self.drain()
        except BlockingIOError:
            pass
        except OSError:
            self.on_end(self, How.SINK_LOST)
            return
        if self.piped:
            self.sink.want(self.sink.mask | WRITE)
            self.source.want(self.source.mask & ~READ)
        elif not self.left:
            self.on_end(self, How.DONE)
