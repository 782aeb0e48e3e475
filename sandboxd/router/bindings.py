"""Which names each address was told to one env for, so that a rule by name holds for what connects by address.

Pure. Imports routing only. Invariant: bounded; what is over is forgotten, the oldest first, and then only an address is known.
"""

import ipaddress
from collections import OrderedDict

from sandboxd.egress import Address

MOST_BOUND, MOST_NAMES = 4096, 16
MOST_LEFT = 1 << 20  # bytes of names that are told to another worker: 4096 addresses of one name of usual length are a tenth


class Bindings:
    """Of one env."""

    def __init__(self) -> None:
        self._bound: OrderedDict[Address, dict[str, None]] = OrderedDict()

    def names_of(self, address: Address) -> list[str]:
        """The names that the address was told for, the latest first."""
        return list(reversed(self._bound.get(address, {})))

    def bind(self, address: Address, name: str) -> None:
        """It is told for that name."""
        names = self._bound.setdefault(address, {})
        self._bound.move_to_end(address)
        names.pop(name, None)
        names[name] = None
        if len(names) > MOST_NAMES:
            del names[next(iter(names))]
        if len(self._bound) > MOST_BOUND:
            self._bound.popitem(last=False)

    def leave(self, most: int = MOST_LEFT) -> list[tuple[str, list[str]]]:
        """All of it, oldest first; of more than `most` bytes the latest."""
        found: list[tuple[str, list[str]]] = []
        for address, names in reversed(self._bound.items()):
            most -= sum(map(len, names))
            if most < 0:
                break
            found.append((str(address), list(names)))
        return found[::-1]

    def take_up(self, left: list[tuple[str, list[str]]]) -> None:
        """What another worker told this env, before what we did."""
        ours = [(address, list(names)) for address, names in self._bound.items()]
        self._bound.clear()
        for address, names in [*((ipaddress.ip_address(text), names) for text, names in left), *ours]:
            for name in names:
                self.bind(address, name)
