"""What an env held before its removal and what is left after it, counted from the kernel and the disk, not from our memory."""

import asyncio
import os
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from sandboxd.kernel import cgroups
from sandboxd.limits.sampler import read_stat, walk
from sandboxd.protocol.messages import Receipt

if TYPE_CHECKING:
    from sandboxd.daemon.actor import Actor
    from sandboxd.daemon.supervisor import Supervisor

RECOUNTS = 20
RECOUNT_PAUSE = 0.05  # teardown of a namespace is asynchronous in the kernel: lag is not a leak


async def receipt(supervisor: "Supervisor", actor: "Actor", removal: Awaitable[None]) -> Receipt:
    """Count, remove, count again until nothing is left or the bound is reached."""
    env_id = actor.record.id
    init, group = actor.record.init, actor.record.cgroup
    family = members(init.pid) if init else {}
    before = await asyncio.to_thread(count, supervisor, env_id, family, group)
    await removal
    after = await asyncio.to_thread(count, supervisor, env_id, family, group)
    for _ in range(RECOUNTS):
        if not any(after.values()):
            break
        await asyncio.sleep(RECOUNT_PAUSE)
        after = await asyncio.to_thread(count, supervisor, env_id, family, group)
    return Receipt(before=before, after=after, leaked={what: number for what, number in after.items() if number})


def members(pid: int) -> dict[int, int]:
    """Init and every process below it: {pid: start time}, which no later process of the same pid has."""
    init = read_stat(pid)
    return {pid: init.start} | {pid: stat.start for pid, stat in walk(pid).items()} if init is not None else {}


def count(supervisor: "Supervisor", env_id: str, family: dict[int, int], group: str) -> dict[str, int]:
    """Tasks, files, sockets, routes and control groups of an env, as they are now."""
    files = sockets = 0
    for where, _, names in os.walk(supervisor.rundir.env_dir(env_id)):
        top = where.endswith(env_id)
        sockets += sum(1 for name in names if top and name.endswith(".sock"))
        files += sum(1 for name in names if not (top and name.endswith(".sock")))
    return {
        "tasks": sum(1 for pid, start in family.items() if is_there(pid, start)),
        "files": files,
        "sockets": sockets,
        "routes": supervisor.routes_of(env_id),
        "cgroups": cgroups.count(group),
    }


def is_there(pid: int, start: int) -> bool:
    """Whether that very process is there; one that is dead, and only not yet reaped by its parent, is not."""
    stat = read_stat(pid)
    return stat is not None and stat.start == start and not stat.dead
