"""An env's timers, by name: each posts one event, and one that is armed again replaces itself.

The event loop counts CLOCK_MONOTONIC, which stands still while the machine sleeps (clock_gettime(2)); what is to count that
time, too, is hastened by it afterwards. Imports lifecycle.events.
"""

import asyncio
from collections.abc import Callable

from sandboxd.lifecycle import events as ev


class Timers:
    """Those of one env."""

    def __init__(self, post: Callable[[ev.Event], None]) -> None:
        self._post = post
        self._armed: dict[str, tuple[float, ev.Event, asyncio.TimerHandle]] = {}

    def arm(self, name: str, after: float, event: ev.Event) -> None:
        """Post an event after some seconds."""
        self.disarm(name)
        loop = asyncio.get_running_loop()
        due = loop.time() + max(0.0, after)
        self._armed[name] = due, event, loop.call_at(due, self._post, event)

    def disarm(self, name: str = "") -> None:
        """Forget one, or all of them."""
        for each in [name] if name else list(self._armed):
            armed = self._armed.pop(each, None)
            if armed is not None:
                armed[2].cancel()

    def hasten(self, name: str, seconds: float) -> None:
        """So much of its time has passed unseen."""
        armed = self._armed.get(name)
        if armed is not None:
            self.arm(name, armed[0] - asyncio.get_running_loop().time() - seconds, armed[1])
