"""One connection that goes out: where it wanted to go, whether it may, the dial on the host's network, then a tunnel.

connect(2) inside has been answered before anybody here heard of it, so whatever cannot be is told by a reset, at once. The
decision is `egress`'s; where only a name gave it, the first bytes are looked at as well, so that TLS cannot ask for another
name at the same address. Imports relay, tunnel and closing. Invariant: `over` is called once.
"""

import _socket
import errno
import ipaddress
import os
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

from sandboxd.egress import HOST, Address, Verdict, allows_tls_name
from sandboxd.kernel.nftables import OWN, OWN6, RELAY, RELAY6
from sandboxd.router.closing import release, reset
from sandboxd.router.loop import LOST, READ, WRITE, Timer
from sandboxd.router.relay import BUFFER, DONTWAIT, Flow, Side, shared, view
from sandboxd.router.tunnel import Tunnel
from sandboxd.routing.clienthello import HelloError, server_name

if TYPE_CHECKING:
    from sandboxd.router.outlet import Outlet

SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h; of IPv6 the same number
IPPROTO_IPV6 = 41
STREAM = int(socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
CONNECT = 30.0  # seconds
OURS = frozenset(ipaddress.ip_address(text) for text in (OWN, RELAY, OWN6, RELAY6))
NOTHING = Verdict(allowed=False)
REASONS = {
    errno.ECONNREFUSED: "refused",
    errno.ETIMEDOUT: "no answer",
    errno.ENETUNREACH: "no route",
    errno.EHOSTUNREACH: "no route",
}


class Way(NamedTuple):
    """Where a connection leads to, or why not. until: so long the decision stands. place: of what family, for connect(2)."""

    address: Address
    port: int
    names: list[str]
    verdict: Verdict
    until: float
    family: int
    place: tuple[str, int]
    reason: str = ""


def wanted(sock: _socket.socket) -> bytes:
    """The destination that the program gave, packed; raises OSError for a connection that was not led here."""
    if sock.family == socket.AF_INET6:
        return sock.getsockopt(IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
    return sock.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, 16)


def place_of(packed: bytes) -> tuple[Address, int]:
    """The same, unpacked."""
    port, address = struct.unpack("!2xH4x16s4x" if len(packed) == 28 else "!2xH4s8x", packed)
    return ipaddress.ip_address(address), port


def reached_at(address: Address, port: int) -> tuple[int, tuple[str, int]]:
    """The family and the place of it on this host's network, for connect(2)."""
    target = "127.0.0.1" if address == HOST else str(address)
    return int(socket.AF_INET if address.version == 4 else socket.AF_INET6), (target, port)


def is_local(address: Address) -> bool:
    """Whether it is this host's own: then it is what a socket to it has as its source, too. Sends nothing. False: no route."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect((str(address), 9))
            source = ipaddress.ip_address(probe.getsockname()[0].partition("%")[0])
        except OSError:
            return False
    return source == address or source.is_loopback


def has_route(address: Address) -> bool:
    """Whether this host knows a way there."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as probe:
        return probe.connect_ex((str(address), 9)) == 0


class Far(Side):
    """The host's end."""

    __slots__ = ("near",)
    shared = False

    def __init__(self, near: "Outbound", sock: _socket.socket) -> None:
        super().__init__(near.loop, sock)
        self.near = near

    def send_at_once(self) -> None:
        """From the flow to it."""
        if self.sock.family != socket.AF_UNIX:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def broken(self) -> None:
        """Nothing can be sent there any more."""
        if self.near.tunnel is not None:
            self.near.tunnel.broken(self)

    def abort(self, *, stalled: bool = False) -> None:
        """From the loop, after a failure of ours."""
        self.near.abort()


class Dialling:
    """The connection being made."""

    def __init__(self, near: "Outbound", sock: _socket.socket) -> None:
        self.near = near
        self.sock = sock
        near.loop.watch(sock.fileno(), self, WRITE)

    def on_event(self, mask: int) -> None:
        """It stands, or cannot be had."""
        self.near.undial()
        self.near.dialled(self.sock, self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if mask & LOST else 0)

    def abort(self, *, stalled: bool = False) -> None:
        """From the loop, after a failure of ours."""
        self.near.fail("")


class Sniffing(Flow):
    """In the place of a tunnel's inward flow until the program has said whether it speaks TLS, and with whom."""

    __slots__ = ("flow", "head", "near")

    def __init__(self, near: "Outbound", flow: Flow) -> None:
        self.near = near
        self.flow = flow
        self.head = bytearray()

    def move(self) -> None:
        """The program sent something."""
        try:
            data = self.near.sock.recv(BUFFER, DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.head += data
        try:
            name = server_name(self.head) if data else ""
        except HelloError:
            self.near.deny_tls("")
            return
        if name is None:
            return  # more is to come
        if name and not allows_tls_name(self.near.outlet.rules, name, self.near.port):
            self.near.deny_tls(name)
            return
        self.give_way()

    def give_way(self) -> None:
        """Pass on what was read; the rest is the flow's."""
        flow, near = self.flow, self.near
        near.outgoing = flow
        flow.moved += len(self.head)
        try:
            gone = not self.head or flow.sink.put(bytes(self.head))
        except OSError:
            flow.sink.broken()
            return
        if not gone:
            near.want(near.mask & ~READ)


class Outbound(Side):
    """The env's end, and what is known of the whole."""

    __slots__ = (
        *("address", "began", "dialling", "done", "names", "number", "outlet", "port", "reason", "state"),
        *("timer", "tunnel", "verdict"),
    )
    shared = False

    def __init__(self, outlet: "Outlet", sock: _socket.socket, number: int) -> None:
        super().__init__(outlet.loop, sock, 0)
        self.outlet = outlet
        self.number = number
        self.address: Address | None = None
        self.port = 0
        self.names: list[str] = []
        self.verdict = NOTHING
        self.state = "open"
        self.reason = ""
        self.began = outlet.loop.now
        self.tunnel: Tunnel | None = None
        self.dialling: Dialling | None = None
        self.timer: Timer | None = None
        self.done = False

    @property
    def sent(self) -> int:
        """Bytes from the env."""
        return self.tunnel.inward.moved if self.tunnel is not None else 0

    @property
    def received(self) -> int:
        """Bytes to the env."""
        return self.tunnel.outward.moved if self.tunnel is not None else 0

    def begin(self, way: Way) -> None:
        """Dial, if it may."""
        self.address, self.port, self.names, self.verdict = way.address, way.port, way.names, way.verdict
        if way.reason:
            self.fail(way.reason)
        elif not way.verdict.allowed:
            self.state = "denied"
            self.fail("")
        else:
            self.connect(way.family, way.place)

    def connect(self, family: int, place: tuple[str, int] | str) -> None:
        """Connect to it, and be one end of a tunnel then."""
        try:
            # Without the class around it in `socket`, which costs more than the call.
            sock = _socket.socket(family, STREAM)
        except OSError as error:
            self.fail(os.strerror(error.errno or 0))
            return
        number = sock.connect_ex(place)
        if number == errno.EINPROGRESS:
            # Somebody on this host has answered by now: his segments wait behind the lock that the first call held, so only a
            # second one can tell (measured: always, on the loopback), and saves a turn of the loop.
            number = sock.connect_ex(place)
        if number in (errno.EALREADY, errno.EINPROGRESS):
            self.timer = self.loop.at(self.loop.now + CONNECT, lambda: self.fail("no answer"))
            self.dialling = Dialling(self, sock)
        else:
            self.dialled(sock, number)

    def undial(self) -> None:
        """Wait for no connection any more; its socket stays open."""
        if self.dialling is not None:
            self.loop.forget(self.dialling.sock.fileno())
            self.dialling = None
        if self.timer is not None:
            self.timer.cancel()

    def dialled(self, sock: _socket.socket, number: int) -> None:
        """The connection stands, or not."""
        if number:
            sock.close()
            self.fail(REASONS.get(number) or os.strerror(number))
        else:
            self.stand(sock)

    def stand(self, sock: _socket.socket) -> None:
        """From here on it is a tunnel."""
        if self.verdict.by_name:
            self.tunnel = Tunnel(self, Far(self, sock), self.outlet.pipes, self.over)
            self.outgoing = Sniffing(self, self.tunnel.inward)
            self.outgoing.move()
            return
        # What the program sent meanwhile goes first, and all else is made while the other side makes up its answer.
        count = sent = 0
        is_lost = False
        try:
            count = self.sock.recv_into(shared, BUFFER, DONTWAIT)
        except BlockingIOError:
            pass
        except OSError:
            sock.close()
            self.fail("given up")
            return
        try:
            sent = sock.send(view[:count], DONTWAIT) if count else 0
        except BlockingIOError:
            pass
        except OSError:
            is_lost = True
        far = Far(self, sock)
        if sent < count:
            far.backlog = bytes(view[sent:count])
            far.want(far.mask | WRITE)
        self.tunnel = Tunnel(self, far, self.outlet.pipes, self.over)
        self.tunnel.inward.moved = count
        if is_lost:
            far.backlog = b""
            far.broken()

    def deny_tls(self, name: str) -> None:
        """TLS asked for a name that no rule gives."""
        self.state = "denied"
        self.reason = "TLS asks for another name" if name else "its first bytes are no TLS, and begin like it"
        self.verdict = Verdict(allowed=False, lacking=f"{name}:{self.port}" if name else "")
        self.names = [name] if name else self.names
        self.cut()

    def broken(self) -> None:
        """Nothing can be sent to the env any more."""
        if self.tunnel is not None:
            self.tunnel.broken(self)

    def lost(self) -> None:
        """The env's end is gone while nobody reads it."""
        if self.tunnel is None:
            self.fail("given up")
        else:
            self.park()

    def abort(self, *, stalled: bool = False) -> None:
        """From the loop, after a failure of ours."""
        self.cut()

    def cut(self) -> None:
        """End both ends now."""
        if self.tunnel is not None:
            self.tunnel.cut()
        else:
            self.fail("")

    def fail(self, reason: str) -> None:
        """Reset it."""
        dialling = self.dialling
        self.undial()
        if dialling is not None:
            dialling.sock.close()
        self.reason = self.reason or reason
        if self.state == "open":
            self.state = "failed"
        if self.open:
            release(self)
            reset(self.sock)
        self.over()

    def over(self) -> None:
        """Nothing is left of it."""
        if not self.done:
            self.done = True
            if self.state == "open":
                self.state = "closed"
            self.outlet.ended(self)
