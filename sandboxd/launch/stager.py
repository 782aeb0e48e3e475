"""The stager: second process of a parked child. It builds the env's view, and by exec becomes the env's first program.

Imports the standard library, `errors`, `kernel` and `launch`. Made beside pid 1 when the child is parked, so that with the
plan there is neither a fork nor a start of pid 1 between the last step and the exec, and so that all the pages that the steps
write to are gone with that exec, where pid 1 would keep them. Mounts and pivot_root(2) act on the namespace and on pid 1's
root with it; what acts on one process (`apply.OWN`) pid 1 does too. Nothing of the env runs before the walls of both stand:
the exec waits for pid 1's word on the bridge. Nor can anything of the env see the stager: there is nothing until it execs.
"""

import _socket
import os
import select

from sandboxd.errors import SandboxdError
from sandboxd.kernel import fds, namespaces, titles
from sandboxd.launch import plain, talk, walls
from sandboxd.launch.apply import Stage, StepFailed, apply, rehearse
from sandboxd.launch.program import Program, become, execute

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PARKED = "sandboxd-parked"
SAMPLE: "dict[str, Any]" = {"steps": [["bind", "/a", "/a", True]], "program": {"argv": ["/.none"]}, "fds": [["handed"]]}


class Bridge:
    """Pipes between pid 1 and the stager, (read, write): the first program's stdio, its report, and pid 1's word.

    view: sockets, pid 1's and the stager's: word that the view is whole, with the Landlock ruleset that both are to enter.

    Made before the stager is; each side closes the ends of the other.
    """

    __slots__ = ("report", "stderr", "stdin", "stdout", "view", "word")

    def __init__(self) -> None:
        self.stdin, self.stdout, self.stderr = (os.pipe2(os.O_CLOEXEC) for _ in range(3))
        self.report = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.word = os.pipe2(os.O_CLOEXEC)
        self.view = tuple(end.detach() for end in _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET))

    def of_init(self) -> tuple[int, ...]:
        """The ends that pid 1 keeps."""
        return self.stdin[1], self.stdout[0], self.stderr[0], self.report[0], self.word[1], self.view[0]

    def of_stager(self) -> tuple[int, ...]:
        """The ends that the stager keeps."""
        return self.stdin[0], self.stdout[1], self.stderr[1], self.report[1], self.word[0], self.view[1]


def live(line: _socket.socket, bridge: Bridge, base: bytes) -> int:
    """Build the base, wait for the plan, apply it, become the first program; an exit status where there is none."""
    try:
        stage = Stage()
        apply(stage, "base", plain.decode(base))
        stage.first = max(line.fileno(), stage.host, stage.root, stage.ruleset, *bridge.of_stager()) + 1
        talk.send(line, {"parked": True, "netns_cookie": namespaces.netns_cookie()})
        if not select.select([line], [], [], 0)[0]:
            rehearse_all(stage)
        frame = talk.receive(line)
        if frame is None:
            return 0
        plan, received = frame
        stage.first = max([stage.first, *[fd + 1 for fd in received]])
        stage.handed = received
        apply(stage, "steps", plan["steps"], own=False)
        walls.share(stage, bridge.view[1])
        apply(stage, "steps", plan["steps"], own=True)
        if not os.read(bridge.word[0], 1):
            return 1  # pid 1's own walls failed, which it says itself
    except StepFailed as failed:
        talk.send(line, {"failed": failed.which, "index": failed.index, **talk.in_words(failed.__cause__)})
        return 1
    except (OSError, SandboxdError, ValueError, KeyError, TypeError, IndexError) as error:
        talk.send(line, {"failed": "plan", "index": -1, **talk.in_words(error)})
        return 1
    talk.send(line, {"launched": True, "walls": stage.proven})
    if plan["program"] is not None:
        execute_first(Program(plan["program"]), bridge)
    return 0


def execute_first(program: Program, bridge: Bridge) -> None:
    """Become it; what keeps it from that goes to pid 1 as of any program."""
    stdin = bridge.stdin[0] if program.stdin else os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    become(program, (stdin, bridge.stdout[1], bridge.stderr[1]), bridge.report[1])


def rehearse_all(stage: Stage) -> None:
    """Nobody waits: fault in what the plan will touch (see `apply.rehearse`)."""
    rehearse(stage)
    titles.set_title(PARKED)
    try:
        execute(Program(talk.decode(plain.encode(SAMPLE))["program"]), {})
    except OSError:
        fds.close_range(stage.first)
