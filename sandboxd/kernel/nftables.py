"""The way out of an env's network namespace: addresses and default routes on `lo`, and the rules that lead all to the relay.

Runs in the stager, and in a trial of what the host offers; imports `errors` only and needs neither the `nft` program nor a
library. The rules are static, one batch of netlink messages: what is allowed is the relay's table (`router.outlet`), so that
nobody needs capabilities later. An address of its own, so that what comes back from the relay is not taken for loopback's.
Names are those of linux/netfilter/nf_tables.h and linux/rtnetlink.h. Invariant: a packet to anywhere else but this namespace is
led to the relay (TCP, DNS) or refused at once; none is lost on the way, which would be a hang.
"""

import _socket
import errno
import struct

from sandboxd.errors import KernelError

# RFC 2544: of networks under test, and no more than these two, since real networks use even what is for documentation.
OWN, RELAY = "198.18.83.66", "198.18.83.67"
OWN6, RELAY6 = "fd53:616e:6462:6f78::2", "fd53:616e:6462:6f78::3"
TCP_PORT, DNS_PORT = 15001, 15053
LO = 1

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
REQUEST, ACK, EXCL, CREATE, APPEND = 1, 4, 0x200, 0x400, 0x800
RTM_NEWADDR, RTM_NEWROUTE = 20, 24
BATCH_BEGIN, BATCH_END, SUBSYS_NFTABLES = 0x10, 0x11, 10
NEWTABLE, NEWCHAIN, NEWRULE = 0, 3, 6
INET, NESTED, LOCAL_OUT = 1, 0x8000, 3
META_NFPROTO, META_L4PROTO = 15, 16
NETWORK, TRANSPORT = 1, 2
ACCEPT, RETURN = 1, -5
TABLE = b"sandboxd\0"
V4, V6 = 2, 10
OURS = {V4: (OWN, RELAY), V6: (OWN6, RELAY6)}


def attr(kind: int, body: bytes) -> bytes:
    """One attribute, padded."""
    return struct.pack("=HH", 4 + len(body), kind) + body + bytes(-len(body) % 4)


def nest(kind: int, *parts: bytes) -> bytes:
    """An attribute made of attributes."""
    return attr(kind | NESTED, b"".join(parts))


def be32(value: int) -> bytes:
    """As nf_tables wants numbers."""
    return struct.pack("!i", value)


def expression(name: bytes, *parts: bytes) -> bytes:
    """One expression of a rule."""
    return nest(1, attr(1, name + b"\0"), nest(2, *parts))


def meta(key: int) -> bytes:
    """Load a property of the packet."""
    return expression(b"meta", attr(1, be32(1)), attr(2, be32(key)))


def load(base: int, offset: int, length: int) -> bytes:
    """Load bytes of a header."""
    return expression(b"payload", *(attr(kind, be32(value)) for kind, value in enumerate((1, base, offset, length), 1)))


def equal(value: bytes) -> bytes:
    """Go on if what was loaded is this."""
    return expression(b"cmp", attr(1, be32(1)), attr(2, be32(0)), nest(3, attr(1, value)))


def immediate(register: int, value: bytes) -> bytes:
    """Put a value into a register."""
    return expression(b"immediate", attr(1, be32(register)), nest(2, attr(1, value)))


def verdict(code: int) -> bytes:
    """End here."""
    return expression(b"immediate", attr(1, be32(0)), nest(2, nest(2, attr(1, be32(code)))))


def lead(family: int, address: bytes, port: int) -> bytes:
    """Rewrite the destination."""
    parts = (attr(1, be32(1)), attr(2, be32(family)), attr(3, be32(1)), attr(5, be32(2)))
    return immediate(1, address) + immediate(2, struct.pack("!H", port)) + expression(b"nat", *parts)


def of(family: int) -> bytes:
    """Packets of that family."""
    return meta(META_NFPROTO) + equal(bytes((family,)))


def to(family: int, prefix: bytes, *, source: bool = False) -> bytes:
    """Packets of that family to (or from) a prefix of whole bytes."""
    offset = (12 if source else 16) if family == V4 else (8 if source else 24)
    return of(family) + load(NETWORK, offset, len(prefix)) + equal(prefix)


def rules() -> list[tuple[bytes, bytes]]:
    """(chain, expressions) of each rule, in order."""
    loop4, loop6 = b"\x7f", bytes(15) + b"\1"
    own = {family: [_socket.inet_pton(family, address) for address in ours] for family, ours in OURS.items()}
    relay = {V4: _socket.inet_pton(V4, RELAY), V6: _socket.inet_pton(V6, RELAY6)}
    tcp, dns = meta(META_L4PROTO) + equal(b"\6"), meta(META_L4PROTO) + equal(b"\x11") + load(TRANSPORT, 2, 2) + equal(b"\0\x35")
    notrack, refuse = expression(b"notrack"), expression(b"reject", attr(1, be32(2)), attr(2, b"\1"))  # icmpx, port unreachable
    found = []
    for family, loop in ((V4, loop4), (V6, loop6)):
        # Loopback's own traffic fills no table of connections; from loopback to elsewhere it is on its way to the relay.
        found.append((b"raw\0", to(family, loop, source=True) + to(family, loop) + notrack))
        found.append((b"nat\0", to(family, loop) + verdict(RETURN)))
        found.append((b"nat\0", of(family) + dns + lead(family, relay[family], DNS_PORT)))
        found += [(b"nat\0", to(family, ours) + verdict(RETURN)) for ours in own[family]]
        found.append((b"nat\0", of(family) + tcp + lead(family, relay[family], TCP_PORT)))
        found.append((b"out\0", to(family, loop) + verdict(ACCEPT)))
        found += [(b"out\0", to(family, ours) + verdict(ACCEPT)) for ours in own[family]]
    return [*found, (b"out\0", refuse)]


def message(kind: int, flags: int, number: int, body: bytes) -> bytes:
    """One netlink message."""
    return struct.pack("=IHHII", 16 + len(body), kind, REQUEST | flags, number, 0) + body + bytes(-len(body) % 4)


def ruleset() -> bytes:
    """The whole table as one batch: all of it holds, or nothing. Only the last change is acknowledged."""
    chains = ((b"raw\0", b"filter\0", -300), (b"nat\0", b"nat\0", -100), (b"out\0", b"filter\0", 0))
    bodies = [(NEWTABLE, CREATE, attr(1, TABLE))]
    for name, kind, priority in chains:
        hook = nest(4, attr(1, be32(LOCAL_OUT)), attr(2, be32(priority)))
        bodies.append((NEWCHAIN, CREATE, attr(1, TABLE) + attr(3, name) + hook + attr(5, be32(ACCEPT)) + attr(7, kind)))
    for chain, expressions in rules():
        bodies.append((NEWRULE, CREATE | APPEND, attr(1, TABLE) + attr(2, chain) + nest(4, expressions)))
    edge = struct.pack("!BBH", 0, 0, SUBSYS_NFTABLES)
    batch = message(BATCH_BEGIN, 0, 0, edge)
    for number, (change, flags, body) in enumerate(bodies, 1):
        last = ACK if number == len(bodies) else 0
        batch += message(SUBSYS_NFTABLES << 8 | change, flags | last, number, struct.pack("!BBH", INET, 0, 0) + body)
    return batch + message(BATCH_END, 0, len(bodies) + 1, edge)


def roads(family: int, addresses: tuple[str, ...], width: int) -> bytes:
    """Addresses on `lo`, and a default route to it, from the first of them."""
    packed = [_socket.inet_pton(family, address) for address in addresses]
    nodad = 2
    batch = b""
    for number, address in enumerate(packed, 1):
        head = struct.pack("=BBBBI", family, width, nodad if family == V6 else 0, 0, LO)
        batch += message(RTM_NEWADDR, CREATE | EXCL, number, head + attr(2, address) + attr(1, address))
    scope = 253 if family == V4 else 0  # RT_SCOPE_LINK, RT_SCOPE_UNIVERSE
    head = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 254, 3, scope, 1, 0)  # main table, RTPROT_BOOT, RTN_UNICAST
    route = head + attr(4, struct.pack("=I", LO)) + attr(7, packed[0])
    return batch + message(RTM_NEWROUTE, CREATE | EXCL | ACK, len(packed) + 1, route)


RULESET, ROADS, ROADS6 = ruleset(), roads(V4, OURS[V4], 32), roads(V6, OURS[V6], 128)
LACKING = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EACCES, errno.ENODEV, errno.EPERM)


def open_way() -> None:
    """Addresses, routes and rules of this network namespace, whose `lo` is up; raises KernelError. Needs CAP_NET_ADMIN in it.

    The rules first: there is no moment at which a packet could go anywhere. Without IPv6 there is just no IPv6.
    """
    exchange(NETLINK_NETFILTER, RULESET, "nf_tables")
    exchange(NETLINK_ROUTE, ROADS, "the route to the relay")
    try:
        exchange(NETLINK_ROUTE, ROADS6, "the route to the relay")
    except KernelError as error:
        if error.errno not in LACKING:
            raise


def exchange(protocol: int, batch: bytes, subject: str) -> None:
    """Send, and read up to the one acknowledgement or the first error; raises KernelError."""
    try:
        netlink = _socket.socket(_socket.AF_NETLINK, _socket.SOCK_RAW | _socket.SOCK_CLOEXEC, protocol)
        try:
            netlink.settimeout(5)
            netlink.sendto(batch, (0, 0))
            answer = netlink.recv(1 << 16)
        finally:
            netlink.close()
    except OSError as error:
        raise KernelError(error.errno or 0, "netlink", subject) from error
    number = -struct.unpack_from("=i", answer, 16)[0] if len(answer) >= 20 else errno.EBADMSG  # struct nlmsgerr
    if number:
        raise KernelError(number, "netlink", subject)
