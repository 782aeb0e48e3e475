"""Asks each env's init once for what tells of its System V shared memory, when its memory comes near to a sampled limit.

What comes of it counts from the next look on. An env that shares the host's ipc namespace is not asked: what is there may be
anybody's. Imports initlink's errors and limits.segments. Invariant: one descriptor at most for each init that lives.
"""

import logging
import os
from typing import TYPE_CHECKING

from sandboxd.errors import SandboxdError
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.limits import segments

if TYPE_CHECKING:
    from sandboxd.daemon.supervisor import Supervisor

log = logging.getLogger(__name__)
UNKNOWN = -1


class Segments:
    """The descriptors, by env and its init's pid."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self.supervisor = supervisor
        self._held: dict[str, tuple[int, int]] = {}

    def unattached(self, record: EnvRecord) -> int:
        """Bytes that no process of the env has attached, as far as that is known yet."""
        if record.init is None or record.spec.isolation.level != "full":
            return 0
        pid, fd = self._held.get(record.id, (0, UNKNOWN))
        if pid != record.init.pid:
            self.forget(record.id)
            self._held[record.id] = record.init.pid, UNKNOWN
            self.supervisor.own(self._ask(record.id, record.init.pid), name=f"segments-{record.name}")
            return 0
        return segments.unattached(fd) if fd != UNKNOWN else 0

    def forget(self, env_id: str) -> None:
        """That init has ended."""
        _, fd = self._held.pop(env_id, (0, UNKNOWN))
        if fd != UNKNOWN:
            os.close(fd)

    async def _ask(self, env_id: str, pid: int) -> None:
        actor = self.supervisor.actors.get(env_id)
        if actor is None or actor.body.unmet is not None or actor.body.link is None:
            self._held.pop(env_id, None)  # to be asked at the next look
            return
        try:
            fd = await actor.body.link.segments()
        except (SandboxdError, OSError) as error:  # an init of before, or no /proc/sysvipc
            log.debug("env %s: its shared memory is not known: %s", actor.record.name, error)
            return
        if self._held.get(env_id) == (pid, UNKNOWN):
            self._held[env_id] = pid, fd
        else:
            os.close(fd)
