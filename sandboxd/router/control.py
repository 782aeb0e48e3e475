"""Frames over Unix sockets: router.sock, where one daemon at a time is obeyed, and the pairs between master and workers.

At router.sock only processes of our own uid, or root, are listened to (SO_PEERCRED), the newest of them. Descriptors go along
with a frame in the order of frames, so whoever takes frames in turn finds those of each. Output is bounded: a peer that does
not read loses its connection. Imports routing.orders and kernel.fds.
"""

import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Protocol

from sandboxd.errors import ProtocolViolation
from sandboxd.kernel import fds
from sandboxd.router.loop import READ, WRITE, Loop
from sandboxd.routing import orders

MOST_UNSENT = 64 << 20  # a few of the largest tables

log = logging.getLogger("sandboxd.router")


class Wire:
    """One connection. take: gets each frame. ended: called once. received: descriptors that came and were not yet taken."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        take: Callable[[bytes], None],
        ended: Callable[[], None],
        *,
        most_fds: int = 0,
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._take = take
        self._ended = ended
        self._most_fds = most_fds
        self._frames = orders.Frames()
        self._unsent: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        self._size = 0
        self.received: deque[int] = deque()
        self.open = True
        loop.watch(sock.fileno(), self, READ)

    def on_event(self, mask: int) -> None:
        """Frames, or room for ours."""
        if mask & WRITE:
            self._flush()
        if self.open:
            self._read()

    def catch_up(self) -> None:
        """Take all that has already come."""
        while self.open and self._read():
            pass

    def _read(self) -> bool:
        """Take what is here, up to a bound; whether there was anything."""
        try:
            data, received = fds.recv(self._sock, 1 << 18, max_fds=self._most_fds, flags=socket.MSG_DONTWAIT)
            if not data:
                self.close()
                return False
            self.received += received
            frames = self._frames.feed(data)
        except BlockingIOError:
            return False
        except (OSError, ProtocolViolation, orders.FrameError) as error:
            log.warning("a connection for orders ended: %s", error)
            self.close()
            return False
        for frame in frames:
            self._take(frame)
        return True

    def send(self, frame: bytes, passed: tuple[int, ...] = ()) -> None:
        """Queue and send. The descriptors stay the caller's: copies of them wait."""
        if not self.open:
            return
        self._unsent.append((memoryview(frame), tuple(os.dup(fd) for fd in passed)))
        self._size += len(frame)
        if self._size > MOST_UNSENT:
            log.warning("a peer does not read what it is told: its connection is closed")
            self.close()
        else:
            self._flush()

    @property
    def fd(self) -> int:
        """Of the connection, for another program to go on with."""
        return self._sock.fileno()

    @property
    def begun(self) -> bytes:
        """The part of a frame that has come."""
        return bytes(self._frames.begun)

    @begun.setter
    def begun(self, data: bytes) -> None:
        self._frames = orders.Frames(data)

    @property
    def is_flushed(self) -> bool:
        """Whether all that was to be sent is out."""
        return not self._unsent

    def abort(self, *, stalled: bool = False) -> None:
        """From the loop, after a failure of ours."""
        self.close()

    def close(self) -> None:
        """Once."""
        if not self.open:
            return
        self.open = False
        self._loop.forget(self._sock.fileno())
        self._sock.close()
        fds.close_all(list(self.received))
        for _, passed in self._unsent:
            fds.close_all(list(passed))
        self._unsent.clear()
        self._ended()

    def _flush(self) -> None:
        while self._unsent:
            data, passed = self._unsent[0]
            try:
                sent = fds.send(self._sock, data, passed, flags=socket.MSG_DONTWAIT)
            except BlockingIOError:
                break  # the loop tells when there is room
            except OSError:
                self.close()
                return
            self._size -= sent
            fds.close_all(list(passed))  # they went with the first byte
            if sent == len(data):
                self._unsent.popleft()
            else:
                self._unsent[0] = (data[sent:], ())
        self._loop.change(self._sock.fileno(), READ | WRITE if self._unsent else READ)


class Owner(Protocol):
    """Whom the daemon at router.sock speaks to."""

    loop: Loop

    def hello(self) -> orders.Hello:
        """The first frame."""

    def take(self, frame: bytes) -> None:
        """An order."""


class Control:
    """The listening socket, and the one session that is obeyed."""

    def __init__(self, owner: Owner, sock: socket.socket) -> None:
        self._owner = owner
        self._sock = self.listening = sock
        self.session: Wire | None = None
        sock.setblocking(False)
        # Again, by us: SO_PEERCRED tells a client who called listen(2) last (unix(7)), and that is to be our pid.
        sock.listen(16)
        owner.loop.watch(sock.fileno(), self, READ)

    def on_event(self, mask: int) -> None:
        """A daemon comes."""
        try:
            sock, _ = self._sock.accept()
        except OSError:
            return
        uid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
        if uid not in (os.geteuid(), 0):
            sock.close()
            return
        if self.session is not None:
            self.session.close()
        sock.setblocking(False)
        self.session = Wire(self._owner.loop, sock, self._owner.take, self._session_ended)
        self.send(self._owner.hello())

    def send(self, report: orders.Report) -> None:
        """To the daemon, if there is one."""
        if self.session is not None:
            self.session.send(orders.encode(report))

    def abort(self, *, stalled: bool = False) -> None:
        """From the loop, after a failure of ours."""

    def close(self) -> None:
        """Listen no more."""
        if self.session is not None:
            self.session.close()
        self._owner.loop.forget(self._sock.fileno())
        self._sock.close()

    def _session_ended(self) -> None:
        self.session = None
