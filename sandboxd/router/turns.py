"""A connection to an env that bounds them: asked of the master first, made when it is granted, given back when it is closed.

Such a connection carries one request and is not kept: what is idle would keep the others waiting. A Turn stands where a Dial
stands otherwise, and becomes one when it is its turn. Each wait is bounded. Imports the dialer and routing.orders. Invariant:
whatever becomes of a turn, the master hears that it is over exactly once, unless it was the master that refused it.
"""

import _socket
import itertools
from collections.abc import Callable
from functools import partial
from typing import Protocol

from sandboxd.router.backends import Backend
from sandboxd.router.dialer import Dial
from sandboxd.router.loop import Loop, Timer, Watcher
from sandboxd.routing import orders


class Queued(Watcher, Protocol):
    """Who wants a connection, and may have to wait for it."""

    def connected(self, sock: _socket.socket) -> None:
        """It stands."""

    def unreachable(self, reason: str) -> None:
        """It cannot be had; the reason is the end of a sentence about the service."""

    def crowded(self, reason: str) -> None:
        """Others have all there are; the reason is the end of a sentence about the request."""


class Gate:
    """A worker's turns that wait, by number, the oldest first. patience: seconds for which one waits."""

    def __init__(self, loop: Loop, tell: Callable[[orders.Report], None], patience: float) -> None:
        self.loop = loop
        self.tell = tell
        self.patience = patience
        self.turns: dict[int, Turn] = {}
        self._numbers = itertools.count(1)
        self._timer: Timer | None = None

    def turn(self, backend: Backend, who: Queued) -> "Turn":
        """One for that place, not yet begun."""
        return Turn(self, backend, who)

    def seek(self, turn: "Turn", env_id: str) -> int:
        """Have it wait; returns its number."""
        number = next(self._numbers)
        self.turns[number] = turn
        self.tell(orders.Seek(env_id=env_id, number=number))
        self._watch()
        return number

    def told(self, order: orders.Admit) -> None:
        """The master's answer; what is not waited for any more was given back before it came."""
        turn = self.turns.get(order.number)
        if turn is not None:
            self.loop.on_behalf(turn.who, partial(turn.answered, granted=order.granted))

    def _watch(self) -> None:
        # One timer for all, which wait equally long: most are answered at once, and would leave theirs behind.
        if self._timer is None and self.turns:
            self._timer = self.loop.at(next(iter(self.turns.values())).until, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self.loop.now
        for number, turn in list(itertools.takewhile(lambda item: item[1].until <= now, self.turns.items())):
            if number in self.turns:  # one that gives up may take others along
                self.loop.on_behalf(turn.who, turn.late)
        self._watch()


class Turn:
    """See above. It has its place from `start` to `give`. until: when it has waited long enough."""

    __slots__ = ("_backend", "_bound", "_dial", "_gate", "_has_place", "_number", "until", "who")

    def __init__(self, gate: Gate, backend: Backend, who: Queued) -> None:
        self._gate = gate
        self._number = 0
        self._backend = backend
        self.who = who
        self._bound = 0.0
        self._has_place = False
        self._dial: Dial | None = None
        self.until = 0.0

    def start(self, bound: float) -> None:
        """Stand in line. `bound`: of the dial, once it is its turn."""
        self._bound = bound
        self._has_place = True
        self._backend.env.queued += 1
        self.until = self._gate.loop.now + self._gate.patience
        self._number = self._gate.seek(self, self._backend.env.env_id)

    def answered(self, *, granted: bool) -> None:
        """By the master."""
        self._step_out()
        if not granted:
            self._has_place = False
            self._backend.env.refused += 1
            self.who.crowded("as many as may wait for that are waiting already")
            return
        self._dial = Dial(self._backend, self._backend.endpoint.port or 0, self)
        self._dial.start(self._bound)

    def cancel(self) -> None:
        """Nobody wants it any more."""
        self._step_out()
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        self.give()

    def give(self) -> None:
        """The connection is closed, or will not be made: the next one may have its place."""
        if self._has_place:
            self._has_place = False
            self._gate.tell(orders.Leave(env_id=self._backend.env.env_id, number=self._number))

    def connected(self, sock: _socket.socket) -> None:
        """From the dial."""
        self._dial = None
        self.who.connected(sock)

    def unreachable(self, reason: str) -> None:
        """From the dial."""
        self._dial = None
        self.give()
        self.who.unreachable(reason)

    def late(self) -> None:
        """It has waited long enough."""
        self._step_out()
        self.give()
        self._backend.env.refused += 1
        self.who.crowded(f"none became free within {self._gate.patience:.0f} s")

    def _step_out(self) -> None:
        """It waits no longer."""
        if self._gate.turns.pop(self._number, None) is not None:
            self._backend.env.queued -= 1
