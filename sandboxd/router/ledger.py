"""What went out of one env: counted, and the latest kept, as `net` shows it.

Passages end by the thousand and are seldom looked at, so that only their facts are kept and put into words when somebody asks.
Imports outbound's words and routing.orders. Invariant: what is kept of an env is bounded.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import Protocol

from sandboxd.egress import HOST, HOST_NAMES, Address, Verdict
from sandboxd.routing import orders
from sandboxd.routing.outlets import Left, Passage

MOST_KEPT = 64

Facts = tuple[int, list[str], Address | None, int, str, Verdict, str, int, int, float]


class Passing(Protocol):
    """One connection, as `Outbound` is. address None: not known yet."""

    number: int
    names: list[str]
    address: Address | None
    port: int
    state: str
    verdict: Verdict
    reason: str
    began: float

    @property
    def sent(self) -> int:
        """Bytes from the env."""

    @property
    def received(self) -> int:
        """Bytes to the env."""


def facts(one: Passing) -> Facts:
    """All that is to be known of it later."""
    verdict, state = one.verdict, one.state
    return one.number, one.names, one.address, one.port, state, verdict, one.reason, one.sent, one.received, one.began


def told(known: Facts) -> Passage:
    """In words."""
    number, names, address, port, state, verdict, reason, sent, received, began = known
    return Passage(
        number=number,
        name=HOST_NAMES[0] if address == HOST else (names or [""])[0],
        address="" if address is None else str(address),
        port=port,
        state=state,
        rule=verdict.rule,
        lacking=verdict.lacking,
        reason=reason,
        sent=sent,
        received=received,
        began=began,
    )


class Ledger:
    """total: connections begun; sent, received: bytes of those that are over."""

    def __init__(self, env_id: str) -> None:
        self.env_id = env_id
        self.total = self.denied = self.sent = self.received = 0
        self._denied: OrderedDict[tuple[str, int], Passage] = OrderedDict()
        self._ended: deque[Facts | Passage] = deque(maxlen=MOST_KEPT)
        self._before = (0, 0, 0, 0)  # what another counted for us; less than nothing: what we left to another

    def end(self, one: Passing) -> None:
        """A connection is over."""
        self.sent += one.sent
        self.received += one.received
        if one.state == "denied":
            self.deny(told(facts(one)))
        else:
            self._ended.append(facts(one))

    def deny(self, seen: Passage) -> None:
        """Keep what was denied, each place once."""
        self.denied += 1
        self._keep(seen)

    def _keep(self, seen: Passage) -> None:
        self._denied.pop((seen.name or seen.address, seen.port), None)
        self._denied[seen.name or seen.address, seen.port] = seen
        while len(self._denied) > MOST_KEPT:
            self._denied.popitem(last=False)

    def traffic(self, alive: Iterable[Passing]) -> orders.Traffic:
        """In numbers."""
        living = list(alive)
        return orders.Traffic(
            open=0,
            requests=0,
            bytes_in=0,
            bytes_out=0,
            out_open=len(living),
            out_begun=self.total,
            out_denied=self.denied,
            out_sent=self.sent + sum(one.sent for one in living),
            out_received=self.received + sum(one.received for one in living),
        )

    def flows(self, alive: Iterable[Passing]) -> orders.Flows:
        """All that is known."""
        living = sorted(alive, key=lambda one: one.number)
        sums = self.traffic(living)
        total, denied, sent, received = self._before
        return orders.Flows(
            env_id=self.env_id,
            passages=[*self._over(), *(told(facts(one)) for one in living)],
            total=total + sums.out_begun,
            denied=denied + sums.out_denied,
            sent=sent + sums.out_sent,
            received=received + sums.out_received,
        )

    def _over(self) -> list[Passage]:
        return [*(one if isinstance(one, Passage) else told(one) for one in self._ended), *self._denied.values()]

    def leave(self) -> Left:
        """What is over, for another to tell of; from here on it is not ours to tell."""
        own = (self.total, self.denied, self.sent, self.received)
        total, denied, sent, received = map(sum, zip(own, self._before, strict=True))
        left = Left(env_id=self.env_id, passages=self._over(), total=total, denied=denied, sent=sent, received=received)
        self._before = (-self.total, -self.denied, -self.sent, -self.received)
        self._ended.clear()
        self._denied.clear()
        return left

    def take_up(self, left: Left) -> None:
        """Tell of it from here on."""
        others = (left.total, left.denied, left.sent, left.received)
        total, denied, sent, received = map(sum, zip(others, self._before, strict=True))
        self._before = (total, denied, sent, received)
        for seen in left.passages[-2 * MOST_KEPT :]:
            if seen.state == "denied":
                self._keep(seen)
            else:
                self._ended.append(seen)
