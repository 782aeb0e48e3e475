"""The child of one clone3: makes the stager beside it, waits for its config, and becomes the env's init, pid 1.

Imports the standard library, `errors`, `kernel` and `launch`; nothing is imported after the fork. It is a fork that never
execs: its first act is to close every descriptor but its own sockets and stdio, since close-on-exec protects nothing here and
a sibling's socket kept open would keep that sibling alive. It leaves by os._exit only. The end of its socket is the end of a
parked child: so it goes, and the stager with it, when the daemon does, however that dies. It does as little as it can: each
page it writes to stays with the env for life, whereas those of the stager go with its exec.
"""

from __future__ import annotations

import _socket
import os
import select

from sandboxd.errors import SandboxdError
from sandboxd.kernel import capabilities, fds, namespaces, signals, titles
from sandboxd.launch import stager, talk, walls
from sandboxd.launch.apply import Stage, StepFailed, apply, bounding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sandboxd.launch.launcher import Order

INIT, STAGER = 3, 4  # the descriptors of the sockets of each
GO = b"g"


def main(socks: list[int], order: Order, run_init) -> None:  # type: ignore[no-untyped-def]
    """Everything from the first instruction after clone3 on; never returns. socks: pid 1's, the stager's; above 4."""
    status = 1
    try:
        os.dup2(socks[0], INIT, inheritable=False)
        os.dup2(socks[1], STAGER, inheritable=False)
        fds.close_range(STAGER + 1)
        signals.block_child()
        bridge = stager.Bridge()
        pid, process = namespaces.clone3(0)
        if pid == 0:
            status = be_stager(bridge, order)
        else:
            os.close(process)
            os.close(STAGER)
            fds.close_all([*bridge.of_stager()])
            status = be_init(bridge, pid, order, run_init)
    except BaseException as error:  # the last line of a process that must not return into the launcher's loop
        talk.tell(f"sandboxd child: {error!r}\n")
    finally:
        os._exit(status)


def be_stager(bridge: stager.Bridge, order: Order) -> int:
    """The second process; an exit status where it does not come to a program."""
    os.close(INIT)
    fds.close_all([*bridge.of_init()])
    line = _socket.socket(fileno=STAGER)
    if not drop(line, order):
        return 0
    return stager.live(line, bridge, order.base)


def be_init(bridge: stager.Bridge, pid: int, order: Order, run_init) -> int:  # type: ignore[no-untyped-def]
    """Wait behind the walls of the base for the config, raise the rest, become init; an exit status otherwise."""
    line = _socket.socket(fileno=INIT)
    try:
        if not drop(line, order):
            return 0
        os.setsid()
        bounding(Stage())  # the one step of the base that acts on one process
        titles.set_title(stager.PARKED)
        frame = talk.receive(line)
        if frame is None:
            return 0
        plan, received = frame
        titles.set_title(plan["title"])
        stage = Stage()
        stage.bridge = _socket.socket(fileno=bridge.view[0])
        apply(stage, "steps", plan["steps"])
        found = named(plan["fds"], received)
        found["staged"] = staged(plan["first"], bridge, pid)
        config = plan["config"]
    except StepFailed as failed:
        talk.send(line, {"failed": "init", "index": failed.index, **talk.in_words(failed.__cause__)})
        return 1
    except (OSError, SandboxdError, ValueError, KeyError, TypeError, IndexError) as error:
        talk.send(line, {"failed": "plan", "index": -1, **talk.in_words(error)})
        return 1
    walls.forget(stage)
    os.write(bridge.word[1], GO)
    os.close(bridge.word[1])
    line.close()
    if config["start"] != [plan["first"]]:  # what pid 1 starts itself must find the view whole
        select.select([bridge.report[0]], [], [])
    run_init(config, found)
    return 0


def drop(line: _socket.socket, order: Order) -> bool:
    """Become who the env runs as, before any path is resolved; False when the launcher has gone before."""
    if talk.hear(line, 1)[0] != GO:  # the id maps are written only now
        return False
    uid, gid = order.uid[0], order.gid[0]
    if order.drop:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    capabilities.set_dumpable(False)  # after the maps, which a non-dumpable child's parent could not write, and after setresuid
    os.umask(0o022)
    return True


def staged(first: str | None, bridge: stager.Bridge, pid: int) -> dict[str, Any]:
    """The stager as init takes it: the service that it becomes or None, its pid, our ends of its pipes."""
    return {
        "service": first,
        "pid": pid,
        "stdin": bridge.stdin[1],
        "stdout": bridge.stdout[0],
        "stderr": bridge.stderr[0],
        "report": bridge.report[0],
    }


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
