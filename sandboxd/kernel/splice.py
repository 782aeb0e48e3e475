"""Pipes for splice(2), and the socket options that keep a foreign socket from holding us up.

One thin function per call; imports errors only. Growing a pipe is a wish: past `pipe-user-pages-soft` (64 pipes of 1 MiB
for the whole uid, pipe(7)) F_SETPIPE_SZ is EPERM and new pipes hold as little as one page. So capacity is read back.
"""

import _socket
import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct

from sandboxd.errors import KernelError
from sandboxd.kernel.libc import function

SPLICE_F_MOVE, SPLICE_F_NONBLOCK, SPLICE_F_MORE = 1, 2, 4
SIOCOUTQ = 0x5411  # tcp(7): bytes sent and not yet acknowledged
SO_NETNS_COOKIE = 71
TCP_CLOSE = 7  # include/net/tcp_states.h
LINGER_OFF = struct.pack("ii", 0, 0)
LINGER_RESET = struct.pack("ii", 1, 0)
NOWHERE = bytes(16)  # a sockaddr of AF_UNSPEC

_connect = function("connect", ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)


def make_pipe(size: int) -> tuple[int, int, int]:
    """(read end, write end, capacity in bytes) of a pipe grown towards `size`; raises KernelError."""
    try:
        read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise KernelError(error.errno or 0, "pipe2") from error
    try:
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, size)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EBUSY, errno.ENOMEM):
            os.close(read_end)
            os.close(write_end)
            raise KernelError(error.errno or 0, "fcntl", "F_SETPIPE_SZ") from error
    return read_end, write_end, fcntl.fcntl(write_end, fcntl.F_GETPIPE_SZ)


def unacknowledged(sock: _socket.socket) -> int:
    """Bytes that the peer's kernel has not confirmed; 0 when the connection is gone."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(sock, SIOCOUTQ, b"\0\0\0\0"))[0])
    except OSError:
        return 0


def reset_on_close(sock: _socket.socket) -> None:
    """Make close(2) send a reset instead of a FIN (socket(7), SO_LINGER with a time of zero)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)


def stay_local(sock: _socket.socket) -> None:
    """Keep a socket, or all that a listener accepts, from pacing: its peer is on this host, where no packet is lost or queued.

    BBR, where a host has it for its ways out, sets a timer for each few segments on loopback as well: a third of a download's
    rate (measured). tcp(7): Reno is always there; where it may not be chosen, the host's own stays.
    """
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")


def renew(sock: _socket.socket) -> bool:
    """Whether a socket whose connection both sides have ended is now as if it had never been connected.

    connect(2): AF_UNSPEC dissolves the association. Only from TCP_CLOSE, where no packet, least of all a reset, comes of it.
    """
    try:
        if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != TCP_CLOSE:
            return False
    except OSError:
        return False
    return _connect(sock.fileno(), NOWHERE, len(NOWHERE)) == 0


def is_fresh_tcp(sock: _socket.socket, family: int, cookie: int) -> bool:
    """Whether a received descriptor is an unconnected TCP socket of that family, born in that netns (0: any)."""
    get = sock.getsockopt
    try:
        return (
            get(socket.SOL_SOCKET, socket.SO_DOMAIN) == family
            and get(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
            and get(socket.SOL_SOCKET, socket.SO_PROTOCOL) == socket.IPPROTO_TCP
            and get(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == TCP_CLOSE
            and (not cookie or struct.unpack("=Q", get(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8))[0] == cookie)
        )
    except (OSError, struct.error):
        return False


def tame(sock: _socket.socket) -> None:
    """Undo what was set before the socket was handed over to hold us up, and what is of no use in there; raises OSError.

    O_NONBLOCK lives in the open file description, so whoever kept a duplicate can clear it again at any time: it is no more
    than what honest peers need, and calls that can say MSG_DONTWAIT do.
    """
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_OFF)
    stay_local(sock)
