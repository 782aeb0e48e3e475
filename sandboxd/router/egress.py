"""The egress worker: relay and resolver of all that goes out of envs, forked by the router's master as its other workers are.

Wiring only: orders in, outlets changed. It serves on while there is no daemon, and where it ends by itself the master forks
another, which asks each env's init for the listeners again. One process for all: an env that makes it wait is cut off by the
loop's own watch (`loop.guard`). Invariant: what is in no table, or was released, holds nothing of its env's network open.
"""

import gc
import logging
import socket

from sandboxd.kernel.fds import raise_limit
from sandboxd.router.bindings import MOST_LEFT
from sandboxd.router.control import Wire
from sandboxd.router.listener import split_address
from sandboxd.router.loop import Loop, Signals
from sandboxd.router.outlet import MOST_PASSAGES, SOON, Outlet
from sandboxd.router.pipes import Pipes
from sandboxd.router.resolver import Resolver
from sandboxd.routing import orders
from sandboxd.routing.framing import Bounds
from sandboxd.routing.outlets import Left
from sandboxd.routing.outlets import Outlet as Given

TRIM = 10.0
SHARE = 8  # of the descriptors of all envs, two a connection, that one env may have
ALL_LEFT = 24 << 20  # bytes of names of all envs that another worker is told: well below `control.MOST_UNSENT`
REPORT = 1.0  # seconds between counts, while there is something to count

log = logging.getLogger("sandboxd.egress")


class Egress:
    """Everything the worker holds. own: the router's ports. numbers: of connections, counted through."""

    def __init__(self, bounds: Bounds, link: socket.socket) -> None:
        self.loop = Loop()
        self.pipes = Pipes(bounds.pipes)
        self.resolver = Resolver(self.loop)
        self.outlets: dict[str, Outlet] = {}
        self.own: frozenset[int] = frozenset()
        self.numbers = 0
        self._trimming = False
        self._retired = False
        self._left: dict[str, list[Left]] = {}  # of envs that we were not told of yet
        self._active: set[Outlet] = set()
        self._wire = Wire(self.loop, link, self._take, self.loop.stop)
        self._signals = Signals(self.loop, self.loop.stop)
        self.most = min(MOST_PASSAGES, raise_limit() // SHARE)

    def run(self) -> None:
        """Serve until told to stop."""
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        try:
            self.loop.run()
        finally:
            for outlet in self.outlets.values():
                outlet.release()
            self.resolver.close()
            self.pipes.close()
            self._wire.close()
            self._signals.close()
            self.loop.close()

    def _take(self, frame: bytes) -> None:
        """Do what the master wants, and answer where an answer is due."""
        order = orders.decode(orders.egress_decoder, frame)
        match order:
            case None:
                log.warning("an order was not understood: %d bytes", len(frame))
            case orders.SetOutlets():
                self.own = frozenset(order.own)
                for held in self.outlets.values():
                    held.forget_ways()
                self.resolver.given = [split_address(address) for address in order.resolvers]
                wanted = {one.env_id for one in order.outlets}
                self._set(order.outlets, [env_id for env_id in self.outlets if env_id not in wanted])
                self._left.clear()  # what is left is of envs that are gone
            case orders.ChangeOutlets():
                self._set(order.outlets, order.gone)
            case orders.Release():
                outlet = self.outlets.get(order.env_id)
                if outlet is not None:
                    outlet.release()
                self._tell(orders.Done(order=order.order))
            case orders.Look():
                outlet = self.outlets.get(order.env_id)
                self._tell(outlet.flows() if outlet is not None else orders.Flows(env_id=order.env_id, passages=[]))
                self._tell(orders.Done(order=order.order))
            case orders.Bequest():
                self._take_up(order.left)
            case orders.Retire():
                self._retire()
            case orders.Stop():
                self.loop.stop()
            case orders.Ping():
                self._tell(orders.Done(order=order.order))
            case orders.Count():
                self._report()
                self._tell(orders.Done(order=order.order))

    def _take_up(self, left: Left) -> None:
        """Go on from what another worker knew of an env, which may come before the order to let it out."""
        self.numbers = max(self.numbers, left.numbers)
        outlet = self.outlets.get(left.env_id)
        if outlet is not None:
            outlet.take_up(left)
        elif not self._retired:
            self._left.setdefault(left.env_id, []).append(left)

    def _retire(self) -> None:
        """Leave what is known to another worker, which is not there before that; serve who is connected, end with the last."""
        self._retired = True
        most = min(MOST_LEFT, ALL_LEFT // max(1, len(self.outlets)))
        for outlet in self.outlets.values():
            self._tell(orders.Bequest(left=outlet.leave(most)))
            outlet.told_of = None
            self.note(outlet)  # the master is another one now, and has heard nothing of it
        self._tell(orders.Retired())
        self._leave_if_done()

    def ended(self, outlet: Outlet) -> None:
        """From an outlet: a connection of its is over."""
        if self._retired:
            self._tell(orders.Bequest(left=outlet.ledger.leave()))
            self._leave_if_done()

    def _leave_if_done(self) -> None:
        if not self._retired or any(outlet.passages for outlet in self.outlets.values()):
            return
        self._report()
        if self._wire.is_flushed:
            self.loop.stop()
        else:
            self.loop.at(self.loop.now + SOON, self._leave_if_done)

    def _tell(self, report: orders.Report) -> None:
        self._wire.send(orders.encode(report))

    def _set(self, wanted: list[Given], gone: list[str]) -> None:
        """Let go of those that are gone, change those that changed, begin those that are new."""
        for env_id in gone:
            outlet = self.outlets.pop(env_id, None)
            if outlet is not None:
                outlet.release()
        for now in wanted:
            outlet = self.outlets.get(now.env_id)
            if outlet is not None and (now.dial, now.cookie) == (outlet.order.dial, outlet.order.cookie):
                if now.rules != outlet.order.rules:
                    outlet.change(now)
                continue
            if outlet is not None:
                outlet.release()
            if self._retired:
                continue
            outlet = self.outlets[now.env_id] = Outlet(self, now)
            for left in self._left.pop(now.env_id, []):
                outlet.take_up(left)
        if self.outlets and not self._trimming:
            self._trimming = True
            self.loop.at(self.loop.now + TRIM, self._trim)

    def note(self, outlet: Outlet) -> None:
        """Something goes out there."""
        if not self._active:
            self.loop.at(self.loop.now + REPORT, self._tick)
        self._active.add(outlet)

    def _tick(self) -> None:
        self._report()
        self._active = {outlet for outlet in self._active if outlet.passages}
        if self._active:
            self.loop.at(self.loop.now + REPORT, self._tick)

    def _report(self) -> None:
        """Send the counts that changed."""
        envs = {}
        for outlet in self._active:
            traffic = outlet.traffic()
            if traffic != outlet.told_of and self.outlets.get(outlet.order.env_id) is outlet:
                outlet.told_of = envs[outlet.order.env_id] = traffic
        if envs:
            self._tell(orders.Counts(envs=envs))

    def _trim(self) -> None:
        """Pipes that nobody needed go back; an idle worker sleeps."""
        self.pipes.trim()
        self._trimming = any(outlet.passages for outlet in self.outlets.values()) or self.pipes.made > 0
        if self._trimming:
            self.loop.at(self.loop.now + TRIM, self._trim)
