"""The child of one clone3: parks behind its base walls, waits for a plan, applies it, and becomes the env's init.

Imports the standard library, `errors`, `kernel` and `launch`; nothing is imported after the fork. It is a fork that never
execs: its first act is to close every descriptor but its own socket and stdio, since close-on-exec protects nothing here and
a sibling's socket kept open would keep that sibling alive. It leaves by os._exit only. The end of its socket is the end of a
parked child: so it goes when the daemon does, however that dies.

Frames on its socket (client.py is the other end): 4 bytes of length, little endian, then JSON; descriptors ride on the first
bytes.
"""

import json
import os
import select
import socket

from sandboxd.errors import KernelError, ProtocolViolation, SandboxdError
from sandboxd.kernel import capabilities, fds, namespaces, signals, titles
from sandboxd.launch.apply import APPLY, Stage, rehearse

SOCKET = 3
FRAME_LIMIT = 4 << 20
MAX_FDS = 1024
CHUNK = 1 << 16
GO = b"g"
PARKED = "sandboxd-parked"
SAMPLE = {"title": "", "steps": [["bind", "/a", "/a", True]], "config": {"a": {"b": "c", "d": 1}}, "fds": [["log", "a"]]}


class StepFailed(Exception):
    """A step that could not be applied: `which` list, `index` in it; the cause is the OSError."""

    def __init__(self, which: str, index: int) -> None:
        super().__init__(which, index)
        self.which = which
        self.index = index


def main(sock: int, profile: dict, base: list, run_init) -> None:  # type: ignore[no-untyped-def, type-arg]
    """Everything from the first instruction after clone3 on; never returns."""
    status = 1
    try:
        os.dup2(sock, SOCKET, inheritable=False)
        fds.close_range(SOCKET + 1)
        signals.unblock_all()
        line = socket.socket(fileno=SOCKET)
        if hear(line, 1)[0] != GO:  # the id maps are written only now
            os._exit(0)
        status = live(line, profile, base, run_init)
    except BaseException as error:  # the last line of a process that must not return into the launcher's loop
        tell(f"sandboxd child: {error!r}\n")
    finally:
        os._exit(status)


def live(line: socket.socket, profile: dict, base: list, run_init) -> int:  # type: ignore[no-untyped-def, type-arg]
    """Park, wait, apply, become init; the exit status where it does not come to that."""
    try:
        stage = park(profile, base)
        send(line, {"parked": True, "netns_cookie": namespaces.netns_cookie()})
        if not select.select([line], [], [], 0)[0]:
            rehearse_all(stage)
        frame = receive(line)
        if frame is None:
            return 0
        plan, received = frame
        run(stage, plan, received)
    except StepFailed as failed:
        send(line, {"failed": failed.which, "index": failed.index, **in_words(failed.__cause__)})
        return 1
    except (OSError, SandboxdError, ValueError, KeyError, TypeError, IndexError) as error:
        send(line, {"failed": "plan", "index": -1, **in_words(error)})
        return 1
    config, names = plan["config"], named(plan["fds"], received)
    send(line, {"launched": True})
    line.close()
    run_init(config, names)
    return 0


def park(profile: dict, base: list) -> Stage:  # type: ignore[type-arg]
    """Become who the env runs as, before any path is resolved, and build what does not depend on a plan."""
    uid, gid = profile["uid"][0], profile["gid"][0]
    if profile["drop"]:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    capabilities.set_dumpable(False)  # after the maps, which a non-dumpable child's parent could not write, and after setresuid
    os.setsid()
    os.umask(0o022)
    stage = Stage()
    apply(stage, "base", base)
    stage.first = max(SOCKET, stage.host, stage.root) + 1
    return stage


def rehearse_all(stage: Stage) -> None:
    """Nobody waits: fault in what the plan will touch (see `apply.rehearse`)."""
    rehearse(stage)
    titles.set_title(PARKED)
    decode(json.dumps(SAMPLE).encode())
    named([["log", "a"], ["attach", "a", "stdin"], ["exits"]], [0, 0, 0])
    fds.close_range(stage.first)


def run(stage: Stage, plan: dict, received: list) -> None:  # type: ignore[type-arg]
    """Apply the plan's own steps."""
    stage.first = max([stage.first, *[fd + 1 for fd in received]])
    stage.handed = [fd for name, fd in zip(plan["fds"], received, strict=True) if name[0] == "handed"]
    titles.set_title(plan["title"])
    apply(stage, "steps", plan["steps"])


def apply(stage: Stage, which: str, steps: list) -> None:  # type: ignore[type-arg]
    """Each step in turn; StepFailed says which one could not be done."""
    for index, (tag, *arguments) in enumerate(steps):
        try:
            APPLY[tag](stage, *arguments)  # type: ignore[operator]
        except (OSError, SandboxdError, ValueError, KeyError, TypeError) as error:
            raise StepFailed(which, index) from error


def in_words(error: BaseException | None) -> dict[str, object]:
    """An error as plain data."""
    number = error.errno if isinstance(error, OSError) else 0
    message = str(error) if isinstance(error, SandboxdError | OSError) else f"{type(error).__name__}: {error}"
    return {"errno": number or 0, "message": message, "hint": error.hint if isinstance(error, KernelError) else ""}


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
            case [single] if single != "handed":
                found[single] = fd
    return found


def send(line: socket.socket, message: dict) -> None:  # type: ignore[type-arg]
    """One frame; a peer that is gone is not told, and the next `receive` is the end."""
    body = json.dumps(message).encode()
    try:
        line.sendall(len(body).to_bytes(4, "little") + body)
    except OSError:
        if "failed" in message:
            tell(f"sandboxd child: nobody to tell {message}\n")


def receive(line: socket.socket) -> tuple[dict, list[int]] | None:  # type: ignore[type-arg]
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


def hear(line: socket.socket, size: int) -> tuple[bytes, list[int]]:
    """Receive; a reset is an end too: it is how the socket of a peer ends that died with something of ours unread (unix(7))."""
    try:
        return fds.recv(line, size)
    except ConnectionResetError:
        return b"", []


def decode(body: bytes | bytearray) -> dict:  # type: ignore[type-arg]
    """A plan; raises ProtocolViolation."""
    plan = json.loads(body.decode())
    if not isinstance(plan, dict) or not isinstance(plan.get("fds"), list):
        raise ProtocolViolation("a plan that is no object with `fds`")
    return plan


def tell(text: str) -> None:
    """A line to the launcher's log, without any buffer."""
    try:
        os.write(2, text.encode("utf-8", "replace"))
    except OSError:
        return  # nowhere to say it
