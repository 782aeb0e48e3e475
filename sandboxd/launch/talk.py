"""What launcher, parked children and the daemon say to each other: 4 bytes of length (little endian), JSON, descriptors.

Imports the standard library, `errors` and `kernel`. The children's end; the daemon's is line.py. Blocking, one frame at a
time; what arrives is capped before it is parsed, and descriptors that ride along have one owner at any time. Nothing here is
buffered: a forked child leaves by os._exit.
"""

import _socket
import os
import struct

from sandboxd.errors import KernelError, ProtocolViolation, SandboxdError, WallUnavailable
from sandboxd.kernel import fds
from sandboxd.launch import plain

FRAME_LIMIT = 4 << 20
MAX_FDS = 1024
CHUNK = 1 << 16
PARKED = "sandboxd-parked"
# Namespaces, network, root by name, whether somebody waits, uid inside and outside, gid inside and outside, length of the
# control group's path, of the JSON of what pid 1 does ahead; then these two, and the base's JSON.
ORDER = struct.Struct("<????4IHI")
# What the launcher writes to each of a child's sockets once its ids are mapped: whether there are privileges to be given up,
# who to be, and the length of the JSON that follows.
START = struct.Struct("<?III")


def send(line: _socket.socket, message: dict, given: list[int] | tuple[int, ...] = ()) -> None:  # type: ignore[type-arg]
    """One frame, a short one where descriptors go along. A peer that is gone is not told: it has left, or heard of a failure
    from the other of the two."""
    body = plain.encode(message)
    data = len(body).to_bytes(4, "little") + body
    try:
        if given:
            fds.send(line, data, given)
        else:
            line.sendall(data)
    except OSError:
        return


def receive(line: _socket.socket) -> tuple[dict, list[int]] | None:  # type: ignore[type-arg]
    """One frame and its descriptors; None at the end. Raises ProtocolViolation, with nothing left open."""
    data, received = bytearray(), []
    while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "little"):
        chunk, came = hear(line, CHUNK)
        received += came
        data += chunk
        if not chunk:
            fds.close_all(received)
            return None
        if len(received) > MAX_FDS or (len(data) >= 4 and int.from_bytes(data[:4], "little") > FRAME_LIMIT):
            fds.close_all(received)
            raise ProtocolViolation(f"a plan is over the cap of {FRAME_LIMIT} bytes or {MAX_FDS} descriptors")
    plan = decode(data[4:])
    if len(plan["fds"]) != len(received):
        raise ProtocolViolation("a plan that does not name its descriptors")
    return plan, received


def hear(line: _socket.socket, size: int) -> tuple[bytes, list[int]]:
    """Receive; a reset is an end too: it is how the socket of a peer ends that died with something of ours unread (unix(7))."""
    try:
        return fds.recv(line, size)
    except ConnectionResetError:
        return b"", []


def start(line: _socket.socket) -> tuple[bool, int, int, bytes] | None:
    """The launcher's word, and not a byte of what the daemon says after it; None when the launcher has gone before."""
    head = line.recv(START.size, _socket.MSG_WAITALL)
    if len(head) < START.size:
        return None
    drop, uid, gid, length = START.unpack(head)
    body = line.recv(length, _socket.MSG_WAITALL) if length else b""
    return (drop, uid, gid, body) if len(body) == length else None


def decode(body: bytes | bytearray) -> dict:  # type: ignore[type-arg]
    """A plan; raises ProtocolViolation."""
    plan = plain.decode(body)
    if not isinstance(plan, dict) or not isinstance(plan.get("fds"), list):
        raise ProtocolViolation("a plan that is no object with `fds`")
    return plan


def named(names: list, received: list) -> dict[str, object]:  # type: ignore[type-arg]
    """The received descriptors as init takes them."""
    logs: dict[str, list[int]] = {}
    attach: dict[str, dict[str, int]] = {}
    found: dict[str, object] = {"logs": logs, "attach": attach}
    for name, fd in zip(names, received, strict=True):
        match name:
            case ["log", service]:
                logs.setdefault(service, []).append(fd)
            case ["attach", service, stream]:
                attach.setdefault(service, {})[stream] = fd
            case [single]:
                found[single] = fd
    return found


def in_words(error: BaseException | None) -> dict[str, object]:
    """An error as plain data."""
    number = error.errno if isinstance(error, OSError) else 0
    message = str(error) if isinstance(error, SandboxdError | OSError) else f"{type(error).__name__}: {error}"
    return {
        "errno": number or 0,
        "message": message,
        "hint": error.hint if isinstance(error, KernelError) else "",
        **of_wall(error),
    }


def of_wall(error: BaseException | None) -> dict[str, object]:
    """Which wall does not hold, and what was seen."""
    return {"wall": error.details["wall"], "reason": error.details["reason"]} if isinstance(error, WallUnavailable) else {}


def tell(text: str) -> None:
    """A line to the launcher's log, without any buffer."""
    try:
        os.write(2, text.encode("utf-8", "replace"))
    except OSError:
        return  # nowhere to say it
