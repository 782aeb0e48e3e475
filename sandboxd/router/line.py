"""The daemon's end of router.sock: frames out in turn, tables among them; reports in.

For `handle` only. Asyncio by add_reader and add_writer. What waits to be sent is bounded by this: of tables that stand in a row
the newest is enough. Invariant: once closed it calls nobody back.
"""

import asyncio
import socket
from collections import deque
from collections.abc import Callable

from sandboxd.routing import orders


class Line:
    """take: gets each report. died: called when the connection ends by itself."""

    def __init__(self, sock: socket.socket, take: Callable[[orders.Report], object], died: Callable[[], object]) -> None:
        self.open = True
        self._sock = sock
        self._take = take
        self._died = died
        self._loop = asyncio.get_running_loop()
        self._frames = orders.Frames()
        self._unsent: deque[tuple[bytes, bool]] = deque()
        self._offset = 0
        self._out = asyncio.Event()  # set while nothing waits to be sent
        self._out.set()
        self._loop.add_reader(sock.fileno(), self._readable)

    @property
    def holds_table(self) -> bool:
        """Whether a table, or a change of one, is not out yet: then another should go as a whole."""
        return any(is_table for _, is_table in self._unsent)

    def send(self, frame: bytes) -> None:
        """In its turn."""
        self._add(frame, is_table=False)

    def send_table(self, frame: bytes) -> None:
        """A whole one: those that are the last to wait need not go any more."""
        while len(self._unsent) > 1 and self._unsent[-1][1]:
            self._unsent.pop()
        self._add(frame, is_table=True)

    def send_change(self, frame: bytes) -> None:
        """A change of the table that was sent last."""
        self._add(frame, is_table=True)

    async def flushed(self, bound: float) -> bool:
        """Wait until all that was to be sent is where the router finds it, or the line has ended; False: not in that time."""
        try:
            async with asyncio.timeout(bound):
                return await self._out.wait()
        except TimeoutError:
            return False

    def close(self) -> None:
        """Let go of the socket."""
        if self.open:
            self.open = False
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()
            self._unsent.clear()
            self._out.set()

    def _add(self, frame: bytes, *, is_table: bool) -> None:
        if self.open:
            self._unsent.append((frame, is_table))
            self._writable()

    def _writable(self) -> None:
        while self._unsent:
            frame, _ = self._unsent[0]
            try:
                self._offset += self._sock.send(memoryview(frame)[self._offset :], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except BlockingIOError:
                self._out.clear()
                self._loop.add_writer(self._sock.fileno(), self._writable)
                return
            except OSError:
                self._died()
                return
            if self._offset == len(frame):
                self._unsent.popleft()
                self._offset = 0
        self._loop.remove_writer(self._sock.fileno())
        self._out.set()

    def _readable(self) -> None:
        # Read to EAGAIN: libuv disarms a handle on EPOLLERR without a word, and this may be the last call.
        while self.open:
            try:
                data = self._sock.recv(1 << 18, socket.MSG_DONTWAIT)
                frames = self._frames.feed(data)
            except BlockingIOError:
                return
            except (OSError, orders.FrameError):
                data, frames = b"", []
            for frame in frames:
                report = orders.decode(orders.report_decoder, frame)
                if report is not None:
                    self._take(report)
            if not data:
                self._died()
