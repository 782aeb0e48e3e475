"""Frames with descriptors over a non-blocking Unix stream socket, for an event loop: the daemon's end of launcher and child.

Asyncio by add_reader and add_writer only. A frame is 4 bytes of length (little endian) and JSON; descriptors ride on its first
bytes, 253 to a message at most. What comes in is capped before it is parsed, what goes out waits in order, and descriptors that
nobody takes are closed.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Sequence
from typing import Any

from sandboxd.errors import ProtocolViolation
from sandboxd.kernel import fds

IN_LIMIT, OUT_LIMIT = 1 << 20, 4 << 20
CHUNK = 1 << 16

Message = dict[str, Any]


def framed(body: bytes) -> bytes:
    """A body as a frame; raises ProtocolViolation over the cap."""
    if len(body) > OUT_LIMIT:
        raise ProtocolViolation(f"a frame of {len(body)} bytes is over the cap of {OUT_LIMIT}")
    return len(body).to_bytes(4, "little") + body


class Line:
    """One connection. on_frame gets each message and takes its descriptors from `received`; on_end comes once."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        on_frame: Callable[[Message], None],
        on_end: Callable[[], None],
    ) -> None:
        self.loop = loop
        self.sock = sock
        self.on_frame = on_frame
        self.on_end = on_end
        self.received: list[int] = []
        self.incoming = bytearray()
        self.outgoing: list[tuple[bytes, list[int]]] = []
        self.is_open = True
        sock.setblocking(False)
        loop.add_reader(sock.fileno(), self.readable)

    def send(self, body: bytes, given: Sequence[int] = ()) -> None:
        """Send a frame or queue it; the descriptors stay the caller's. Raises ProtocolViolation over the cap."""
        self.put(framed(body), given)

    def put(self, data: bytes, given: Sequence[int] = ()) -> None:
        """The same of whole frames; the descriptors are of the first."""
        if not self.is_open:
            return
        loads = [list(given[at : at + fds.SCM_MAX_FD]) for at in range(0, len(given), fds.SCM_MAX_FD)] or [[]]
        pieces = [data[at : at + 1] for at in range(len(loads) - 1)] + [data[len(loads) - 1 :]]
        waiting = [*zip(pieces, loads, strict=True)]
        if not self.outgoing and not self.push(waiting, owned=False):
            return
        # A queued descriptor outlives the call, and the caller may close its own by then.
        self.outgoing += [(piece, fds.dup_all(load)) for piece, load in waiting]
        if self.outgoing:
            self.loop.add_writer(self.sock.fileno(), self.writable)

    def writable(self) -> None:
        """Send what is queued."""
        if self.push(self.outgoing, owned=True) and not self.outgoing:
            self.loop.remove_writer(self.sock.fileno())

    def push(self, waiting: list[tuple[bytes, list[int]]], *, owned: bool) -> bool:
        """Send what the kernel takes now, off the list; `owned` descriptors are closed then. False: the line has ended."""
        while waiting:
            data, load = waiting[0]
            try:
                sent = fds.send(self.sock, data, load)
            except BlockingIOError:
                return True
            except OSError:
                self.readable()  # its last words: why it left
                self.end()
                return False
            if owned:
                fds.close_all(load)
            waiting[0] = (data[sent:], [])
            if sent == len(data):
                del waiting[0]
        return True

    def readable(self) -> None:
        """Take what is there, up to EAGAIN: an event loop may report an error condition only once."""
        while self.is_open:
            try:
                data, came = fds.recv(self.sock, CHUNK)
            except (BlockingIOError, InterruptedError):
                return
            except fds.CutOff as error:  # the frame is whole: whoever takes it finds that its descriptors are not there
                data, came = error.data, []
            except (OSError, ProtocolViolation):
                data, came = b"", []
            self.received += came
            self.incoming += data
            if not data or not self.take_frames():
                self.end()

    def take_frames(self) -> bool:
        """Hand on each whole frame; False: the peer does not keep to the protocol."""
        while self.is_open and len(self.incoming) >= 4:
            length = int.from_bytes(self.incoming[:4], "little")
            if length > IN_LIMIT:
                return False
            if len(self.incoming) < 4 + length:
                break
            body = bytes(self.incoming[4 : 4 + length])
            del self.incoming[: 4 + length]
            try:
                message = json.loads(body)
            except (ValueError, RecursionError):
                return False
            if not isinstance(message, dict):
                return False
            self.on_frame(message)
        return True

    def end(self) -> None:
        """Close, and say so."""
        if self.is_open:
            self.close()
            self.on_end()

    def close(self) -> None:
        """Close, with all that was not taken or sent; on_end is not called."""
        if not self.is_open:
            return
        self.is_open = False
        self.loop.remove_reader(self.sock.fileno())
        self.loop.remove_writer(self.sock.fileno())
        fds.close_all(self.received)
        for _, load in self.outgoing:
            fds.close_all(load)
        self.received, self.outgoing = [], []
        with contextlib.suppress(OSError):
            self.sock.close()
