"""The stager: second process of a parked child. It builds the env's view of files, says so to pid 1, and ends.

Imports the standard library, `errors`, `kernel` and `launch`. Mounts and pivot_root(2) act on the namespace, and on pid 1's
root with it. So all that building the view writes to is gone with this process, where pid 1 would keep it for life, and pid 1
raises its own walls and gets the first program ready meanwhile, on another core. It has steps of the phases before
PRIVILEGES only; what acts on one process is pid 1's, and all that it starts inherits that. Nothing of the env runs before the
view stands, since nobody but pid 1 could start it, who waits. It is not dumpable.

It does not become the first program itself: an exec takes a process of this size down first, which takes longer than the
whole vfork and exec of pid 1 does (measured: 1.1 ms against 0.7).
"""

from __future__ import annotations

import _socket
import os
import select

from sandboxd.errors import KernelError
from sandboxd.kernel import fds, namespaces, titles
from sandboxd.launch import plain, talk, walls
from sandboxd.launch.apply import Stage, StepFailed, apply, aside, go_home, leave_last, rehearse

PATIENCE = 0.02  # seconds for which the stagehand is kept from others
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sandboxd.kernel import beside

    Work = Sequence[list[list[object]]]

SAMPLE = {"steps": [["bind", "/a", "/a", True]], "fds": [["handed"]]}


class Lent:
    """What a stager has that is one of the stagehand's. leave_behind: see there."""

    __slots__ = ("here", "leave_behind")

    def __init__(self, here: beside.Beside, leave_behind: Callable[[], bool]) -> None:
        self.here = here
        self.leave_behind = leave_behind


def live(line: _socket.socket, bridge: _socket.socket, base: bytes, work: Work = ([], []), lent: Lent | None = None) -> int:
    """Build the base, wait for the plan, apply it, say so over the bridge; the exit status. work: pid 1's network, and what it
    is to do ahead, of which it leaves us what is the network's."""
    try:
        stage = Stage()
        given = plain.decode(base)
        if lent is not None or select.select([line], [], [], 0)[0]:
            steps = at_once(stage, line, given, work, lent)
        else:
            steps = in_the_park(stage, line, bridge, given)
        if steps is None:
            return 0
        apply(stage, "steps", steps)
        if stage.host != -1 or stage.handed or stage.picked:
            raise KernelError(0, "the stager", "has not let go of the host's tree")
        if has_listeners(work[1]):
            walls.share_ways(stage, bridge)
        walls.share(stage, bridge)
        leave_last(stage, given)
        walls.tell_left(bridge)
    except StepFailed as failed:
        talk.send(line, {"failed": failed.which, "index": failed.index, **talk.in_words(failed.__cause__)})
        return 1
    except Exception as error:  # whatever can be wrong with a plan
        talk.send(line, {"failed": "plan", "index": -1, **talk.in_words(error)})
        return 1
    return 0


def at_once(stage: Stage, line: _socket.socket, base: list, work: Work, lent: Lent | None) -> list | None:  # type: ignore[type-arg]
    """The plan is there, or will be in a moment: what it shows of the host is picked up below the base, where the host's tree
    is until the end. Its steps, once the base stands."""
    stage.host = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    stage.is_awaited = True
    stage.here = lent.here if lent is not None else None
    apply(stage, "base", base)
    apply(stage, "network", work[0])
    apply(stage, "ahead", work[1], only="listen")
    if lent is not None and not select.select([line], [], [], PATIENCE)[0]:
        if not lent.leave_behind():
            return None
        talk.send(line, {"parked": True})
    frame = talk.receive(line)
    if frame is None:
        return None
    plan, stage.handed = frame
    apply(stage, "steps", plan["steps"], only_pick=True)
    os.close(stage.host)
    stage.host = -1
    return plan["steps"]  # type: ignore[no-any-return]


def has_listeners(ahead: Sequence[Sequence[object]]) -> bool:
    """Whether pid 1 is to listen for what goes out, which the stagehand does for it."""
    return any(step[0] == "listen" for step in ahead)


def in_the_park(stage: Stage, line: _socket.socket, bridge: _socket.socket, base: list) -> list | None:  # type: ignore[type-arg]
    """The base, and then the plan, whenever that comes: what it shows is picked up in a copy of the host's tree."""
    host, root = aside(stage)
    apply(stage, "base", base)
    first = max(line.fileno(), bridge.fileno(), stage.home, host, root, stage.root, stage.ruleset) + 1
    talk.send(line, {"parked": True})
    if not select.select([line], [], [], 0)[0]:
        rehearse_all(stage, first)
    # It stays open until our end: with the last descriptor goes the copy, and that is a wait for other cores.
    namespaces.join_mounts(host)
    stage.host = root
    frame = talk.receive(line)
    if frame is None:
        return None
    plan, stage.handed = frame
    apply(stage, "steps", plan["steps"], only_pick=True)
    go_home(stage)
    return plan["steps"]  # type: ignore[no-any-return]


def rehearse_all(stage: Stage, first: int) -> None:
    """Nobody waits: fault in what the plan will touch (see `apply.rehearse`). first: from it on, descriptors are its own."""
    rehearse(stage)
    titles.set_title(talk.PARKED)
    talk.decode(plain.encode(SAMPLE))
    fds.close_range(first)
