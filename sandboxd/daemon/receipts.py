"""What an env held before its removal and what is left after it, counted from the kernel and the disk, not from our memory.

Counted as soon as the removal is asked for, and again when it is done, by the env's actor: whoever asked may have left. What
is left is an error in the log, in the `removed` event, in the answer, and in the metric sandboxd_leaks_total. Mounts and shared
memory are those of the env's own mount namespace, seen through whichever of its processes is there: with the last they go.
"""

import asyncio
import logging
import os
from typing import TYPE_CHECKING

import msgspec

from sandboxd.kernel import cgroups
from sandboxd.limits.memoryfs import shared_files
from sandboxd.limits.sampler import read_stat, walk
from sandboxd.protocol.messages import Receipt

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from sandboxd.daemon.actor import Actor
    from sandboxd.daemon.supervisor import Supervisor

log = logging.getLogger(__name__)
RECOUNTS = 20
RECOUNT_PAUSE = 0.05  # teardown of a namespace is asynchronous in the kernel: lag is not a leak


class Held(msgspec.Struct, frozen=True):
    """What an env had when its removal was asked for. family: its processes, {pid: start time}."""

    counts: dict[str, int]
    family: dict[int, int]
    group: str


async def hold(actor: "Actor") -> Held:
    """Count what an env has now."""
    init, group = actor.record.init, actor.record.cgroup
    try:
        family = await asyncio.to_thread(members, init.pid) if init else {}
    except OSError:
        family = {}
    return Held(await counted(actor, family, group), family, group)


async def counted(actor: "Actor", family: dict[int, int], group: str) -> dict[str, int]:
    """All that there is of an env now; nothing that could be counted where descriptors ran out, since that must keep no removal
    from being done."""
    try:
        return await asyncio.to_thread(count, actor.supervisor, actor.record.id, family, group)
    except OSError as error:
        log.warning("what there is of env %s cannot be counted: %s", actor.record.name, error)
        return {}


async def around(supervisor: "Supervisor", actor: "Actor", removal: "Awaitable[None]") -> None:
    """Remove, count until nothing is left or the bound is reached, and tell."""
    held = actor.held or await hold(actor)  # None: it ended by itself, and nobody asked
    await removal
    after = await counted(actor, held.family, held.group)
    for _ in range(RECOUNTS):
        if not any(after.values()):
            break
        await asyncio.sleep(RECOUNT_PAUSE)
        after = await counted(actor, held.family, held.group)
    leaked = {what: number for what, number in after.items() if number}
    actor.receipt = Receipt(before=held.counts, after=after, leaked=leaked)
    for kind, number in leaked.items():
        supervisor.tally.count("leaks", kind, number)
    detail = {"before": in_words(held.counts), "after": in_words(after)}
    if leaked:
        log.error("env %s was removed, and left %s", actor.record.name, detail["after"])
    supervisor.announce(actor.record, "removed", detail)


def in_words(counts: dict[str, int]) -> str:
    """`12 files, 2 sockets`, or `nothing`."""
    return ", ".join(f"{number} {kind}" for kind, number in counts.items() if number) or "nothing"


def members(pid: int) -> dict[int, int]:
    """Init and every process below it: {pid: start time}, which no later process of the same pid has."""
    init = read_stat(pid)
    return {pid: init.start} | {pid: stat.start for pid, stat in walk(pid).items()} if init is not None else {}


def count(supervisor: "Supervisor", env_id: str, family: dict[int, int], group: str) -> dict[str, int]:
    """All that there is of an env now, by kind."""
    files = sockets = 0
    for where, _, names in os.walk(supervisor.rundir.env_dir(env_id)):
        top = where.endswith(env_id)
        sockets += sum(1 for name in names if top and name.endswith(".sock"))
        files += sum(1 for name in names if not (top and name.endswith(".sock")))
    there = [pid for pid, start in family.items() if is_there(pid, start)]
    mounts, shm = view_of(there)
    return {
        "tasks": len(there),
        "mounts": mounts,
        "shm": shm,
        "files": files,
        "sockets": sockets,
        "routes": supervisor.routes_of(env_id),
        "cgroups": cgroups.count(group),
    }


def view_of(pids: list[int]) -> tuple[int, int]:
    """Mounts, and files in /dev/shm, of the mount namespace of these, unless it is ours; by the first that lets itself be read
    (init does not: it is not dumpable)."""
    ours = os.readlink("/proc/self/ns/mnt")
    for pid in pids:
        try:
            if os.readlink(f"/proc/{pid}/ns/mnt") == ours:
                return 0, 0
            with open(f"/proc/{pid}/mountinfo", "rb") as file:
                mounts = sum(1 for _ in file)
            return mounts, shared_files(pid)
        except OSError:
            continue
    return 0, 0


def is_there(pid: int, start: int) -> bool:
    """Whether that very process is there; one that is dead, and only not yet reaped by its parent, is not."""
    stat = read_stat(pid)
    return stat is not None and stat.start == start and not stat.dead
