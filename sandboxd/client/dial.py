"""A connected socket to the daemon: found by settings, checked to be ours, and started when there is none.

Shared by both colours of the client, as is `receive`. Nothing is imported for the start before it is needed: most commands
find a daemon.
"""

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

from sandboxd.client.hosts import Remote, chosen
from sandboxd.client.session import DESCRIPTORS, unreachable
from sandboxd.errors import DaemonUnreachable, PermissionDenied
from sandboxd.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

READ_SIZE = 64 << 10
SUN_PATH = 107  # unix(7): 108 bytes with the NUL
CONNECT_SECONDS = 10  # a connect waits only while the listener's backlog is full


class Daemon:
    """Where the daemon is. autostart: start one when none answers, unless somebody chose another's socket. host: a box.
    here: never a box, whatever the environment says."""

    def __init__(self, path: "Path | None", *, autostart: bool, host: str = "", here: bool = False) -> None:
        self._settings = Settings.from_environ(os.environ, os.geteuid())
        found = str(path or "") if here or path is not None else chosen(os.environ, host)
        self.remote = found if isinstance(found, Remote) else None
        self.path = found if isinstance(found, str) and found else self._settings.control
        # SANDBOXD_SOCKET names a daemon that somebody else runs: one started here would not be that one.
        self.autostart = autostart and self.path == f"{self._settings.runtime}/control.sock"

    def connect(self) -> socket.socket:
        """A connected blocking socket; raises DaemonUnreachable, PermissionDenied, or what the daemon's start ended with."""
        if self.remote is not None:
            from sandboxd.client.remote import dial  # noqa: PLC0415 - most are here

            return dial(self.remote, os.environ)
        sock = connect(self.path)
        if sock is not None:
            return sock
        if not self.autostart:
            raise unreachable(self.path, "nothing listens there")
        from sandboxd.client.autostart import start  # noqa: PLC0415 - most find a daemon

        return start(self._settings)

    def connect_at_once(self) -> socket.socket | None:
        """The same where it takes no time; None: it does, or fails, and `connect` would say which."""
        try:
            return connect(self.path, wait=0) if self.remote is None else None
        except DaemonUnreachable:
            return None


def connect(path: str, *, wait: int = CONNECT_SECONDS) -> socket.socket | None:
    """A socket connected to the daemon at path; None: nothing listens there. Raises DaemonUnreachable, PermissionDenied."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        # A timeout of Python's makes the socket non-blocking, and connect then gives EAGAIN at once where it has to wait.
        sock.setblocking(wait > 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(wait), 0))
        _connect(sock, path)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 0))
        # struct ucred of unix(7); here: who called listen()
        _, uid, _ = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in (0, os.geteuid()):
            raise PermissionDenied(
                f"{path} is served by uid {uid}, which is neither root nor you",
                hint="somebody else made it: point SANDBOXD_SOCKET or XDG_RUNTIME_DIR at your own",
            )
        sock.setblocking(True)
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    except BlockingIOError:
        sock.close()
        raise unreachable(path, f"it took no connection for {wait} seconds; the daemon may be stuck") from None
    except OSError as error:
        sock.close()
        raise unreachable(path, error.strerror or str(error)) from error
    except BaseException:
        sock.close()
        raise
    return sock


def _connect(sock: socket.socket, path: str) -> None:
    if len(os.fsencode(path)) <= SUN_PATH:
        sock.connect(path)
        return
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    finally:
        os.close(directory)


def receive(sock: socket.socket) -> tuple[bytes, list[int]]:
    """What came, and the descriptors that came with it, the caller's to close; no bytes: the end. Raises DaemonUnreachable."""
    try:
        data, control, flags, _ = sock.recvmsg(READ_SIZE, socket.CMSG_SPACE(DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ECONNRESET, errno.EBADF):  # closed: by the daemon, or by another thread here
            return b"", []
        raise
    fds: list[int] = []
    for level, kind, content in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds += memoryview(content[: len(content) - len(content) % 4]).cast("i").tolist()
    if flags & socket.MSG_CTRUNC:
        for fd in fds:
            os.close(fd)
        raise DaemonUnreachable(
            "the session's descriptors did not arrive", hint="this process has too many open: see `ulimit -n`"
        )
    return data, fds
