"""How the daemon leaves on SIGTERM: alone, or, where its host is being shut down, after its envs.

Why we are told to end is known to the service manager alone, so it is asked. Without this the envs would be told nothing: their
pid 1 hears no SIGTERM, and after some time they are killed.
"""

import asyncio
import logging
import os
import shutil
from typing import TYPE_CHECKING

from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.states import ALIVE
from sandboxd.settings import manager_socket

if TYPE_CHECKING:
    from sandboxd.daemon.notify import Notifier
    from sandboxd.daemon.supervisor import Supervisor

log = logging.getLogger(__name__)
GRACE = 20.0  # seconds for services; their own stop_timeout where that is less
PATIENCE = 60.0  # seconds until the daemon leaves whatever is left
ASKING = 10.0


async def leave(supervisor: "Supervisor", manager: "Notifier") -> None:
    """Have the daemon leave; on a host that ends, when its envs have ended."""
    if supervisor.leaving.is_set() or supervisor.end_all:  # told twice
        supervisor.leaving.set()
        return
    try:
        if await is_stopping():
            manager.send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={(PATIENCE + ASKING) * 1e6:.0f}")
            supervisor.end_all = True  # nothing starts any more
            await end_envs(supervisor)
    finally:
        supervisor.leaving.set()


async def is_stopping() -> bool:
    """Whether the service manager that we live below is going down."""
    path, program = manager_socket(os.environ, os.geteuid()), shutil.which("systemctl")
    if path is None or program is None or not path.is_socket():
        return False
    whose = [] if os.geteuid() == 0 else ["--user"]
    try:
        process = await asyncio.create_subprocess_exec(
            program, *whose, "is-system-running", stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
    except OSError as error:  # no descriptor, no memory
        log.warning("the service manager cannot be asked why the daemon is to end: %s", error)
        return False
    try:
        async with asyncio.timeout(ASKING):
            said, _ = await process.communicate()
    except TimeoutError:
        log.warning("the service manager does not say why the daemon is to end")
        process.kill()
        await process.wait()
        return False
    return said.strip() == b"stopping"


async def end_envs(supervisor: "Supervisor") -> None:
    """Tell all of them, and wait for their ends."""
    reason = "the host was shut down" if os.geteuid() == 0 else "its user's services were ended: by a logout, or with the host"
    alive = [actor for actor in supervisor.actors.values() if actor.record.state in ALIVE]
    log.info("%s: %d envs are stopped", reason, len(alive))
    for actor in alive:
        actor.post(ev.HostEnds(reason=reason, grace=GRACE))
    try:
        async with asyncio.timeout(PATIENCE):
            for actor in alive:
                await actor.wait_until(lambda record: record.state not in ALIVE)
    except TimeoutError:
        left = [actor.record.name for actor in alive if actor.record.state in ALIVE]
        log.error("not stopped within %.0f s: %s", PATIENCE, ", ".join(left))
