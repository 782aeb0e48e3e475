"""Stopping every process of an env and letting it run on: by the freezer of its control group, or without one by signals.

init's kill(-1) stops a whole pid namespace at once: the kernel holds forks back while it signals, so nothing escapes by forking
(copy_process, fork(2)). Without a namespace the tree is walked until nothing is found that runs. Init itself goes on: a signal
from inside cannot stop it, and it is what logs, reaps and answers.

Which processes are not ours to wake (a job that somebody stopped by ctrl-Z) the kernel remembers by itself: a stopped process
cannot take another SIGSTOP, so it stays pending there, and only there. So each process is sent one, once, and what a later
daemon finds is enough to go by. Children are woken before their parents: a shell that runs while its job is still stopped would
report that job as stopped.
"""

import asyncio
import contextlib
import errno
import os
import signal
from typing import TYPE_CHECKING, NamedTuple

from sandboxd.errors import KernelError, TimedOut
from sandboxd.kernel import cgroups, pidfd
from sandboxd.kernel.pageout import page_out
from sandboxd.limits.sampler import children, read
from sandboxd.units import format_size

if TYPE_CHECKING:
    from sandboxd.launch.initlink import InitLink

LONGEST = 5.0  # seconds: a process may be deep in a system call, as one that writes to a slow disk
FIRST_PAUSE = 0.0005
LONGEST_PAUSE = 0.05
MOST = 65536
PENDING = 1 << (signal.SIGSTOP - 1)
AT_REST = frozenset(
    b"TtDZXx"
)  # D: in the kernel, a parent in vfork(2) for instance; it stops before it runs any code of its own


class Process(NamedTuple):
    """What was seen of one: its identity, whether a thread of it can run, and whether a SIGSTOP waits for it to be woken."""

    pid: int
    started: int
    runs: bool
    stopped: bool
    pending: bool


async def stop(group: str, init_pid: int, link: "InitLink | None", *, again: bool = False) -> list[Process]:
    """Have nothing of an env run but init: by the freezer of its control group, which forks cannot outrun, or by signals."""
    if not group:
        return await stop_tree(init_pid, link, again=again)
    services = f"{group}/{cgroups.SERVICES}"
    cgroups.freeze(services, frozen=True)
    loop = asyncio.get_running_loop()
    deadline, pause = loop.time() + LONGEST, FIRST_PAUSE
    while not cgroups.table(services, "cgroup.events").get("frozen"):
        if loop.time() > deadline:
            cgroups.freeze(services, frozen=False)
            raise TimedOut(f"not everything could be frozen within {LONGEST:g} s", hint="try again")
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)
    return look(init_pid)


def resume(group: str, init_pid: int) -> None:
    """Let it run on, however it was stopped."""
    if group:
        cgroups.freeze(f"{group}/{cgroups.SERVICES}", frozen=False)
    resume_tree(init_pid)


async def stop_tree(init_pid: int, link: "InitLink | None", *, again: bool = False) -> list[Process]:
    """Stop all below an init, parents before children; raises TimedOut when that does not come to an end. link: to an init
    with a pid namespace of its own. again: nobody is to get a second signal."""
    if link is not None and not again:
        await link.signal("all", signal.SIGSTOP)
    told: set[tuple[int, int]] = set()
    walks = link is None and not again
    loop = asyncio.get_running_loop()
    deadline = loop.time() + LONGEST
    pause = FIRST_PAUSE
    while True:
        tree = look(init_pid)
        running = [process for process in tree if process.runs]
        fresh = [p for p in tree if (p.runs or walks) and not p.pending and (p.pid, p.started) not in told]
        if link is None or again or pause > LONGEST_PAUSE / 4:  # else they have it, and are on their way
            for process in fresh:
                told.add((process.pid, process.started))
                send(process, signal.SIGSTOP)
        if not running and not (walks and fresh):
            return tree
        if loop.time() > deadline:
            names = ", ".join(f"{name_of(process.pid)} ({process.pid})" for process in running[:3])
            raise TimedOut(f"not everything could be stopped within {LONGEST:g} s: {names} still runs", hint="try again")
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)


def resume_tree(init_pid: int) -> int:
    """Let run what `stop_tree` stopped, children before parents; how many processes that were."""
    woken = 0
    for process in reversed(look(init_pid)):
        if process.stopped != process.pending:  # stopped by us; or not yet, with our signal still to come
            woken += send(process, signal.SIGCONT)
    return woken


def look(init_pid: int) -> list[Process]:
    """Every process below an init, without it, each after its parent."""
    found: list[Process] = []
    waiting = children(init_pid)
    seen: set[int] = set()
    while waiting and len(found) < MOST:
        pid = waiting.pop()
        if pid in seen:
            continue
        seen.add(pid)
        process = look_at(pid)
        if process is not None:
            found.append(process)
            waiting.extend(children(pid))
    return found


def look_at(pid: int) -> Process | None:
    """One process; None when it is gone."""
    states = bytearray()
    started = 0
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            try:
                stat = read(f"/proc/{pid}/task/{thread}/stat")
            except OSError:
                continue
            fields = stat[stat.rfind(b")") + 2 :].split(None, 20)
            states += fields[0]
            if int(thread) == pid:
                started = int(fields[19])
        if not states or not started:
            return None
        runs = any(state not in AT_REST for state in states)
        stopped = any(state in b"Tt" for state in states)
        pending = pending_stop(pid)
    except OSError:
        return None
    return Process(pid, started, runs, stopped, pending)


def pending_stop(pid: int) -> bool:
    """Whether a SIGSTOP waits there (ShdPnd, proc_pid_status(5)); raises OSError."""
    status = read(f"/proc/{pid}/status")
    at = status.find(b"\nShdPnd:")
    return at >= 0 and bool(int(status[at + 8 :].split(None, 1)[0], 16) & PENDING)


def send(process: Process, number: int) -> bool:
    """Signal exactly that process; False: it is gone."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        return pidfd.start_time(process.pid) == process.started and pidfd.send_signal(fd, number)
    finally:
        os.close(fd)


def name_of(pid: int) -> str:
    """What a process calls itself."""
    try:
        return read(f"/proc/{pid}/comm").decode(errors="replace").strip()
    except OSError:
        return "a process"


def give_back(tree: list[Process], group: str) -> str:
    """Have the kernel take back the memory of stopped processes; in words what came of it. Blocks: for a thread."""
    told = 0
    services = f"{group}/{cgroups.SERVICES}"
    before = cgroups.number(services, "memory.current") if group else None
    if before is not None:
        with contextlib.suppress(KernelError):  # EAGAIN: it could not have all that was asked for
            cgroups.write(services, "memory.reclaim", str(before))
        after = cgroups.number(services, "memory.current")
        return f"given back where it could be: {format_size(max(0, before - (after or before)))}"
    for process in tree:
        try:
            told += page_out(process.pid)
        except OSError as error:
            if error.errno == errno.EPERM:
                return "it stays: to page it out takes a delegated cgroup, or CAP_SYS_NICE"
    return f"paged out where it could be: {format_size(told)}"
