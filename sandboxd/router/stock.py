"""Ready sockets of an env's network namespace: asked of init over dial.sock, checked, kept for the dials to come.

The init of a hostile env may hand over anything, so each descriptor is checked (domain, type, protocol, unconnected, born in
the namespace whose cookie was read before any service ran) and no more are taken than were asked for; a stock that cheats is
closed and every later dial fails until it is asked anew. Nothing here waits: requests and answers are events. Protocol (init
answers in order): 2 bytes, family (4 or 6) and count; reply 2 bytes, count and errno, with the descriptors. Invariant: each
socket that is ready is unconnected.
"""

import _socket
import errno
import os
import socket
from collections import deque
from typing import Protocol

from sandboxd.errors import ProtocolViolation
from sandboxd.kernel import fds
from sandboxd.kernel.splice import is_fresh_tcp, renew, stay_local, tame
from sandboxd.router.loop import READ, Loop

MOST_ASKED = 16
MOST_RENEWED = 64
MOST_UNANSWERED = 64
MOST_WAITING = 4096
FEW = 2
FAMILIES: dict[int, int] = {socket.AF_INET: 4, socket.AF_INET6: 6}


class Waiting(Protocol):
    """Who asked for a socket."""

    def supplied(self, sock: _socket.socket) -> None:
        """Here it is, checked."""

    def unsupplied(self, reason: str) -> None:
        """There will be none."""


class Stock:
    """Ready sockets of one namespace. `path` "": the host's own, where sockets are made on the spot."""

    def __init__(self, loop: Loop, path: str, cookie: int) -> None:
        self._loop = loop
        self._path = path
        self._cookie = cookie
        self._sock: _socket.socket | None = None
        self._asked: deque[tuple[int, int]] = deque()
        self._ready: dict[int, list[_socket.socket]] = {family: [] for family in FAMILIES}
        self._coming = dict.fromkeys(FAMILIES, 0)
        self._waiting: dict[int, deque[Waiting]] = {family: deque() for family in FAMILIES}
        self._level = dict.fromkeys(FAMILIES, FEW)
        self.over = False

    def take(self, family: int) -> _socket.socket | None:
        """A socket at once, or None: then `wait` for one. Raises OSError where the host gives none."""
        if not self._path:
            sock = _socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stay_local(sock)
            return sock
        ready = self._ready[family]
        if not ready:
            return None
        sock = ready.pop()
        if len(ready) + self._coming[family] <= self._level[family] // 2:
            self._ask(family)
        return sock

    def wait(self, family: int, who: Waiting) -> None:
        """Tell `who` once there is one; in turn."""
        waiting = self._waiting[family]
        if len(waiting) >= MOST_WAITING:
            who.unsupplied("too many connections to it are being made at once")
            return
        waiting.append(who)
        self._level[family] = min(MOST_ASKED, self._level[family] * 2)
        if len(waiting) > self._coming[family]:
            self._ask(family)

    def take_back(self, sock: _socket.socket) -> bool:
        """Whether a socket whose connection is over serves another one: spares init a new one, and us all its checks.

        What was found when it came still holds, and who kept a duplicate can do no more to it than before it was taken.
        """
        family = sock.family
        ready = self._ready[family]
        if self.over or not self._path or self._waiting[family] or len(ready) >= MOST_RENEWED or not renew(sock):
            return False
        ready.append(sock)
        return True

    def forget(self, family: int, who: Waiting) -> None:
        """It no longer waits."""
        if who in self._waiting[family]:
            self._waiting[family].remove(who)

    def shrink(self) -> None:
        """Called now and then: keep fewer ready than in the rush before, down to a few."""
        for family, ready in self._ready.items():
            self._level[family] = max(FEW, self._level[family] // 2)
            while len(ready) > self._level[family]:
                ready.pop().close()

    def end(self) -> None:
        """Close it for good."""
        self.over = True
        self.close("the environment is going away")

    def close(self, reason: str) -> None:
        """Close every socket that nobody has taken; whoever waits is told. The next `wait` begins anew."""
        if self._sock is not None:
            self._loop.forget(self._sock.fileno())
            self._sock.close()
            self._sock = None
        self._asked.clear()
        for family, ready in self._ready.items():
            self._coming[family] = 0
            while ready:
                ready.pop().close()
        for waiting in self._waiting.values():
            for _ in range(len(waiting)):
                if waiting:  # telling one may make another leave
                    waiting.popleft().unsupplied(reason)

    def abort(self, *, stalled: bool = False) -> None:
        """From the loop, after a failure of ours."""
        self.close("asking for a socket inside failed")

    def on_event(self, mask: int) -> None:
        """Replies of init."""
        while self._sock is not None:
            try:
                data, received = fds.recv(self._sock, 16, max_fds=2 * MOST_ASKED, flags=socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except (OSError, ProtocolViolation) as error:
                self.close(f"its init cannot be talked to: {error}")
                return
            if len(data) != 2 or not self._asked:
                fds.close_all(received)
                self.close("its init is gone" if not data else "its init answered something else than was asked")
                return
            self._supply(data, received)
            for family in FAMILIES:
                if self._sock is not None and len(self._waiting[family]) > self._coming[family]:
                    self._ask(family)

    def _ask(self, family: int) -> None:
        if len(self._asked) >= MOST_UNANSWERED:
            return  # the next answer asks for more: what init has not read is bounded by its socket (unix(7), EAGAIN)
        count = min(MOST_ASKED, max(1, self._level[family] - len(self._ready[family]) - self._coming[family]))
        try:
            if self._sock is None:
                self._sock = connect(self._path)
                self._loop.watch(self._sock.fileno(), self, READ)
            self._sock.send(bytes((FAMILIES[family], count)), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except OSError as error:
            self.close(f"its init cannot be reached: {os.strerror(error.errno or 0)}")
            return
        self._asked.append((family, count))
        self._coming[family] += count

    def _supply(self, data: bytes, received: list[int]) -> None:
        family, count = self._asked.popleft()
        self._coming[family] -= count
        if len(received) > count or data[0] != len(received):
            fds.close_all(received)
            self.close("its init handed over something else than was asked for")
            return
        if data[1] or not received:
            # One family may be missing inside (EAFNOSUPPORT without IPv6): only who waits for that one is told.
            for who in self._take_waiting(family, None):
                who.unsupplied(f"its init made no socket: {os.strerror(data[1] or errno.EPROTO)}")
            return
        checked = self._check(received, family)
        if checked is None:
            self.close("its init handed over a socket that is not of its network namespace, or not fresh")
            return
        for who in self._take_waiting(family, len(checked)):
            who.supplied(checked.pop())
        self._ready[family] += checked

    def _check(self, received: list[int], family: int) -> list[_socket.socket] | None:
        """The sockets, tamed, if each is what was asked for; else None, and all are closed."""
        socks: list[_socket.socket] = []
        try:
            while received:
                # Even making the object fails for what is no socket; until then the number is ours to close.
                socks.append(_socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=received[-1]))
                received.pop()
                if not is_fresh_tcp(socks[-1], family, self._cookie):
                    raise OSError(errno.EINVAL, "not fresh")
                tame(socks[-1])
        except OSError:
            fds.close_all(received)
            for sock in socks:
                sock.close()
            return None
        return socks

    def _take_waiting(self, family: int, count: int | None) -> list[Waiting]:
        waiting = self._waiting[family]
        return [waiting.popleft() for _ in range(len(waiting) if count is None else min(count, len(waiting)))]


def connect(path: str) -> _socket.socket:
    """A connection to a dial.sock, by way of its directory: sun_path holds 108 bytes only. Raises OSError."""
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock = _socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            sock.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
        except OSError:
            sock.close()
            raise
        return sock
    finally:
        os.close(directory)
