"""An env's two sockets on the daemon's side: bound for init to inherit, and connected to.

Imports the standard library and `errors`. They lie in the env's directory; where its path is longer than what a socket's
address takes, each is reached by a descriptor of that directory. None is left open by a failure.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sandboxd.errors import NotFound

ADDRESS, NAME = 108, 16  # bytes: of sun_path (unix(7)), and of it for a name in the directory


class InitSockets(NamedTuple):
    """Listening sockets for init to inherit; the daemon closes its copies once init has them."""

    control: socket.socket
    dial: socket.socket

    def close(self) -> None:
        """Close both."""
        self.control.close()
        self.dial.close()


def bind_sockets(env_dir: Path) -> InitSockets:
    """Listen on env_dir/init.sock and env_dir/dial.sock, replacing what an earlier init left; raises OSError."""
    control = listen(env_dir, "init.sock", socket.SOCK_STREAM)
    try:
        return InitSockets(control, listen(env_dir, "dial.sock", socket.SOCK_SEQPACKET))
    except BaseException:
        control.close()
        raise


def listen(directory: Path, name: str, kind: socket.SocketKind) -> socket.socket:
    """A listening socket; its path may be longer than sun_path's 108 bytes, so it goes by the directory's descriptor."""
    sock = socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        (directory / name).unlink(missing_ok=True)
        with opened(directory) as folder:
            sock.bind(f"{folder}/{name}")
        sock.listen(64)
    except BaseException:
        sock.close()
        raise
    return sock


def connect_to(directory: Path, name: str) -> socket.socket:
    """A connected stream socket; raises NotFound when nobody listens, BlockingIOError while its queue is full."""
    gone = NotFound(f"init does not answer on {directory / name}", hint="the env has ended")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # before the greeting is sent, so that it carries the sender
        with opened(directory) as folder:
            sock.connect(f"{folder}/{name}")
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        raise gone from None
    except BaseException:
        sock.close()
        raise
    return sock


@contextlib.contextmanager
def opened(directory: Path) -> Iterator[str]:
    """A path of a directory that is short enough, for the while."""
    if len(os.fsencode(directory)) < ADDRESS - NAME:
        yield str(directory)
        return
    folder = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}"
    finally:
        os.close(folder)
