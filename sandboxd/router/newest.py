"""Whether the table in force is as new as what a client may have been told: whoever hears that an env runs asks for it at once.

The daemon tells the router before it answers its own client, but the table may stand in a socket on its way here while the
request overtakes it. So nobody is sent away by a table (unknown, stopped, failed) before the master was asked whether another
one is on its way: it takes all that the daemon has sent, passes it on, and answers behind it. Imports orders and the loop.
Invariant: each who waits here is also held, and so is answered by his deadline.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from sandboxd.router.loop import Loop, Watcher
from sandboxd.routing import orders

UNASKED = 0
CERTAIN = -1


class Doubter(Watcher, Protocol):
    """Who is about to be sent away. ticket: UNASKED for each new request; this module's from there on."""

    ticket: int

    def reconsider(self) -> None:
        """Every table that was on its way is in force."""


class Newest:
    """Those who asked, in turn: answers come in the order of questions. begun: there is a table; before the first one, which a
    daemon that looks for its envs may take a while for, nobody need ask."""

    def __init__(self, loop: Loop, tell: Callable[[orders.Report], None]) -> None:
        self._loop = loop
        self._tell = tell
        self._asking: deque[tuple[Doubter, int]] = deque()
        self._tickets = UNASKED
        self.begun = False

    def is_certain(self, who: Doubter) -> bool:
        """Whether no newer table is on its way; else that is asked, once, and `reconsider` called when it is known."""
        if who.ticket == UNASKED and self.begun:
            self._tickets += 1
            who.ticket = self._tickets
            self._asking.append((who, who.ticket))
            self._tell(orders.AskNewest())
        return who.ticket == CERTAIN

    def told(self) -> None:
        """The first who asked has the answer, unless another request of his is under way by now."""
        who, ticket = self._asking.popleft()
        if who.ticket == ticket:
            who.ticket = CERTAIN
            self._loop.on_behalf(who, who.reconsider)
