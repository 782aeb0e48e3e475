"""NETLINK_SOCK_DIAG (sock_diag(7)): who listens in a network namespace, and whose socket is at the other end of ours.

One job: the two questions above, unprivileged, 0.01 to 0.07 ms each where /proc/net/tcp costs milliseconds. Imports errors
only. A diag socket answers for the namespace it was born in, whoever holds it; the kernel queues each part of its answer
before send or recv returns (netlink(7), dumps are driven by the reader), so nothing here ever waits: a socket that would
block was drained by somebody else, and that is an error.
"""

import errno
import os
import socket
import struct
from typing import NamedTuple

from sandboxd.errors import KernelError

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY, TCPDIAG_GETSOCK = 20, 18
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_DUMP, NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
SO_NETNS_COOKIE = 71
TCP_LISTEN, TCP_NEW_SYN_RECV = 10, 12

HEADER = struct.Struct("=IHHII")  # nlmsghdr: length type flags seq pid
REQUEST = struct.Struct("=BBBxI2s2s16s16sI8s")  # inet_diag_req_v2: family protocol ext, states, inet_diag_sockid
DUMP = struct.Struct("=B3x2s2s16s16sI8sII")  # inet_diag_req: family, inet_diag_sockid, states, 0
LISTENING = DUMP.pack(0, b"\0\0", b"\0\0", b"\0" * 16, b"\0" * 16, 0, b"\xff" * 8, 1 << TCP_LISTEN, 0)
MESSAGE = struct.Struct("=BBBB2s2s16s16sI8sIIIII")  # inet_diag_msg: … expires rqueue wqueue uid inode
OWNER = struct.Struct("=4xH10xxBxx2s2s56xII")  # of both of them: type, state, ports, uid, inode
NO_COOKIE = b"\xff" * 8
ANY = b"\0" * 16
MAPPED = b"\0" * 10 + b"\xff\xff"  # ::ffff:0:0/96
DUMP_RETRIES = 4
MOST_MESSAGES = 65536  # no dump of listeners is longer; bounds what a hostile socket can make us read


class ListenerRow(NamedTuple):
    """One listening TCP socket; uid as the namespace that made the diag socket sees it."""

    port: int
    family: int
    address: str
    uid: int
    inode: int


def open_diag() -> socket.socket:
    """A diag socket born in this process's network namespace; raises KernelError."""
    try:
        return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETLINK_SOCK_DIAG)
    except OSError as error:
        raise KernelError(error.errno or 0, "socket", "NETLINK_SOCK_DIAG") from error


def is_diag(sock: socket.socket) -> bool:
    """Whether a descriptor that came from elsewhere really is a diag socket."""
    try:
        domain = sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN)
        protocol = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL)
    except OSError:
        return False
    return domain == socket.AF_NETLINK and protocol == NETLINK_SOCK_DIAG


def netns_cookie(sock: socket.socket) -> int:
    """The kernel's number for the network namespace a socket was born in (socket(7), since 5.14); raises KernelError."""
    try:
        return int(struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8))[0])
    except OSError as error:
        raise KernelError(error.errno or 0, "getsockopt", "SO_NETNS_COOKIE") from error


def dump_listeners(netlink: socket.socket) -> list[ListenerRow]:
    """Every listening TCP socket of the namespace `netlink` was born in, both families; raises KernelError.

    The older form of the request takes "any family" for an answer (inet_diag_rcv_msg_compat), the newer one is asked twice:
    half the time, for what is asked every millisecond while an env starts.
    """
    drain(netlink)
    messages, interrupted = dump(netlink)
    for _ in range(DUMP_RETRIES):
        if not interrupted:
            break  # else the table changed under it: entries may be missing or doubled
        messages, interrupted = dump(netlink)
    return [row for message in messages if (row := as_row(message)) is not None]


def peer_uid(client: socket.socket, netlink: socket.socket | None = None) -> int | None:
    """The uid that owns the other end of a connected TCP socket of this host; None when it is not here, or not known.

    `netlink`: a kept `open_diag()` socket of the same namespace (spares opening one). Never guesses: orphaned and TIME_WAIT
    sockets are reported with uid 0 and inode 0 (inet_diag.c), so a row without an inode, or of a listener, is None.
    """
    kept = netlink if netlink is not None else open_diag()
    try:
        here, there = client.getsockname(), client.getpeername()
        family, source = packed(there[0])
        other, destination = packed(here[0])
        if family != other:
            return None
        interface = there[3] if family == socket.AF_INET6 and len(there) > 3 else 0
        ports = there[1].to_bytes(2, "big"), here[1].to_bytes(2, "big")
        request = REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0xFFFFFFFF, *ports, source, destination, interface, NO_COOKIE)
        answer = exchange(kept, request)
    except OSError as error:
        if isinstance(error, KernelError) and error.errno != errno.ENOENT:
            raise
        return None  # the connection is gone, or its other end is on another host
    finally:
        if netlink is None:
            kept.close()
    return uid_of(answer, ports)


def uid_of(answer: bytes, ports: tuple[bytes, bytes]) -> int | None:
    """The owner that an inet_diag_msg names, if it is one of exactly this connection."""
    _, state, _, _, port, peer_port, *_, uid, inode = MESSAGE.unpack_from(answer)
    if state in (TCP_LISTEN, TCP_NEW_SYN_RECV) or inode == 0 or (port, peer_port) != ports:
        return None
    return int(uid)


def uid_in(answer: bytes, port: bytes, peer_port: bytes) -> int | None:
    """The same of a whole answer, header and message, for who asks thousands of times a second; None where it is an error."""
    if len(answer) < OWNER.size:
        return None
    kind, state, *ports, uid, inode = OWNER.unpack_from(answer)
    if kind != SOCK_DIAG_BY_FAMILY or state in (TCP_LISTEN, TCP_NEW_SYN_RECV) or not inode or ports != [port, peer_port]:
        return None
    return int(uid)


def is_orphan(answer: bytes) -> bool:
    """Whether a whole answer says that the socket is gone, or that no process has it (inet_diag.c: an inode of 0)."""
    kind = int.from_bytes(answer[4:6], "little")
    if kind == NLMSG_ERROR:
        return len(answer) >= 20 and -int.from_bytes(answer[16:20], "little", signed=True) == errno.ENOENT
    return kind == SOCK_DIAG_BY_FAMILY and len(answer) >= OWNER.size and not OWNER.unpack_from(answer)[-1]


def packed(address: str) -> tuple[int, bytes]:
    """(family, 16 bytes) as inet_diag wants them; a v4-mapped address is the IPv4 one."""
    if ":" not in address:
        return socket.AF_INET, socket.inet_aton(address).ljust(16, b"\0")
    raw = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    if raw.startswith(MAPPED):
        return socket.AF_INET, raw[12:].ljust(16, b"\0")
    return socket.AF_INET6, raw


def as_row(message: bytes) -> ListenerRow | None:
    """An inet_diag_msg as a listener; None for what is none."""
    if len(message) < MESSAGE.size:
        return None
    family, state, _, _, port, _, source, *_, uid, inode = MESSAGE.unpack_from(message)
    if state != TCP_LISTEN or family not in (socket.AF_INET, socket.AF_INET6):
        return None
    address = socket.inet_ntop(family, source[:4] if family == socket.AF_INET else source)
    return ListenerRow(int.from_bytes(port, "big"), family, address, uid, inode)


def dump(netlink: socket.socket) -> tuple[list[bytes], bool]:
    """Ask for all listeners and read the whole answer: (payloads, whether the table changed meanwhile)."""
    sequence = send(netlink, LISTENING, NLM_F_REQUEST | NLM_F_DUMP, TCPDIAG_GETSOCK)
    payloads: list[bytes] = []
    interrupted = False
    while len(payloads) < MOST_MESSAGES:
        for kind, flags, number, payload in receive(netlink):
            if number != sequence:
                continue  # the rest of an answer that an earlier caller gave up on
            interrupted = interrupted or bool(flags & NLM_F_DUMP_INTR)
            if kind == NLMSG_DONE:
                return payloads, interrupted
            if kind == NLMSG_ERROR:
                raise_error(payload)
            elif kind != TCPDIAG_GETSOCK:
                raise KernelError(errno.EBADMSG, "recvmsg", "NETLINK_SOCK_DIAG")
            else:
                payloads.append(payload)
    raise KernelError(errno.EMSGSIZE, "recvmsg", "NETLINK_SOCK_DIAG")


def exchange(netlink: socket.socket, request: bytes) -> bytes:
    """Send a request for one socket and return its inet_diag_msg; raises KernelError (ENOENT: there is none)."""
    sequence = send(netlink, request, NLM_F_REQUEST)
    for _ in range(16):
        for kind, _, number, payload in receive(netlink):
            if number != sequence:
                continue
            if kind == NLMSG_ERROR:
                raise_error(payload)
            if kind == SOCK_DIAG_BY_FAMILY and len(payload) >= MESSAGE.size:
                return payload
            raise KernelError(errno.EBADMSG, "recvmsg", "NETLINK_SOCK_DIAG")
    raise KernelError(errno.EMSGSIZE, "recvmsg", "NETLINK_SOCK_DIAG")


def send(netlink: socket.socket, request: bytes, flags: int, kind: int = SOCK_DIAG_BY_FAMILY) -> int:
    """Send one request; returns the sequence number its answer carries."""
    sequence = int.from_bytes(os.urandom(4), "little")
    message = HEADER.pack(HEADER.size + len(request), kind, flags, sequence, 0) + request
    try:
        netlink.sendto(message, socket.MSG_DONTWAIT, (0, 0))
    except OSError as error:
        raise KernelError(error.errno or 0, "sendmsg", "NETLINK_SOCK_DIAG") from error
    return sequence


def drain(netlink: socket.socket) -> None:
    """Read what an earlier dump left: until its end was read the kernel answers a new one with EBUSY."""
    for _ in range(MOST_MESSAGES):
        try:
            netlink.recv(1 << 16, socket.MSG_DONTWAIT)
        except OSError:
            return


def receive(netlink: socket.socket) -> list[tuple[int, int, int, bytes]]:
    """One datagram, split into (type, flags, sequence, payload)."""
    try:
        data, _, flags, sender = netlink.recvmsg(1 << 16, 0, socket.MSG_DONTWAIT)
    except OSError as error:
        raise KernelError(error.errno or 0, "recvmsg", "NETLINK_SOCK_DIAG") from error
    if flags & socket.MSG_TRUNC or not data or sender[0] != 0:  # only the kernel (port 0) answers
        raise KernelError(errno.EBADMSG, "recvmsg", "NETLINK_SOCK_DIAG")
    messages = []
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, message_flags, sequence, _ = HEADER.unpack_from(data, offset)
        if not HEADER.size <= length <= len(data) - offset:
            raise KernelError(errno.EBADMSG, "recvmsg", "NETLINK_SOCK_DIAG")
        messages.append((kind, message_flags, sequence, data[offset + HEADER.size : offset + length]))
        offset += (length + 3) & ~3
    return messages


def raise_error(payload: bytes) -> None:
    """Raise what an NLMSG_ERROR carries (0 is an acknowledgement)."""
    number = -struct.unpack_from("=i", payload)[0] if len(payload) >= 4 else errno.EBADMSG
    if number:
        raise KernelError(number, "sock_diag")
