"""What has to outlive the daemon's own unit starts in a scope of its own: the launcher with the envs, and the router.

systemd ends what is left in a unit when that unit is stopped, restarted or has crashed, and what is spared (KillMode=process)
keeps a delegated unit from coming back before systemd 254 (219/CGROUP). `systemd-run --scope` makes a unit around a process
and then becomes that process: pid, descriptors and parent stay. Each launcher gets a scope of a new name: a scope lives until
its last process has ended, so the envs of an earlier daemon keep theirs, and nothing has to be moved or removed.
Their cgroups: `…/sandboxd.slice/sandboxd-envs.slice/sandboxd-envs-XXXXXXXX.scope` (delegated) and
`…/sandboxd.slice/sandboxd-router-XXXXXXXX.scope`, below the user's manager or, for root, the system's.
"""

import logging
import os
import secrets
import shutil
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from sandboxd.errors import LaunchFailed
from sandboxd.settings import manager_socket

log = logging.getLogger(__name__)
Started = TypeVar("Started")

# When the host is shut down the daemon ends its envs in order, so they are to be there until it has. Else all processes of a
# scope get SIGTERM at once, which a pid 1 does not hear, and the reboot waits 90 s for it (DefaultTimeoutStopSec).
# Not of a daemon in a transient unit: a scope that names it keeps it loaded after its end, and then it cannot be installed.
STOP = ["-p", "TimeoutStopSec=10"]
LAST = ["-p", "Before=sandboxd.service"]
ENVS = ["--slice=sandboxd-envs.slice", "-p", "Delegate=yes", "--description=sandboxd: launcher and environments"]
ROUTER = ["--slice=sandboxd.slice", "--description=sandboxd: router"]


def scope(name: str, options: Sequence[str]) -> list[str]:
    """What to put before a command so that it runs in a scope of its own; nothing where no service manager is ours to ask."""
    uid = os.geteuid()
    manager = manager_socket(os.environ, uid)
    program = shutil.which("systemd-run")
    if manager is None or program is None or not manager.is_socket():
        return []
    whose = [] if uid == 0 else ["--user"]
    unit = f"--unit=sandboxd-{name}-{secrets.token_hex(4)}.scope"
    order = [] if (manager.parent / "transient" / "sandboxd.service").exists() else LAST
    # Bounds are each env's own, and the slice's for those who set some; a scope's default would be 15 % of the machine's tasks.
    return [program, *whose, "--scope", "--quiet", "--collect", unit, "-p", "TasksMax=infinity", *STOP, *order, *options, "--"]


async def outliving(name: str, options: Sequence[str], start: Callable[[Sequence[str]], Awaitable[Started]]) -> Started:
    """Start a program in a scope of its own, or beside the daemon where that cannot be had; raises what `start` does."""
    prefix = scope(name, options)
    if prefix:
        try:
            return await start(prefix)
        except LaunchFailed as error:
            log.warning("no scope for the %s (%s): it shares the daemon's unit", name, error)
    return await start(())
