"""What listens inside an env: the answer behind readiness and behind the port found out by itself.

Touches the world through one diag socket that the env's init made in its namespace and handed out once: no connecting. The
socket came from init, so it is checked before it is believed. To answer, the kernel walks one table of all that listen in any
namespace (inet_diag_dump_icsk): 0.04 ms beside one env, 0.08 beside a thousand. How many TCP sockets a namespace has it counts
(/proc/PID/net/sockstat), which is read in 0.003 ms, and while that stays the same nothing has begun to listen.
"""

import errno
import os
import re
import socket
from typing import NamedTuple

from sandboxd.errors import KernelError
from sandboxd.kernel import sockdiag
from sandboxd.kernel.nftables import RELAY, RELAY6

COUNTS = ("sockstat", "sockstat6")  # without IPv6 the second is not there, and nothing is told
IN_USE = re.compile(rb"TCP6?: inuse (\d+)")


class Listener(NamedTuple):
    """One listening TCP socket. address: numeric; uid: as the env sees it."""

    port: int
    family: int
    address: str
    uid: int
    inode: int


class Listening:
    """The listeners of one network namespace. Owns `diag`."""

    def __init__(self, diag: socket.socket, *, cookie: int | None = None, pid: int = 0) -> None:
        """cookie: the namespace it must be of (Launched.netns_cookie); raises KernelError for any other socket. pid: of a
        process in that namespace, if one is known."""
        if not sockdiag.is_diag(diag):
            raise KernelError(errno.EPROTOTYPE, "getsockopt", "the diag socket of init")
        if cookie and sockdiag.netns_cookie(diag) != cookie:
            raise KernelError(errno.EXDEV, "getsockopt", "the diag socket of init")
        self._diag = diag
        self._pid = pid
        self._counts: list[int] = []

    def ports(self) -> list[Listener]:
        """Who listens now but the way out, by port; never waits; raises KernelError."""
        rows = sockdiag.dump_listeners(self._diag)
        return sorted(
            (Listener(*row) for row in rows if row.address not in (RELAY, RELAY6)),
            key=lambda row: (row.port, row.family, row.address),
        )

    def count(self) -> tuple[int, ...] | None:
        """How many TCP sockets there are, of each family; None where that is not told. As long as it is the same nobody has
        begun to listen, unless another socket went between two looks."""
        try:
            while self._pid and len(self._counts) < len(COUNTS):
                path = f"/proc/{self._pid}/net/{COUNTS[len(self._counts)]}"
                self._counts.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            found = [IN_USE.search(os.pread(fd, 512, 0)) for fd in self._counts]
        except OSError:
            self._pid = 0
            found = []
        return tuple(int(one[1]) for one in found if one is not None) or None

    def count_no_more(self) -> None:
        """Close what it is counted by; it is opened anew when it is asked for."""
        while self._counts:
            os.close(self._counts.pop())

    def close(self) -> None:
        """Let the namespace go: a diag socket pins it, and so does what it is counted by."""
        self.count_no_more()
        self._diag.close()
