"""The router's end of router.sock: takes the daemon's orders, reports what changed. One daemon at a time, the newest.

Only processes of our own uid, or root, are listened to (SO_PEERCRED). Output is bounded: a daemon that does not read loses
its connection, and connects again. Imports routing.orders.
"""

import logging
import os
import socket
import struct
from typing import TYPE_CHECKING

from sandboxd.router.loop import READ, WRITE
from sandboxd.routing import orders

if TYPE_CHECKING:
    from sandboxd.router.worker import Router

MOST_UNSENT = 16 << 20

log = logging.getLogger("sandboxd.router")


class Control:
    """The listening socket, and the one session that is obeyed."""

    def __init__(self, router: "Router", sock: socket.socket) -> None:
        self._router = router
        self._sock = sock
        self.session: Session | None = None
        sock.setblocking(False)
        sock.listen(
            16
        )  # again, by us: SO_PEERCRED tells a client who called listen(2) last (unix(7)), and that is to be our pid
        router.loop.watch(sock.fileno(), self, READ)

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
        self.session = Session(self._router, self, sock)
        self.session.send(self._router.hello())

    def send(self, report: orders.Report) -> None:
        """To the daemon, if there is one."""
        if self.session is not None:
            self.session.send(report)

    def abort(self, *, stalled: bool = False) -> None:
        """From the loop, after a failure of ours."""

    def close(self) -> None:
        """Listen no more."""
        if self.session is not None:
            self.session.close()
        self._router.loop.forget(self._sock.fileno())
        self._sock.close()


class Session:
    """One daemon's connection."""

    def __init__(self, router: "Router", control: Control, sock: socket.socket) -> None:
        self._router = router
        self._control = control
        self._sock = sock
        self._frames = orders.Frames()
        self._unsent = bytearray()
        router.loop.watch(sock.fileno(), self, READ)

    def on_event(self, mask: int) -> None:
        """Orders, or room for reports."""
        if mask & WRITE:
            self._flush()
        try:
            data = self._sock.recv(1 << 18, socket.MSG_DONTWAIT)
            if not data:
                self.close()
                return
            frames = self._frames.feed(data)
        except BlockingIOError:
            return
        except (OSError, orders.FrameError) as error:
            log.warning("the connection to the daemon ended: %s", error)
            self.close()
            return
        for frame in frames:
            order = orders.decode(orders.order_decoder, frame)
            if order is None:
                log.warning("an order was not understood: %d bytes", len(frame))
            else:
                self._router.obey(order)

    def send(self, report: orders.Report) -> None:
        """Queue and send."""
        self._unsent += orders.encode(report)
        if len(self._unsent) > MOST_UNSENT:
            log.warning("the daemon does not read: its connection is closed")
            self.close()
        else:
            self._flush()

    def abort(self, *, stalled: bool = False) -> None:
        """From the loop, after a failure of ours."""
        self.close()

    def close(self) -> None:
        """Once."""
        if self._sock.fileno() >= 0:
            self._router.loop.forget(self._sock.fileno())
            self._sock.close()
        if self._control.session is self:
            self._control.session = None

    def _flush(self) -> None:
        if self._sock.fileno() < 0:
            return
        try:
            sent = self._sock.send(self._unsent, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            del self._unsent[:sent]
        except BlockingIOError:
            pass  # the loop tells when there is room
        except OSError:
            self.close()
            return
        self._router.loop.change(self._sock.fileno(), READ | WRITE if self._unsent else READ)
