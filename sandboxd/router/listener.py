"""Listening sockets: accept in batches, hold back when descriptors run out or other workers have less to do.

Imports the loop, unixes and kernel.splice only.

One listening socket per address, inherited from the daemon (and later by successors): never SO_REUSEPORT, where closing one
of two sockets resets the connections that wait in its queue, and another process of the uid may join in.
"""

import _socket
import errno
import logging
import select
import socket
from collections.abc import Callable

from sandboxd.kernel.splice import stay_local
from sandboxd.router import unixes
from sandboxd.router.loop import READ, Loop, Timer

BACKLOG = 4096  # cut by net.core.somaxconn
REST = 0.1  # seconds without accepting once there is no descriptor left; the queue keeps who waits


YIELD = 0.005  # seconds for workers with fewer connections to take what waits
# Of the workers that sleep one is woken for a connection, not all (epoll_ctl(2)); such an entry cannot be modified.
WANTED = READ | select.EPOLLEXCLUSIVE

SILENCE = 10.0  # seconds between two warnings that descriptors ran out

log = logging.getLogger("sandboxd.router")

Accepted = Callable[[_socket.socket, tuple[str, int]], None]


class Listener:
    """Calls `accepted` with each connection, and the address it came from. room: how many may be taken now, see `Router`."""

    __slots__ = ("_accepted", "_family", "_loop", "_protocol", "_resting", "_room", "_silent_until", "sock")

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        accepted: Accepted,
        room: Callable[[], int],
    ) -> None:
        self.sock = sock
        self._loop = loop
        self._accepted = accepted
        self._room = room
        self._resting: Timer | None = None
        self._silent_until = 0.0
        self._family = int(sock.family)
        sock.setblocking(False)
        self._protocol = 0 if sock.family == socket.AF_UNIX else socket.IPPROTO_TCP
        if self._protocol:
            # Accepted sockets inherit it (net/ipv4/tcp_minisocks.c), which spares a call for each.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            host = sock.getsockname()[0]
            if host.startswith("127.") or host == "::1":
                stay_local(sock)
        loop.watch(sock.fileno(), self, WANTED)

    @property
    def address(self) -> str:
        """Where it listens, as HOST:PORT."""
        return address_of(self.sock)

    def on_event(self, mask: int) -> None:
        """Connections wait."""
        # What socket.accept() calls: it goes on to look the family, type and protocol up in enums, three microseconds a call.
        accept, family = self.sock._accept, self._family  # type: ignore[attr-defined]
        room = self._room()
        if room <= 0:
            # Out of the epoll: an exclusive wake-up that is not used would be nobody's. What made it one of ours is taken.
            self._rest(YIELD if room else REST)
        for _ in range(abs(room)):
            try:
                fd, address = accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._fell_short(error)
                    self._rest(REST)
                    return
                continue  # accept(2): the connection failed while it waited, the next may be well
            # Left blocking: every call on it says MSG_DONTWAIT, and `relay` sets O_NONBLOCK before it splices.
            # A plain socket: the class around it in `socket` costs as much as all else here.
            self._accepted(_socket.socket(family, socket.SOCK_STREAM, self._protocol, fileno=fd), address)

    def abort(self, *, stalled: bool = False) -> None:
        """From the loop: a connection failed in being taken; the listener stays."""

    def close(self) -> None:
        """Stop listening."""
        if self.sock.fileno() >= 0:
            self._loop.forget(self.sock.fileno())
            self.sock.close()

    def _fell_short(self, error: OSError) -> None:
        """Say so, now and then: who waits in the queue is taken once something is free."""
        if self._loop.now >= self._silent_until:
            self._silent_until = self._loop.now + SILENCE
            log.warning("no more connections are taken at %s for now: %s", self.address, error.strerror)

    def _rest(self, seconds: float) -> None:
        if self._resting is None:
            self._loop.forget(self.sock.fileno())
            self._resting = self._loop.at(self._loop.now + seconds, self.resume)

    def resume(self) -> None:
        """Rest no longer."""
        if self._resting is None:
            return
        self._resting.cancel()
        self._resting = None
        if self.sock.fileno() >= 0:
            self._loop.watch(self.sock.fileno(), self, WANTED)


def address_of(sock: socket.socket) -> str:
    """Where a socket listens, as HOST:PORT or unix:/PATH."""
    if sock.family == socket.AF_UNIX:
        return f"{unixes.PREFIX}{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bind(address: str, owner: int = -1) -> socket.socket:
    """A listening socket for HOST:PORT, [HOST]:PORT, or unix:/PATH of that owner; raises OSError, ValueError."""
    path = unixes.path_of(address)
    if path is not None:
        return unixes.bind(path, owner)
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # A port whose connections are in TIME_WAIT can be bound again; one that is listened on cannot (socket(7)).
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def split_address(address: str) -> tuple[str, int]:
    """Host and port; "" and "*" mean every IPv4 address. A Unix socket's address is its own host. Raises ValueError."""
    if unixes.path_of(address) is not None:
        return address, 0
    host, separator, port = address.rpartition(":")
    if not separator or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{address!r} is not HOST:PORT")
    host = host.removeprefix("[").removesuffix("]")
    return {"": "0.0.0.0", "*": "0.0.0.0", "localhost": "127.0.0.1"}.get(host, host), int(port)


def joined(address: str, port: int) -> str:
    """The address to listen on for a host address and a port."""
    if unixes.path_of(address) is not None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
