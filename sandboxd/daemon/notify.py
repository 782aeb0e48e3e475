"""What the service manager is told of the daemon: that it is ready, what it does, that its loop still turns (sd_notify(3)).

Datagrams to $NOTIFY_SOCKET, and nothing where there is none. The variables are taken out of the environment: whatever the
daemon starts is not to speak in its name.
"""

import asyncio
import logging
import os
import socket
from array import array
from collections import Counter
from collections.abc import MutableMapping, Sequence
from typing import TYPE_CHECKING

from sandboxd.lifecycle.states import ENDED

if TYPE_CHECKING:
    from sandboxd.daemon.supervisor import Supervisor

log = logging.getLogger(__name__)
STATUS_SECONDS = 5.0
MORE, MOST = 60.0, 900.0  # seconds: how long the next step of a start may take, and all of them


class Notifier:
    """The manager's ear. watchdog: seconds within which it wants to hear of us; 0: it does not."""

    def __init__(self, path: str, watchdog: float) -> None:
        self.path = path
        self.watchdog = watchdog
        self._again: asyncio.TimerHandle | None = None
        self.environ: dict[str, str] = {}  # as it was, for a daemon that takes over in this process

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str]) -> "Notifier":
        """What the environment says, which is taken out of it."""
        given = {name: environ[name] for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID") if name in environ}
        path = environ.pop("NOTIFY_SOCKET", "")
        usec, pid = environ.pop("WATCHDOG_USEC", "0"), environ.pop("WATCHDOG_PID", "")
        is_meant = usec.isdigit() and pid in ("", str(os.getpid()))
        found = cls(path if path.startswith(("/", "@")) else "", int(usec) / 1e6 if is_meant else 0.0)
        found.environ = given
        return found

    def store(self, name: str, listener: socket.socket) -> None:
        """Have it keep a listener and hand it to the next daemon: who connects meanwhile waits in its queue."""
        self.send("FDSTORE=1", f"FDNAME={name}", fds=[listener.fileno()])

    def send(self, *lines: str, fds: Sequence[int] = ()) -> None:
        """Tell it; a manager that does not hear is no fault of ours."""
        if not self.path:
            return
        address = "\0" + self.path[1:] if self.path.startswith("@") else self.path
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            try:
                flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
                sock.sendmsg(["\n".join(lines).encode()], rights, flags, address)
            except OSError as error:
                log.debug("the service manager does not hear: %s", error)

    def starting(self, left: float = MOST) -> None:
        """Say that the start goes on, and again until it is over. Where the machine is overrun, or there are thousands of envs,
        it takes longer than the unit has for one, and the next would be no faster. Each step of it is bounded by itself."""
        if not self.path or left <= 0:
            return
        self.send(f"EXTEND_TIMEOUT_USEC={MORE * 1e6:.0f}")  # counts where less than that is left of TimeoutStartSec
        self._again = asyncio.get_running_loop().call_later(MORE / 4, self.starting, left - MORE / 4)

    def ready(self) -> None:
        """It is over."""
        if self._again is not None:
            self._again.cancel()
        self.send("READY=1")

    async def keep(self, supervisor: "Supervisor") -> None:
        """Say again and again that the loop turns, and how many envs there are whenever that has changed."""
        if not self.path:
            return
        said = ""
        while True:
            status = f"STATUS={status_of(supervisor)}"
            lines = [*(["WATCHDOG=1"] if self.watchdog else []), *([status] if status != said else [])]
            said = status
            if lines:
                self.send(*lines)
            await asyncio.sleep(min(STATUS_SECONDS, self.watchdog / 3 or STATUS_SECONDS))


def status_of(supervisor: "Supervisor") -> str:
    """One line for `systemctl status`."""
    counts = Counter(actor.record.state for actor in supervisor.actors.values())
    alive = sum(count for state, count in counts.items() if state not in ENDED)
    parts = ", ".join(f"{count} {state.value}" for state, count in sorted(counts.items()))
    return f"{alive} envs alive ({parts})" if parts else "no envs"
