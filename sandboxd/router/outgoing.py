"""The master's side of what goes out: the one worker that has it, and those of programs before, which serve whom they have.

A worker of the program before is told to retire first, and leaves what it knows (which names an address was told for); only
then is there another, which is told that before it is told of any env. Nobody accepts in between: who connects waits in the
queue of a listener that the env's init holds. Imports routing. Invariant: one worker at most takes connections.
"""

from typing import TYPE_CHECKING

from sandboxd.routing import orders

if TYPE_CHECKING:
    from sandboxd.router.master import Master
    from sandboxd.router.process import Worker

EGRESS = -2  # the number of the worker that takes connections; -1 is nobody (`Master._pass_on`)
RETIRED_EGRESS = 1 << 24  # from here on: those of programs before


def goes_out(number: int) -> bool:
    """Whether that is the number of a worker of what goes out."""
    return number == EGRESS or number >= RETIRED_EGRESS


class Outgoing:
    """See above."""

    def __init__(self, master: "Master") -> None:
        self._master = master
        self._outlets: list[bytes] = []  # a whole table of them, then changes
        self._left: list[bytes] = []  # for a worker to come
        self._to_retire: set[int] = set()  # of the program before us, and not told yet
        self._retiring: set[int] = set()  # told, and not done with it

    @property
    def is_settled(self) -> bool:
        """Whether another program could take over now."""
        return not self._left and not self._retiring

    def inherit(self, number: int, speaks: int, place: int) -> int:
        """The number that a worker of the program before us has here. One that can leave nothing stays what it is."""
        if number == EGRESS and speaks < orders.LEAVES:
            return EGRESS
        number = RETIRED_EGRESS + place
        self._to_retire.add(number)
        return number

    def set(self, frame: bytes, order: orders.SetOutlets | orders.ChangeOutlets) -> None:
        """Tell of the ways out. There is a worker for them from the first env on that has one."""
        if isinstance(order, orders.SetOutlets):
            self._outlets = []
        self._outlets.append(orders.LENGTH.pack(len(frame)) + frame)
        for worker in self.workers():
            worker.wire.send(self._outlets[-1])
        self._retiring |= self._to_retire
        for number in self._to_retire:
            self._master.workers[number].wire.send(orders.encode(orders.Retire()))
        self._to_retire = set()
        if order.outlets:
            self._begin()

    def workers(self) -> list["Worker"]:
        """All of what goes out."""
        return [worker for number, worker in self._master.workers.items() if goes_out(number)]

    def first(self) -> list[bytes]:
        """What a new worker is told."""
        left, self._left = self._left, []
        return [*left, *self._outlets]

    def bequeathed(self, bequest: orders.Bequest) -> None:
        """One leaves what it knows of an env to the next."""
        worker = self._master.workers.get(EGRESS)
        if worker is None:
            self._left.append(orders.encode(bequest))
        else:
            worker.wire.send(orders.encode(bequest))

    def retired(self, number: int) -> None:
        """One takes nobody more, or has ended."""
        self._to_retire.discard(number)
        self._retiring.discard(number)
        if self._outlets:
            self._begin()

    def _begin(self) -> None:
        if EGRESS not in self._master.workers and not self._retiring and not self._to_retire:
            self._master.begin(EGRESS)
