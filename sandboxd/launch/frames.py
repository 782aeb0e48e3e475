"""Frames between the daemon and pid 1 of an env: 4 bytes of length (little endian), JSON, and descriptors riding along.

Both ends use it (init.sock is a SOCK_STREAM unix socket), so it imports what pid 1 may: os, `_socket`, `plain`, kernel.fds. A
frame names its descriptors in order under "fds"; they travel with its first byte. Everything is capped before it is parsed,
either end may be hostile to the other, and each descriptor has one owner at any time: the box it lies in, then its taker.
"""

from __future__ import annotations

import _socket
import os

from sandboxd.errors import ProtocolViolation, SandboxdError, by_code
from sandboxd.kernel.fds import CutOff, close_all, recv, send
from sandboxd.launch import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Message = dict[str, Any]

VERSION = 2  # see versions
DONTWAIT = _socket.MSG_DONTWAIT
FRAME_LIMIT = 1 << 20
FDS_LIMIT = 16
WORDS_LIMIT = 1000
ERRNO_MOST = 4095  # include/linux/err.h
CHUNK = 1 << 16


def encode(message: Message) -> bytes:
    """A message as a frame; raises ProtocolViolation when it is over the cap."""
    body = plain.encode(message)
    if len(body) > FRAME_LIMIT:
        raise ProtocolViolation(f"a frame of {len(body)} bytes is over the cap of {FRAME_LIMIT}")
    return len(body).to_bytes(4, "little") + body


def decode(body: bytes | bytearray) -> Message:
    """A frame's body as a message; raises ProtocolViolation."""
    try:
        message = plain.decode(body)
    except (ValueError, RecursionError) as error:
        raise ProtocolViolation(f"a frame that is no JSON: {type(error).__name__}") from None
    if not isinstance(message, dict):
        raise ProtocolViolation("a frame that is no JSON object")
    return message


def error_to(error: SandboxdError) -> Message:
    """An error as plain data; what it quotes may be as long as a command line, so words are cut."""
    details = {key: value[:WORDS_LIMIT] if isinstance(value, str) else value for key, value in error.details.items()}
    return {
        "code": error.code,
        "message": error.message[:WORDS_LIMIT],
        "hint": error.hint[:WORDS_LIMIT],
        "details": details,
    }


def as_text(value: object) -> str:
    """What a peer sent as text: cut, and with no half of a surrogate pair, which JSON lets through and UTF-8 cannot carry."""
    return str(value)[:WORDS_LIMIT].encode("utf-8", "replace").decode()


def error_from(data: Message) -> SandboxdError:
    """The error that `error_to` wrote, of its own class where this version knows it; raises ProtocolViolation."""
    try:
        code, message, hint = (as_text(data[key]) for key in ("code", "message", "hint"))
        details = dict(data["details"])
        found = by_code().get(code, SandboxdError)
        details = {str(key): value for key, value in details.items() if key not in ("message", "hint", "self")}
        made = found.__new__(found)  # KernelError takes other arguments, but its fields are the same
        SandboxdError.__init__(made, message, hint=hint, **details)
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolViolation(f"an error that is none: {error!r}") from None
    if isinstance(made, OSError):
        number = details.get("errno")
        made.errno = number if isinstance(number, int) and 0 <= number <= ERRNO_MOST else 0
        made.strerror = os.strerror(made.errno)
    return made


class Inbox:
    """What came in on one connection and is not taken yet. cut: descriptors came for which this process had no room; the frame
    that names them is taken without."""

    __slots__ = ("buffer", "cut", "fds", "sock")

    def __init__(self, sock: _socket.socket) -> None:
        self.sock = sock
        self.buffer = bytearray()
        self.fds: list[int] = []
        self.cut = False

    def pull(self) -> bool:
        """Receive once; False at end of file. Raises BlockingIOError, OSError, ProtocolViolation."""
        was_cut = self.cut
        try:
            data, fds = recv(self.sock, CHUNK, max_fds=FDS_LIMIT, flags=DONTWAIT)
        except CutOff as error:
            data, fds, self.cut = error.data, [], True
        self.fds += fds
        self.buffer += data
        if len(self.fds) > FDS_LIMIT or (was_cut and fds):  # whose the later ones are cannot be told any more
            raise ProtocolViolation("more descriptors than frames name")
        return bool(data)

    def frames(self) -> Iterator[tuple[Message, dict[str, int]]]:
        """Each whole frame with its descriptors by name, which are the taker's then; raises ProtocolViolation."""
        while len(self.buffer) >= 4:
            length = int.from_bytes(self.buffer[:4], "little")
            if length > FRAME_LIMIT:
                raise ProtocolViolation(f"a frame of {length} bytes is over the cap of {FRAME_LIMIT}")
            if len(self.buffer) < 4 + length:
                return
            body = self.buffer[4 : 4 + length]
            del self.buffer[: 4 + length]
            message = decode(body)
            yield message, self.take(message.get("fds", []))
        if not self.buffer and (self.fds or self.cut):
            raise ProtocolViolation("descriptors that no frame names")

    def take(self, names: object) -> dict[str, int]:
        """The oldest descriptors under these names; none where they were cut off."""
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
            raise ProtocolViolation("`fds` is a list of different names")
        if len(names) > len(self.fds) and self.cut:
            self.cut = False
            return {}
        if len(names) > len(self.fds):
            raise ProtocolViolation("a frame names descriptors that did not come")
        taken, self.fds = self.fds[: len(names)], self.fds[len(names) :]
        return dict(zip(names, taken, strict=True))

    def close(self) -> None:
        """Close what nobody took."""
        fds, self.fds = self.fds, []
        close_all(fds)
        self.buffer.clear()


class Parcel:
    """A frame on its way; `lost` is called if it never leaves."""

    __slots__ = ("data", "fds", "lost")

    def __init__(self, data: bytes, fds: list[int], lost: Callable[[], None] | None) -> None:
        self.data = data
        self.fds = fds
        self.lost = lost


class Outbox:
    """What goes out on one connection; it owns the descriptors put in."""

    __slots__ = ("queue", "size", "sock")

    def __init__(self, sock: _socket.socket) -> None:
        self.sock = sock
        self.queue: list[Parcel] = []
        self.size = 0

    def put(self, frame: bytes, fds: list[int] | None = None, lost: Callable[[], None] | None = None) -> None:
        """Queue a frame and its descriptors."""
        self.queue.append(Parcel(frame, fds or [], lost))
        self.size += len(frame)

    def flush(self) -> bool:
        """Send what the kernel takes without waiting; True when nothing is left. Raises OSError when the peer is gone."""
        while self.queue:
            parcel = self.queue[0]
            try:
                sent = send(self.sock, parcel.data, parcel.fds, flags=DONTWAIT)
            except BlockingIOError:
                return False
            fds, parcel.fds = parcel.fds, []  # they went with the first byte
            close_all(fds)
            self.size -= sent
            parcel.data = parcel.data[sent:]
            if not parcel.data:
                self.queue.pop(0)
        return True

    def close(self) -> None:
        """Give up on what is left; a parcel of which nothing went is lost."""
        queue, self.queue, self.size = self.queue, [], 0
        for parcel in queue:
            close_all(parcel.fds)
            if parcel.lost is not None:
                parcel.lost()
