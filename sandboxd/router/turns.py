"""A connection to an env that bounds them: asked of the master first, made when it is granted, given back when it is closed.

Such a connection carries one request and is not kept: what is idle would keep the others waiting. A Turn stands where a Dial
stands otherwise, and becomes one when it is its turn. Each wait is bounded. Imports the dialer and routing.orders. Invariant:
whatever becomes of a turn, the master hears that it is over exactly once, unless it was the master that refused it.
"""

import _socket
import itertools
from collections.abc import Callable
from typing import Protocol

from sandboxd.router.backends import Backend
from sandboxd.router.dialer import Dial
from sandboxd.router.loop import Loop, Timer
from sandboxd.routing import orders


class Queued(Protocol):
    """Who wants a connection, and may have to wait for it."""

    def connected(self, sock: _socket.socket) -> None:
        """It stands."""

    def unreachable(self, reason: str) -> None:
        """It cannot be had; the reason is the end of a sentence about the service."""

    def crowded(self, reason: str) -> None:
        """Others have all there are; the reason is the end of a sentence about the request."""


class Gate:
    """A worker's turns, by number. patience: seconds for which one waits."""

    def __init__(self, loop: Loop, tell: Callable[[orders.Report], None], patience: float) -> None:
        self.loop = loop
        self.tell = tell
        self.patience = patience
        self.turns: dict[int, Turn] = {}
        self._numbers = itertools.count(1)

    def turn(self, backend: Backend, who: Queued) -> "Turn":
        """One for that place, not yet begun."""
        return Turn(self, next(self._numbers), backend, who)

    def told(self, order: orders.Admit) -> None:
        """The master's answer; what is not waited for any more was given back before it came."""
        turn = self.turns.pop(order.number, None)
        if turn is not None:
            turn.answered(granted=order.granted)


class Turn:
    """See above. It has its place from `start` to `give`."""

    __slots__ = ("_backend", "_bound", "_dial", "_gate", "_has_place", "_number", "_timer", "_who")

    def __init__(self, gate: Gate, number: int, backend: Backend, who: Queued) -> None:
        self._gate = gate
        self._number = number
        self._backend = backend
        self._who = who
        self._bound = 0.0
        self._has_place = False
        self._timer: Timer | None = None
        self._dial: Dial | None = None

    def start(self, bound: float) -> None:
        """Stand in line. `bound`: of the dial, once it is its turn."""
        gate = self._gate
        self._bound = bound
        self._has_place = True
        self._timer = gate.loop.at(gate.loop.now + gate.patience, self._late)
        self._backend.env.queued += 1
        gate.turns[self._number] = self
        gate.tell(orders.Seek(env_id=self._backend.env.env_id, number=self._number))

    def answered(self, *, granted: bool) -> None:
        """By the master."""
        self._step_out()
        if not granted:
            self._has_place = False
            self._backend.env.refused += 1
            self._who.crowded("as many as may wait for that are waiting already")
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
        self._who.connected(sock)

    def unreachable(self, reason: str) -> None:
        """From the dial."""
        self._dial = None
        self.give()
        self._who.unreachable(reason)

    def _late(self) -> None:
        self._step_out()
        self.give()
        self._backend.env.refused += 1
        self._who.crowded(f"none became free within {self._gate.patience:.0f} s")

    def _step_out(self) -> None:
        """It waits no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._backend.env.queued -= 1
            self._gate.turns.pop(self._number, None)
