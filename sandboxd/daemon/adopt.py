"""At its start a daemon finds the envs that an earlier one left: it looks at what lives, and tells each actor what it saw.

Identity is boot id + pid + start time, checked after pidfd_open so that no reuse slips in between. What belongs to nobody
is ended and removed: an env directory without a record, an init without either.
"""

import asyncio
import logging
import os
import signal
from pathlib import Path

import msgspec

from sandboxd.daemon.actor import Actor
from sandboxd.daemon.pumping import readable
from sandboxd.daemon.supervisor import Supervisor
from sandboxd.errors import NotFound, SandboxdError
from sandboxd.kernel import fds, pidfd, titles
from sandboxd.launch.exits import read_exits
from sandboxd.launch.guard import TITLE as GUARD
from sandboxd.launch.initlink import InitLink
from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.records import EnvRecord, Identity, exit_code_of
from sandboxd.lifecycle.states import ALIVE, UP, State

log = logging.getLogger(__name__)
FIRST_WORD = 2.0


async def adopt_all(supervisor: Supervisor) -> None:
    """Take every journalled env up again, and remove what has no record."""
    records = {}
    for env_id, data in supervisor.journal.all():
        try:
            records[env_id] = msgspec.json.decode(data, type=EnvRecord)
        except msgspec.MsgspecError as error:
            log.error("the record of env %s cannot be read (%s): the env is ended and removed", env_id, error)
            supervisor.journal.remove(env_id)
    for env_id in supervisor.rundir.env_ids():
        if env_id not in records:
            await end_stray(supervisor.rundir.env_dir(env_id))
            await asyncio.to_thread(supervisor.rundir.remove_env_dir, env_id)
    for record in records.values():
        if record.state is State.REMOVED:
            await asyncio.to_thread(supervisor.rundir.remove_env_dir, record.id)
            supervisor.journal.remove(record.id)
            continue
        await adopt_one(supervisor.adopt(record))
    supervisor.control.sweep()


async def adopt_one(actor: Actor) -> None:
    """Tell one actor what became of its env."""
    record = actor.record
    if record.state not in ALIVE:
        actor.body.leave_group()
        actor.post(ev.Adopted())
        return
    fd, identity = await living_init(actor, record.init)
    if fd is None or identity is None:
        tell_exits(actor)
        actor.post(ev.InitGone(reason="its init ended while no daemon ran"))
        return
    try:
        await actor.body.adopt(fd, identity.netns_cookie)
    except (SandboxdError, OSError) as error:
        log.error("env %s: its init does not answer (%s), so it is ended", record.name, error)
        actor.post(ev.KillAsked(cause="lost", reason="its init did not answer a new daemon"))
        return
    if record.init is None:
        actor.post(ev.Launched(init=identity, walls=record.walls))
    actor.body.report_status()
    actor.post(ev.Adopted())


async def living_init(actor: Actor, known: Identity | None) -> tuple[int, Identity] | tuple[None, None]:
    """The env's init as a pidfd and its identity, if that very process lives."""
    if known is not None:
        try:
            fd = pidfd.adopt(known.pid, known.start_time, known.boot_id)
            return (fd if actor.record.spec.isolation.level == "full" else guard_of(known.pid, fd)), known
        except NotFound:
            return None, None
    # the daemon died between the launch and its record: init's socket tells who listens on it
    pid = await listener_of(actor.supervisor.rundir.env_dir(actor.record.id))
    if pid is None:
        return None, None
    found = Identity(pid=pid, start_time=pidfd.start_time(pid) or 0, boot_id=pidfd.boot_id())
    return await living_init(actor, found)


def guard_of(pid: int, fd: int) -> int:
    """A pidfd of the guard of an init without a pid namespace, for the init's own; raises NotFound. The init lives, so what
    is its parent before and after is its parent."""
    try:
        parent = pidfd.parent_of(pid)
        found = os.pidfd_open(parent) if parent > 1 and titles.name_of(parent) == GUARD else -1
        if found < 0 or pidfd.parent_of(pid) != parent or not pidfd.is_alive(fd):
            fds.close_all([found] if found >= 0 else [])
            raise NotFound(f"the guard of init {pid} is gone", hint="then the init ends by itself")
    finally:
        os.close(fd)
    return found


async def listener_of(env_dir: Path) -> int | None:
    """The pid of the init that answers in that directory, or None."""
    try:
        link = await InitLink.connect(env_dir, lambda event: None, timeout=FIRST_WORD)
    except (SandboxdError, OSError):
        return None
    try:
        return link.peer_pid
    finally:
        link.close()


async def end_stray(env_dir: Path) -> None:
    """Kill the init of an env that has no record."""
    pid = await listener_of(env_dir)
    if pid is None:
        return
    try:
        fd = pidfd.adopt(pid, pidfd.start_time(pid) or 0, pidfd.boot_id())
    except NotFound:
        return
    log.warning("init %d of %s belongs to no env: it is ended", pid, env_dir.name)
    try:
        pidfd.send_signal(fd, signal.SIGKILL)
        await readable(fd)  # a pidfd is readable once the process has ended (pidfd_open(2))
    finally:
        os.close(fd)


def tell_exits(actor: Actor) -> None:
    """Post the exits that init wrote down while nobody listened."""
    path = actor.supervisor.rundir.env_dir(actor.record.id) / "exits"
    try:
        exits = read_exits(path)
    except (NotFound, OSError):
        return
    last = {entry.service: entry for entry in exits}
    for name, service in actor.record.services.items():
        entry = last.get(name)
        if entry is None or service.state not in UP:
            continue
        if service.pid is None:
            actor.post(ev.ServiceStarted(service=name, pid=entry.pid))
        if service.pid in (None, entry.pid):
            actor.post(ev.ServiceExited(service=name, pid=entry.pid, exit_code=exit_code_of(entry.wait_status)))
