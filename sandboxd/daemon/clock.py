"""The time that envs live by (`lifecycle.clock`), from the kernel's clocks, with its offset kept in the journal.

Reads clocks and the boot id; `slept` tells once of each stretch in which the machine slept. Nothing else of the daemon that
decides about envs asks the wall clock.
"""

import logging
import time

from sandboxd.errors import StoreFailed
from sandboxd.kernel.pidfd import boot_id
from sandboxd.lifecycle.clock import ahead, offset_of, words
from sandboxd.store.journal import Journal

log = logging.getLogger(__name__)
FACT = "clock"
SLEPT = 0.5  # seconds; the two clocks are not read in one instant


class Clock:
    """One daemon's."""

    def __init__(self, journal: Journal) -> None:
        boot = boot_id()
        kept = journal.fact(FACT)
        self._offset = offset_of(kept, boot, time.time(), boottime())
        self._asleep = boottime() - time.monotonic()
        self.began = self.now()
        if words(boot, self._offset) != kept:
            try:
                journal.put_fact(FACT, words(boot, self._offset))
            except StoreFailed as error:  # a full disk: then the next daemon may count from another moment
                log.warning("the time that envs live by cannot be kept: %s", error)

    def now(self) -> float:
        """Seconds, much like those since the epoch."""
        return self._offset + boottime()

    def ahead(self) -> float:
        """How far the wall clock was set since this boot's first daemon began."""
        return ahead(time.time(), self.now())

    def slept(self) -> float:
        """Seconds that the machine slept since this was asked last."""
        asleep = boottime() - time.monotonic()
        since, self._asleep = asleep - self._asleep, asleep
        if since < SLEPT:
            return 0.0
        log.info("this machine slept for %.0f s", since)
        return since


def boottime() -> float:
    """Seconds since the boot, those asleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
