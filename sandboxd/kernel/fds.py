"""Descriptors: passing them over Unix sockets (the one place that receives them) and closing all but a few.

Imports `errors` and `kernel.libc`. Invariant: a received descriptor is close-on-exec from its first moment, and none is left
open by a failure. `socket.recv_fds` is not used: on 3.11 it ignores its flags, so what it returns is inherited by every exec.
"""

import _socket
import ctypes
import errno
import os
import resource
import struct

from sandboxd.errors import KernelError, ProtocolViolation
from sandboxd.kernel.libc import check, syscall

SCM_MAX_FD = 253  # include/net/scm.h: the most descriptors one message can carry
LAST = 0xFFFFFFFF
# `_socket`, here and in all that an init carries: the `socket` around it brings enums, and runs them at each use of a flag.
CLOEXEC, NOSIGNAL, CTRUNC = _socket.MSG_CMSG_CLOEXEC, _socket.MSG_NOSIGNAL, _socket.MSG_CTRUNC

INT = struct.Struct("i")
OUT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_close_range = syscall(436, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint)


def ran_out(error: BaseException) -> bool:
    """Whether there was no descriptor or no memory left for something: no fault of the other side's, and it passes."""
    return isinstance(error, OSError) and error.errno in OUT


class CutOff(OSError):
    """A message came, and the descriptors that were with it did not: this process has no room for them. `data` is the message,
    which a stream would miss."""

    def __init__(self, data: bytes = b"") -> None:
        super().__init__(errno.EMFILE, os.strerror(errno.EMFILE))
        self.data = data

    def in_words(self) -> KernelError:
        """As what a user is told."""
        return KernelError(errno.EMFILE, "recvmsg", hint="raise the limit on open files (`ulimit -n`, LimitNOFILE=)")


def recv(sock: _socket.socket, size: int, *, max_fds: int = SCM_MAX_FD, flags: int = 0) -> tuple[bytes, list[int]]:
    """Up to `size` bytes and the descriptors that came along; b"" is the end. Over `max_fds`: ProtocolViolation, all closed.

    Blocks, or raises BlockingIOError, as the socket is set; `flags` are added (MSG_DONTWAIT). Raises CutOff, none left open.
    """
    data, ancillary, message_flags, _ = sock.recvmsg(size, _socket.CMSG_SPACE(4 * max_fds) if max_fds else 0, CLOEXEC | flags)
    fds: list[int] = []
    for level, kind, content in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            fds.extend(fd for (fd,) in INT.iter_unpack(content[: len(content) - len(content) % INT.size]))
    # CMSG_SPACE rounds up to 8 bytes, so one descriptor over an odd count fits without MSG_CTRUNC.
    if message_flags & CTRUNC or len(fds) > max_fds:
        close_all(fds)
        if len(fds) < max_fds:  # there was room for more: net/core/scm.c stops at the first that the process cannot take
            raise CutOff(data)
        raise ProtocolViolation(f"the peer sent more than {max_fds} descriptors in one message")
    return data, fds


def send(sock: _socket.socket, data: bytes | memoryview, fds: list[int] | tuple[int, ...] = (), *, flags: int = 0) -> int:
    """Send with the descriptors on the first byte; returns how many bytes went. SIGPIPE never comes of it."""
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
    return sock.sendmsg([data], ancillary, NOSIGNAL | flags)


def close_all(fds: list[int]) -> None:
    """Close each, whatever happens to the others."""
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            continue  # close(2) frees the descriptor even where it reports an error; it must not be tried again


def dup_all(fds: list[int]) -> list[int]:
    """A copy of each, or of none; raises OSError."""
    made: list[int] = []
    try:
        for fd in fds:
            made.append(os.dup(fd))
    except OSError:
        close_all(made)
        raise
    return made


def close_range(first: int, last: int = LAST) -> None:
    """close_range(2): close every descriptor from first to last, whoever opened it."""
    check(_close_range(first, last, 0), "close_range")


def keep_only(keep: list[int]) -> None:
    """Close every descriptor that is not listed; a forked child that never execs is not helped by close-on-exec."""
    first = 0
    for fd in sorted(set(keep)):
        if fd > first:
            close_range(first, fd - 1)
        first = fd + 1
    close_range(first)


def raise_limit() -> int:
    """Take as many descriptors as the system gives; returns how many.

    For those in flight too: the kernel holds a sender's own limit against what its user has in flight (unix(7)), so one env
    that fills its limit would keep everybody with a lower one from passing any (seen: ETOOMANYREFS in daemon, init, router).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = hard if hard != resource.RLIM_INFINITY else 1 << 20
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most
