"""An env without namespaces: a guard above, and below it the init that in a pid namespace would be pid 1.

Imports the standard library, `errors`, `kernel` and `launch`; nothing is imported after the fork. Both are subreapers
(prctl(2)), so whoever forks twice and calls setsid comes back to init, and once that is gone to the guard. The guard does
nothing but wait: for SIGTERM, which is how the daemon ends the env, or for init's end, however that came. Then it kills and
reaps until nothing is left, and only then ends itself, so its end means that nothing leaks. Init raises no wall around itself:
each program does so between fork and exec, which `prove` has tried in a child that is thrown away.
"""

import _signal  # type: ignore[import-not-found]  # `signal` makes enums of everything
import _socket
import os

from sandboxd.errors import KernelError, SandboxdError
from sandboxd.kernel import capabilities, fds, namespaces, signals, titles
from sandboxd.kernel.libc import prctl
from sandboxd.launch import plain, talk
from sandboxd.launch.apply import Stage, StepFailed, apply

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
TITLE = "sandboxd-guard"
OF_INIT = ("rlimits", "affinity")  # what init takes too, so that all it starts inherits it
REPORT_LIMIT = 1 << 16


def main(init_fd: int, plan_fd: int, run_init) -> int:  # type: ignore[no-untyped-def]
    """The first process of the env; its exit status. init_fd, plan_fd: sockets to the daemon."""
    prctl(PR_SET_CHILD_SUBREAPER, 1, name="PR_SET_CHILD_SUBREAPER")
    signals.block_all()
    pid, process = namespaces.clone3(0)
    if pid == 0:
        os._exit(be_init(_socket.socket(fileno=init_fd), _socket.socket(fileno=plan_fd), run_init))
    os.close(process)
    fds.close_range(3)
    titles.set_title(TITLE)
    while wait_for(pid):
        continue
    end_all()
    return 0


def wait_for(init: int) -> bool:
    """Until a signal comes; False when it is time to end."""
    number = int(_signal.sigwait((_signal.SIGTERM, _signal.SIGCHLD)))
    if number == _signal.SIGTERM:
        return False
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
        if pid == init:
            return False


def below(pid: int) -> list[int]:
    """Every process below one, parents first."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        try:
            for thread in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{thread}/children", "rb") as file:
                    children = [int(word) for word in file.read().split()]
                found += children
                waiting += children
        except OSError:
            continue  # it ended meanwhile, and its children are somebody else's below us
    return found


def end_all() -> None:
    """Kill and reap until nothing is left. One that forks between the look and its end leaves a child that is ours by the time
    we hear of that end, and then there is another look."""
    while True:
        signal_all(_signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def signal_all(number: int) -> None:
    """Signal all that is below us, and what they forked meanwhile."""
    told: set[int] = set()
    while True:
        fresh = [pid for pid in below(os.getpid()) if pid not in told]
        for pid in fresh:
            told.add(pid)
            try:
                os.kill(pid, number)
            except (ProcessLookupError, PermissionError):  # gone; or not ours to signal, as a program of another uid
                continue
        if not fresh:
            return


def be_init(line: _socket.socket, told: _socket.socket, run_init) -> int:  # type: ignore[no-untyped-def]
    """Wait for the plan, prove its walls, become init."""
    prctl(PR_SET_CHILD_SUBREAPER, 1, name="PR_SET_CHILD_SUBREAPER")
    prctl(PR_SET_PDEATHSIG, _signal.SIGTERM, name="PR_SET_PDEATHSIG")
    signals.block_child()
    _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGTERM,))
    try:
        os.setsid()
        capabilities.set_dumpable(False)
        capabilities.no_new_privs()
        titles.set_title(talk.PARKED)
        talk.send(told, {"parked": True, "netns_cookie": namespaces.netns_cookie(), "pid": os.getpid()})
        first, second = talk.receive(told), talk.receive(line)
        if first is None or second is None:
            return 0
        plan, received = second
        titles.set_title(plan["title"])
        apply(Stage(), "init", [step for step in plan["steps"] if step[0] in OF_INIT])
        proven = prove([("steps", first[0]["steps"]), ("init", plan["steps"]), ("walls", plan["walls"])])
        found = talk.named(plan["fds"], received)
    except StepFailed as failed:
        talk.send(told, refusal(failed))
        return 1
    except (OSError, SandboxdError, ValueError, KeyError, TypeError, IndexError) as error:
        talk.send(told, {"failed": "plan", "index": -1, **talk.in_words(error)})
        return 1
    if "failed" in proven:
        talk.send(told, proven)
        return 1
    talk.send(told, {"launched": True, **proven})
    told.close()
    line.close()
    run_init(plan["config"], found | {"proven": proven["walls"]})
    return 0


def refusal(failed: StepFailed) -> dict[str, object]:
    """Which step could not be taken, and why."""
    return {"failed": failed.which, "index": failed.index, **talk.in_words(failed.__cause__)}


def prove(lists: list) -> dict:  # type: ignore[type-arg]
    """What a child finds that takes all the steps, as each program will: the walls that hold, or which step failed."""
    read, write = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write, plain.encode(tried(lists)))
        finally:
            os._exit(0)
    os.close(write)
    try:
        said = os.read(read, REPORT_LIMIT)
    finally:
        os.close(read)
        os.waitpid(pid, 0)
    if not said:
        raise KernelError(32, "read", "the child that proves the walls")
    found: dict = plain.decode(said)  # type: ignore[type-arg]
    return found


def tried(lists: list) -> dict:  # type: ignore[type-arg]
    """In that child."""
    stage = Stage()
    try:
        for which, steps in lists:
            apply(stage, which, steps)
    except StepFailed as failed:
        return refusal(failed)
    return {"walls": stage.proven}
