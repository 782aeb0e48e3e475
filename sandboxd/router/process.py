"""A worker as the router's master sees it: a process that ends, and a connection for orders; and orders that some have to do.

Imports control, handover, loop and routing.
"""

import os
import signal
import socket
from functools import partial
from typing import TYPE_CHECKING

from sandboxd.router.control import Wire
from sandboxd.router.handover import Heir
from sandboxd.router.loop import READ
from sandboxd.routing import orders

if TYPE_CHECKING:
    from sandboxd.router.master import Master


class Worker:
    """One worker, seen from here."""

    def __init__(self, master: "Master", number: int, pid: int, sock: socket.socket, speaks: int = orders.VERSION) -> None:
        self.number = number
        self.speaks = speaks
        self.pid = pid
        self.born = master.loop.now
        self.missed = 0
        self._master = master
        sock.setblocking(False)
        self._pidfd = os.pidfd_open(pid)
        self.wire = Wire(master.loop, sock, partial(master.told, self), self.kill)
        master.loop.watch(self._pidfd, self, READ)

    def heir(self) -> Heir:
        """What another program has to know of it."""
        return Heir(number=self.number, pid=self.pid, fd=self.wire.fd, begun=self.wire.begun, speaks=self.speaks)

    def on_event(self, mask: int) -> None:
        """It ended."""
        self._master.loop.forget(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        self.wire.close()
        _, status = os.waitpid(self.pid, 0)
        self._master.worker_ended(self, os.waitstatus_to_exitcode(status))

    def kill(self) -> None:
        """End it now; a worker without orders is none."""
        if self._pidfd >= 0:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def abort(self, *, stalled: bool = False) -> None:
        """From the loop, after a failure of ours."""
        self.kill()


class Pending:
    """An order of the daemon's, and who has not done it yet."""

    def __init__(self, order: int, done: orders.Done, workers: set[int]) -> None:
        self.order = order
        self.done = done
        self.workers = workers
