"""The pools of places for envs to come (parked children, directories with their sockets), as large as the demand of late.

`lifecycle.pool` decides. A user's quota of namespaces is for envs: the pool takes no more than an eighth of it.
"""

import time
from typing import TYPE_CHECKING

from sandboxd.lifecycle.pool import noted, wanted

if TYPE_CHECKING:
    from sandboxd.daemon.supervisor import Supervisor


class Pooling:
    """How many started at once of late."""

    def __init__(self, supervisor: "Supervisor") -> None:
        self.supervisor = supervisor
        self._bursts: dict[int, int] = {}

    def note(self) -> None:
        """An env is about to be made."""
        self._bursts = noted(self._bursts, 1 + len(self.supervisor.roll.coming), time.monotonic())
        self.tend()

    def tend(self) -> None:
        """Have the pools be as large as is wanted now; called once a second, too."""
        supervisor = self.supervisor
        usual, quota = supervisor.settings.pool, supervisor.admission.ceilings.namespaces
        count = wanted(self._bursts, usual, time.monotonic())
        if quota is not None:
            count = min(count, max(usual, quota // 8))
        supervisor.launcher.resize(count)
        supervisor.berths.resize(count)
