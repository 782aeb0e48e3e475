"""Who hears of what happens to envs: subscribers of events, and the watch over those that are to be looked at.

Imports the protocol's messages. Invariant: who does not take what is for him costs no more than SUBSCRIBER_CAP events.
"""

import asyncio
from collections import deque

from sandboxd.protocol.messages import Event

SUBSCRIBER_CAP = 1000


class Subscription:
    """One listener's events, oldest first; one that lags loses the oldest and is told how many."""

    def __init__(self) -> None:
        self.waiting: deque[Event] = deque(maxlen=SUBSCRIBER_CAP)
        self.arrived = asyncio.Event()

    def put(self, event: Event) -> None:
        """Add one."""
        self.waiting.append(event)
        self.arrived.set()

    async def take(self) -> list[Event]:
        """Wait for some, and take them all."""
        await self.arrived.wait()
        self.arrived.clear()
        taken = list(self.waiting)
        self.waiting.clear()
        return taken


class News:
    """Ids of envs that somebody is to look at."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.arrived = asyncio.Event()

    def add(self, env_id: str) -> None:
        """Have it looked at."""
        self.ids.add(env_id)
        self.arrived.set()

    def take(self) -> set[str]:
        """Those that are new."""
        taken, self.ids = self.ids, set()
        self.arrived.clear()
        return taken
