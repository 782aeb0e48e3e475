"""Unix sockets of the host that lead to the router or to one port of an env: bound for their owner alone, removed after.

A path is bound as the owner (effective uid) and never changed afterwards, so that a system daemon makes no file where the
owner could not, and gives none away by a name that was swapped meanwhile. What lies there already is replaced only if it is a
socket nobody serves. Who connects is known by SO_PEERCRED. Imports nothing of the router's.
"""

import _socket
import contextlib
import errno
import os
import socket
import stat
import struct
from collections.abc import Iterator

PREFIX = "unix:"
LONGEST = 107  # sun_path, with its NUL (unix(7))
PEER = "unknown"  # what a Unix socket's client is called in Forwarded (RFC 7239 6.2); its number is a pid


def path_of(address: str) -> str | None:
    """The path of `unix:/PATH`, None for what is no Unix socket."""
    return address.removeprefix(PREFIX) if address.startswith(PREFIX) else None


def bind(path: str, owner: int = -1, mode: int = 0o600, backlog: int = 4096) -> socket.socket:
    """A listening socket at that path, of that owner (-1: ourselves); raises OSError."""
    if len(os.fsencode(path)) > LONGEST:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with acting_as(owner):
            if is_stale(path):
                os.unlink(path)
            before = os.umask(0o777 & ~mode)
            try:
                sock.bind(path)
            finally:
                os.umask(before)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def is_stale(path: str) -> bool:
    """Whether a socket is there that nobody serves; raises EADDRINUSE for what is served, EEXIST for what is no socket."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except BlockingIOError:
            pass  # its queue is full: somebody listens
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE), path)


def identity(path: str) -> tuple[int, int] | None:
    """By which a file is known again: device and inode."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def remove(path: str, known: tuple[int, int] | None, owner: int = -1) -> None:
    """Take the file away, if it is still the one that was bound."""
    if known is None or identity(path) != known:
        return
    with contextlib.suppress(OSError), acting_as(owner):
        os.unlink(path)


class Files:
    """The files of listening Unix sockets, so that each is removed with its listener, and no other in its place."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, int] | None, int]] = {}

    def note(self, sock: socket.socket, owner: int = -1) -> None:
        """It was just bound, or handed over by who bound it."""
        if sock.family == socket.AF_UNIX:
            path = sock.getsockname()
            self._known.setdefault(path, (identity(path), owner))

    def forget(self, sock: socket.socket) -> None:
        """It is about to be closed for good."""
        if sock.family == socket.AF_UNIX:
            path = sock.getsockname()
            remove(path, *self._known.pop(path, (None, -1)))


def peer(sock: _socket.socket) -> tuple[int, int]:
    """Pid and uid of who connected."""
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, uid


@contextlib.contextmanager
def acting_as(owner: int) -> Iterator[None]:
    """With the file rights of that uid, where we are root and it is not; the process has one thread."""
    ours = os.geteuid()
    if ours or owner in (-1, 0):
        yield
        return
    os.seteuid(owner)
    try:
        yield
    finally:
        os.seteuid(ours)
