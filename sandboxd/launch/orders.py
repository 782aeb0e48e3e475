"""Orders for children on their way to the launcher: those of one turn of the loop go together, the first of them at once.

Imports the standard library. A burst of keys is planned in one turn, and each order that goes alone is a send, and a wake of a
launcher that has enough to do. So a message holds as many orders as went before it in that turn (1, 1, 2, 4, …): the launcher
starts with the first, and never waits for what is being gathered. Invariant: orders go out in the order in which they came,
and none is kept beyond its turn.
"""

import asyncio
import os
from collections.abc import Callable


class Orders:
    """Gathers them. send: takes a message."""

    def __init__(self, loop: asyncio.AbstractEventLoop, send: Callable[[bytes], None]) -> None:
        self._loop = loop
        self._send = send
        self._gathered: list[bytes] = []
        self._gone = 0  # in this turn

    def put(self, order: bytes) -> None:
        """One more, framed."""
        if not self._gathered and not self._gone:
            self._loop.call_soon(self._end_turn)
        self._gathered.append(order)
        if len(self._gathered) >= self._gone:
            is_first = not self._gone
            self._flush()
            if is_first:
                # The kernel wakes a reader on the core of who wrote, as one who sleeps at once (WF_SYNC, kernel/sched/fair.c).
                # But we go on planning for 1 ms, and meanwhile the reader is not moved, to an idle core neither.
                os.sched_yield()

    def _flush(self) -> None:
        gathered, self._gathered = self._gathered, []
        self._gone += len(gathered)
        self._send(b"".join(gathered))

    def _end_turn(self) -> None:
        if self._gathered:
            self._flush()
        self._gone = 0
