"""At its start a daemon finds the envs that an earlier one left: it looks at what lives, and tells each actor what it saw.

Identity is boot id + pid + start time, checked after pidfd_open so that no reuse slips in between. What belongs to nobody
is ended and removed: an env directory without a record, an init without either.
"""

import asyncio
import contextlib
import logging
import os
import signal
from pathlib import Path

import msgspec
from msgspec.structs import replace

from sandboxd.daemon import building, linking
from sandboxd.daemon.actor import Actor
from sandboxd.daemon.making import user_of
from sandboxd.daemon.meeting import exits_of
from sandboxd.daemon.pumping import readable
from sandboxd.daemon.supervisor import Supervisor
from sandboxd.errors import NotFound, SandboxdError, StoreFailed
from sandboxd.kernel import fds, pidfd, titles
from sandboxd.kernel.fds import ran_out
from sandboxd.launch.guard import TITLE as GUARD
from sandboxd.launch.initlink import InitLink
from sandboxd.launch.parked import demand
from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.records import RECORD_VERSION, EnvRecord, Versioned
from sandboxd.lifecycle.recovery import lost
from sandboxd.lifecycle.sharing import of_one
from sandboxd.lifecycle.states import ALIVE, State
from sandboxd.store.journal import Journal, newer

log = logging.getLogger(__name__)
FIRST_WORD = 5.0
AGAIN = 1.0  # seconds until an env is tried again for which no descriptor was left
AT_ONCE = 64  # envs that are looked at together: one that does not answer must not hold up the others


def check_records(path: Path) -> None:
    """Raise StoreFailed where this program cannot take over what another wrote; nothing is changed."""
    if path.exists():
        with contextlib.closing(Journal(path, readonly=True)) as journal:
            check_versions(journal)


def check_versions(journal: Journal) -> None:
    """Raise StoreFailed for a record of a newer sandboxd: taken for a damaged one, its env would be lost."""
    for env_id, data in journal.all():
        with contextlib.suppress(msgspec.MsgspecError):
            version = msgspec.json.decode(data, type=Versioned).version
            if version > RECORD_VERSION:
                raise newer(journal.path, f"the record of env {env_id[:12]} has version {version}", RECORD_VERSION)


async def adopt_all(supervisor: Supervisor) -> None:
    """Take every journalled env up again, and remove what has no record."""
    check_versions(supervisor.journal)
    records = {}
    for env_id, data in supervisor.journal.all():
        try:
            record = msgspec.json.decode(data, type=EnvRecord)
            records[env_id] = of_one(record, user_of(record.owner)) if supervisor.settings.shared else record
        except msgspec.MsgspecError as error:
            log.error("the record of env %s cannot be read (%s): the env is ended and removed", env_id, error)
            supervisor.journal.remove(env_id)
    for env_id in supervisor.rundir.env_ids():
        if env_id not in records:
            try:
                await end_stray(supervisor.rundir.env_dir(env_id))
                removed = await asyncio.to_thread(supervisor.rundir.remove_env_dir, env_id)
            except (
                StoreFailed,
                OSError,
            ) as error:  # a mount, or another owner's file: no reason for the others to go without a daemon
                log.error("the directory %s belongs to no env, and cannot be removed as yet: %s", env_id, error)
                continue
            supervisor.tally.count("leaks", "files", removed)
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(record: EnvRecord) -> None:
        async with turns:
            await adopt_one(supervisor, record)

    await asyncio.gather(*(one(record) for record in records.values()))
    supervisor.tally.count("leaks", "cgroups", supervisor.control.sweep())


async def adopt_one(supervisor: Supervisor, record: EnvRecord) -> None:
    """Give one record its actor, and tell that what became of its env."""
    if record.state is State.REMOVED:  # what was to follow may not have been done: closing it twice closes it once
        await supervisor.adopt(record, [ev.Settle(), ev.Discard()]).over()
        return
    actor = supervisor.adopt(record)
    if record.state not in ALIVE:
        actor.body.leave_group()
        actor.post(ev.Adopted())
        return
    try:
        await adopt_alive(actor)
    except OSError as error:
        if not ran_out(error):
            raise
        log.warning("env %s cannot be taken up as yet: %s", record.name, error)
        supervisor.own(adopt_later(actor), name=f"adopt-{record.name}")


async def adopt_later(actor: Actor) -> None:
    """Its processes run, and it is served; it is asked nothing and told nothing until there is a descriptor for it."""
    while actor.body.pidfd < 0:
        await asyncio.sleep(AGAIN)
        try:
            return await adopt_alive(actor)
        except OSError as error:
            if not ran_out(error):
                raise
    return None


async def adopt_alive(actor: Actor) -> None:
    """Find its init, or what became of it. Raises OSError, where there is no descriptor left; then nothing was done."""
    record = actor.record
    try:
        fd = init_of(record) if record.init is not None else await unrecorded_init(actor)
    except NotFound:
        for event in lost(record, exits_of(actor), pidfd.boot_id()):
            actor.post(event)
        return
    try:
        await linking.adopt(actor.body, fd, record.init.netns_cookie if record.init is not None else 0)
        if record.init is None:
            actor.post(launch_of(actor))
    except (SandboxdError, OSError) as error:
        if ran_out(error):
            await actor.body.let_go()
            raise
        log.error("env %s: its init does not answer (%s), so it is ended", record.name, error)
        actor.post(ev.KillAsked(cause="lost", reason=f"its init did not answer a new daemon: {error}"))
        return
    actor.body.report_status(found=True)


def init_of(record: EnvRecord) -> int:
    """The init of a record as a pidfd; raises NotFound unless that very process lives."""
    assert record.init is not None
    fd = pidfd.adopt(record.init.pid, record.init.start_time, record.init.boot_id)
    return fd if record.spec.isolation.level == "full" else guard_of(record.init.pid, fd)


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


async def unrecorded_init(actor: Actor) -> int:
    """The init that a daemon launched and died before it had its record: its socket tells who listens; raises NotFound."""
    pid = await listener_of(actor.supervisor.rundir.env_dir(actor.record.id))
    started = pidfd.start_time(pid) if pid is not None else None
    if pid is None or started is None:
        raise NotFound(f"env {actor.record.name} has no init")
    fd = pidfd.adopt(pid, started, pidfd.boot_id())
    return fd if actor.record.spec.isolation.level == "full" else guard_of(pid, fd)


def launch_of(actor: Actor) -> ev.Launched:
    """What that daemon would have told of its launch, from init's greeting and the kernel; raises what does not hold."""
    link, record = actor.body.link, actor.record
    if link is None:
        raise NotFound(f"env {record.name} has no init")
    supervisor = actor.supervisor
    made = building.make_plan(supervisor, record, supervisor.rundir.env_dir(record.id), [])
    proven, cookie = link.raised()
    demand(made, proven)
    pid = link.peer_pid
    actor.body.group = supervisor.control.group_of(pid)
    built = building.Built(
        pid=pid,
        pidfd=actor.body.pidfd,
        start_time=pidfd.start_time(pid) or 0,
        boot_id=pidfd.boot_id(),
        netns_cookie=cookie,
        diag=-1,
        walls=proven,
        group=actor.body.group,
        plan=made,
    )
    told = building.told(built)
    return replace(told, cpus=sorted(os.sched_getaffinity(pid)) if told.cpus else [])


async def listener_of(env_dir: Path) -> int | None:
    """The pid of the init that answers in that directory, or None."""
    try:
        link = await InitLink.connect(env_dir, lambda event: None, timeout=FIRST_WORD)
    except (SandboxdError, OSError) as error:
        if ran_out(error):
            raise
        return None
    try:
        return link.peer_pid
    finally:
        link.close()


async def end_stray(env_dir: Path) -> None:
    """Kill the init of an env that has no record."""
    pid = await listener_of(env_dir)
    if pid is not None and await end_process(pid, pidfd.start_time(pid) or 0):
        log.warning("init %d of %s belonged to no env: it was ended", pid, env_dir.name)


async def end_process(pid: int, started: int) -> bool:
    """Kill that very process and wait for its end; False: it was gone."""
    try:
        fd = pidfd.adopt(pid, started, pidfd.boot_id())
    except NotFound:
        return False
    try:
        pidfd.send_signal(fd, signal.SIGKILL)
        await readable(fd)  # a pidfd is readable once the process has ended (pidfd_open(2))
    finally:
        os.close(fd)
    return True
