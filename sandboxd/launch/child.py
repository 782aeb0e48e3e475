"""The child of one clone3: makes the stager beside it, waits for its config, and becomes the env's init, pid 1.

Imports the standard library, `errors`, `kernel` and `launch`; nothing is imported after the fork. It is a fork that never
execs: its first act is to close every descriptor but its own sockets and stdio, since close-on-exec protects nothing here and
a sibling's socket kept open would keep that sibling alive. It leaves by os._exit only. The end of its socket is the end of a
parked child: so it goes, and the stager with it, when the daemon does, however that dies. It raises the walls that act on one
process, and little else: each page it writes to stays with the env for life.
"""

from __future__ import annotations

import _socket
import os
import select

from sandboxd.kernel import capabilities, fds, namespaces, signals, titles
from sandboxd.launch import guard, init, plain, quick, stager, talk, walls, warm
from sandboxd.launch.apply import Stage, StepFailed, apply
from sandboxd.launch.dialer import open_diag

TYPE_CHECKING = False
if TYPE_CHECKING:
    Work = list[list[object]]

LINE, OTHER, GROUP = 3, 4, 5  # descriptors: the own socket, the bridge or the stager's, the control group of services
OWN = 2  # sockets of pid 1's


def main(  # type: ignore[no-untyped-def]
    given: list[int], group: list[int], is_apart: bool, run_init, start: quick.Quick | None = None
) -> None:
    """Everything from the first instruction after clone3 on; never returns.

    given: the sockets of pid 1 and the stager, and of those that are apart, in namespaces, the ends of the bridge between them;
    where the stagehand is the stager, those of pid 1 alone. group: the control group of services if there is one. start: what
    was made of the first program's. The stager
    comes first of all: its way is the longer one, and what is written to before a fork is written to twice.
    """
    status = 1
    try:
        has_stager = is_apart and len(given) > OWN
        if has_stager and namespaces.clone3(0)[0] == 0:
            place(given[1::2])
            line = _socket.socket(fileno=LINE)
            base = drop(line)
            os._exit(stager.live(line, _socket.socket(fileno=OTHER), base) if base is not None else 0)
        place([*(given[::2] if has_stager else given), *group])
        own = {"group": GROUP if group else -1}
        if not is_apart:
            for fd in (LINE, OTHER):
                talk.start(_socket.socket(fileno=os.dup(fd)))
            os._exit(guard.main(LINE, OTHER, lambda config, found: run_init(config, found | own)))
        line, bridge = _socket.socket(fileno=LINE), _socket.socket(fileno=OTHER)
        status = be_init(line, bridge, has_stager, start, lambda config, found: run_init(config, found | own))
    except BaseException as error:  # the last line of a process that must not return into the launcher's loop
        talk.tell(f"sandboxd child: {error!r}\n")
    finally:
        os._exit(status)


def place(kept: list[int]) -> None:
    """Have these descriptors, in ascending order, from LINE on; nothing else is open but stdio. SIGCHLD waits."""
    for number, fd in enumerate(kept, LINE):
        if fd != number:
            os.dup2(fd, number, inheritable=False)
    fds.close_range(LINE + len(kept))
    signals.block_child()


def be_init(  # type: ignore[no-untyped-def]
    line: _socket.socket, bridge: _socket.socket, has_stager: bool, start: quick.Quick | None, run_init
) -> int:
    """Wait behind the walls of the base for the config, raise the rest, become init; an exit status otherwise."""
    try:
        ahead = drop(line)
        if ahead is None:
            return 0
        stage = Stage()
        stage.bridge = bridge
        network, steps = plain.decode(ahead)
        park(stage, line, network, steps, start, is_awaited=not has_stager)
        frame = talk.receive(line)
        if frame is None:
            return 0
        plan, received = frame
        apply(stage, "init", plan["steps"])
        config, found = plan["config"], talk.named(plan["fds"], received)
        found["refused"], found["ways"], found["settled"] = stage.listener, stage.ways, True
        found["quick"] = start
    except Exception as error:  # whatever can be wrong with a plan
        talk.send(line, failure(error))
        return 1

    def enter() -> None:
        """Be in the whole view behind all walls."""
        try:
            if not has_stager and stager.has_listeners(steps):
                walls.take_ways(stage)
            walls.await_word(stage, walls.WHOLE)
            apply(stage, "walls", plan["walls"])
            walls.forget(stage)
            walls.await_word(stage, walls.LEFT)
        except Exception as error:  # nothing of the env may run, whatever it was
            talk.send(line, failure(error))
            os._exit(1)

    def launched(status: dict | None = None) -> None:  # type: ignore[type-arg]
        """Say so, once the first program runs: whoever hears it gets a core at once, which may be the one that it waits for.
        With what init would greet the daemon with, so that it need not wait for that."""
        titles.set_title(plan["title"])
        talk.send(line, {"launched": True, "walls": stage.proven, "status": status})
        line.close()

    def broken(error: Exception) -> bool:
        """Say that nothing comes of it; False: it was launched, and nobody listens any more."""
        waited_for = line.fileno() >= 0
        if waited_for:
            talk.send(line, failure(error))
        return waited_for

    found["enter"], found["launched"], found["broken"], found["proven"] = enter, launched, broken, stage.proven
    run_init(config, found)
    return 0


def park(
    stage: Stage, line: _socket.socket, network: Work, ahead: Work, start: quick.Quick | None, *, is_awaited: bool
) -> None:
    """What depends on nothing of the env, and the stdio of its first program. is_awaited: the stagehand sees to the network,
    and the plan is on its way."""
    os.setsid()
    capabilities.drop_bounding()
    capabilities.no_new_privs()
    in_time = False
    if not is_awaited:
        apply(stage, "network", network)
        tell_network(line)
        titles.set_title(talk.PARKED)
        in_time = not select.select([line], [], [], 0)[0]
    if in_time:
        warm.rehearse()  # before the filter: what that refuses would wait for our own answer
    apply(stage, "ahead", ahead, but="listen" if is_awaited else "")
    init.settle()
    if start is not None:
        start.open()
    if is_awaited and not select.select([line], [], [], stager.PATIENCE)[0]:
        titles.set_title(talk.PARKED)
        in_time = True
    if in_time:
        talk.send(line, {"parked": True})


def tell_network(line: _socket.socket) -> None:
    """A socket of this network that sees what listens in it, which readiness will ask; and the network's number."""
    diag = open_diag()
    talk.send(line, {"netns_cookie": namespaces.netns_cookie()}, [diag.fileno()])
    diag.close()


def failure(error: Exception) -> dict[str, object]:
    """What went wrong, as the daemon is told."""
    if isinstance(error, StepFailed):
        return {"failed": error.which, "index": error.index, **talk.in_words(error.__cause__)}
    return {"failed": "plan", "index": -1, **talk.in_words(error)}


def drop(line: _socket.socket) -> bytes | None:
    """Become who the env runs as, before any path is resolved; what is to be done ahead. None: the launcher has gone before."""
    word = talk.start(line)  # the id maps are written only now
    if word is None:
        return None
    privileged, uid, gid, ahead = word
    if privileged:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    capabilities.set_dumpable(False)  # after the maps, which a non-dumpable child's parent could not write, and after setresuid
    os.umask(0o022)
    return ahead
