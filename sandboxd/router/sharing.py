"""How many connections a worker takes at a time, so that several have about as many each, and one that is full takes none.

Each tells the others its number in shared memory. One that has far more than another leaves what waits to that one for a
moment, in which it must not sleep through its own connections' end: `yields` says that it does. Imports nothing of ours.
"""

BATCH = 64  # connections taken at a time by one that is alone
SHARE = 14  # and by one of several
SLACK = 14  # how many more than the fewest of any; not less: by chance one has more of short ones, and those wait for nothing


class Share:
    """One worker's. loads: how many connections each has; ours is that of `number`. most: that ours may have."""

    __slots__ = ("loads", "most", "number", "yields")

    def __init__(self, loads: memoryview, number: int, most: int) -> None:
        self.loads = loads
        self.number = number
        self.most = most
        self.yields = False

    def room(self, held: int) -> int:
        """How many can be taken now; 0: none. Negative: one, but others have fewer and are to take the next."""
        if len(self.loads) == 1:
            return min(BATCH, self.most - held)
        self.loads[self.number] = held
        fewest = min(self.loads)
        room = min(SHARE, self.most - held)
        fair = fewest + SLACK + fewest // 4 - held
        if fair > 0 or room <= 0:
            return min(room, fair)
        self.yields = True
        return -1

    def takes_again(self, held: int) -> bool:
        """Whether it need leave nothing to others any more; asked when it has one less while it `yields`."""
        self.yields = False
        return self.room(held) > 0
