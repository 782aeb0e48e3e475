"""Sockets born in the env's network namespace, handed to whoever holds dial.sock: the router, from outside.

Runs inside pid 1. Request: 2 bytes, family (4 or 6) and count (1 to 16). Reply: 2 bytes, count given and errno (0), with that
many unconnected, non-blocking TCP sockets. Family 0: the sockets on which the env's way out is served, the count-th sixteen of
them; pid 1 keeps them, so that none is gone with who serves it. Nothing else can be asked for here, and descriptors that come
with a request are dropped by the kernel, since no room is given for them (recvmsg(2)). A peer that does not read its replies is
cut off.
"""

from __future__ import annotations

import _socket
import errno
import os
import stat

from sandboxd.kernel import fds
from sandboxd.kernel.nftables import DNS_PORT, RELAY, RELAY6, TCP_PORT
from sandboxd.launch.loop import READ, Loop, complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from sandboxd.launch.apply import Stage

FAMILIES = {4: _socket.AF_INET, 6: _socket.AF_INET6}
WAYS = 0
COUNT_LIMIT = 16
PEERS_LIMIT = 64
DONTWAIT = _socket.MSG_DONTWAIT
BATCH = 16  # requests of one peer served at a time
PAUSE = 1.0  # seconds without accepting after the descriptors ran out
KIND = _socket.SOCK_STREAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC
NETLINK_SOCK_DIAG = 4
WAYS_AT = ((_socket.AF_INET, 0, 15, RELAY, "127.0.0.1"), (_socket.AF_INET6, 41, 78, RELAY6, "::1"))  # IP_FREEBIND, IPV6_…
BACKLOG = 4096  # cut by net.core.somaxconn


class Listener:
    """Accepts connections on an inherited listening socket; never spins when descriptors run out."""

    __slots__ = ("limit", "loop", "open", "sock", "take")

    def __init__(self, loop: Loop, fd: int, limit: int, take: Callable[[_socket.socket], None]) -> None:
        self.loop = loop
        self.sock = _socket.socket(fileno=fd)
        self.sock.setblocking(False)
        self.limit = limit
        self.take = take
        self.open = 0
        self.listen()

    def listen(self) -> None:
        """Hear of connections."""
        self.loop.watch(self.sock.fileno(), READ, self.accept)

    def accept(self, _events: int) -> None:
        """Take those that wait; over the limit they are closed at once."""
        for _ in range(BATCH):
            try:
                fd, _ = self.sock._accept()  # type: ignore[attr-defined]
                peer = _socket.socket(fileno=fd)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self.loop.forget(self.sock.fileno())  # it stays readable, and would be reported over and over
                    self.loop.after(PAUSE, self.listen)
                    return
                continue
            if self.open >= self.limit:
                peer.close()
                continue
            peer.setblocking(False)
            self.open += 1
            try:
                self.take(peer)
            except Exception as error:  # an exception out of here would take the listener out of the loop, for good
                complain("taking a connection", error)


class Dialer:
    """Serves dial.sock. ways: sockets that are handed out as they are."""

    __slots__ = ("listener", "loop", "ways")

    def __init__(self, loop: Loop, fd: int, ways: list[_socket.socket]) -> None:
        self.loop = loop
        self.ways = ways
        self.listener = Listener(loop, fd, PEERS_LIMIT, self.join)
        self.listener.accept(0)  # a request may have waited for this since before there was a plan

    def join(self, peer: _socket.socket) -> None:
        """A new peer, whose first request mostly is here."""
        self.loop.watch(peer.fileno(), READ, lambda _events: self.serve(peer))
        self.serve(peer)

    def leave(self, peer: _socket.socket) -> None:
        """A peer went, or broke the rules."""
        self.loop.forget(peer.fileno())
        peer.close()
        self.listener.open -= 1

    def serve(self, peer: _socket.socket) -> None:
        """Answer what waits, a few at a time."""
        for _ in range(BATCH):
            try:
                asked = peer.recv(3, DONTWAIT)  # a byte more than a request, to see one that is too long
            except BlockingIOError:
                return
            except OSError:
                asked = b""
            if not self.give(peer, asked):
                self.leave(peer)
                return

    def give(self, peer: _socket.socket, asked: bytes) -> bool:
        """Answer one request; False when it was none, or the peer takes no answer."""
        if len(asked) == 2 and asked[0] == WAYS and asked[1]:
            return answer(peer, self.ways[COUNT_LIMIT * (asked[1] - 1) : COUNT_LIMIT * asked[1]], 0)
        if len(asked) != 2 or asked[0] not in FAMILIES or not 1 <= asked[1] <= COUNT_LIMIT:
            return False
        sockets, refused = born_here(FAMILIES[asked[0]], asked[1])
        try:
            return answer(peer, sockets, refused)
        finally:
            for sock in sockets:
                sock.close()


def answer(peer: _socket.socket, sockets: list[_socket.socket], refused: int) -> bool:
    """Reply; False when the peer takes no answer."""
    try:
        send(peer, sockets, refused)
    except OSError as error:
        if (
            error.errno != errno.ETOOMANYREFS
        ):  # a uid may have RLIMIT_NOFILE descriptors in flight (unix(7)); not the peer's fault
            return False
        try:
            send(peer, [], error.errno)
        except OSError:
            return False
    return True


def send(peer: _socket.socket, sockets: list[_socket.socket], refused: int) -> None:
    """One reply, without waiting; raises OSError."""
    fds.send(peer, bytes((len(sockets), refused)), [sock.fileno() for sock in sockets], flags=DONTWAIT)


def born_here(family: int, count: int) -> tuple[list[_socket.socket], int]:
    """That many sockets of this namespace, or as many as could be had and the errno."""
    sockets: list[_socket.socket] = []
    try:
        for _ in range(count):
            sockets.append(_socket.socket(family, KIND))
    except OSError as error:
        return sockets, min(error.errno or errno.EIO, 255)
    return sockets, 0


def listen(stage: Stage, proxy: int) -> None:
    """The step: where all that goes out arrives. proxy: the port where only what obeys proxy variables does."""
    stage.ways = open_forwards([proxy]) if proxy else open_ways()


def open_ways() -> list[_socket.socket]:
    """Where all that goes out arrives (kernel.nftables): TCP and the resolver, of each family that there is."""
    return listening([(_socket.SOCK_STREAM, TCP_PORT), (_socket.SOCK_DGRAM, DNS_PORT)], at_relay=True)


def open_forwards(ports: list[int]) -> list[_socket.socket]:
    """Where what is forwarded arrives, or what obeys proxy variables: on the env's own loopback."""
    return listening([(_socket.SOCK_STREAM, port) for port in ports], at_relay=False) if ports else []


def open_paths(paths: list[str]) -> list[_socket.socket]:
    """Where what is forwarded to a path arrives, its directories made; raises OSError. All of it is in the env's own view."""
    ways = []
    for path in paths:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if os.path.lexists(path) and stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)  # of an earlier life: what is in the home stays there
        sock = _socket.socket(_socket.AF_UNIX, KIND)
        try:
            sock.bind(path)
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise OSError(error.errno, os.strerror(error.errno or 0), path) from error
        ways.append(sock)
    return ways


def listening(wanted: list[tuple[int, int]], *, at_relay: bool) -> list[_socket.socket]:
    """Sockets of these kinds on these ports."""
    ways: list[_socket.socket] = []
    for family, level, free, relay, loopback in WAYS_AT:
        place = relay if at_relay else loopback
        for kind, port in wanted:
            sock = None
            try:
                sock = _socket.socket(family, kind | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
                # ip(7), IP_FREEBIND: the stager gives `lo` the address a moment later.
                sock.setsockopt(level, free, 1)
                sock.bind((place, port))
                if kind == _socket.SOCK_STREAM:
                    sock.listen(BACKLOG)
                ways.append(sock)
            except OSError as error:
                if sock is not None:
                    sock.close()
                if family == _socket.AF_INET:  # a host without IPv6 has none inside either
                    complain("listening for what goes out", error)
    return ways


def open_diag() -> _socket.socket:
    """A NETLINK_SOCK_DIAG socket of this namespace: who holds it sees what listens here (sock_diag(7)). Raises OSError."""
    return _socket.socket(
        _socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK, NETLINK_SOCK_DIAG
    )
