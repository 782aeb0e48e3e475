"""The daemon's side of the egress worker: which envs have a way out, and what goes out of one. Part of the router's handle.

Nearly every env has a way out, so that only what changed is told: as a whole at first, and after MOST_CHANGES, or as many as
there are ways, since a worker that comes later is told all changes since.
"""

import itertools
from collections.abc import Awaitable, Callable, Mapping

from sandboxd.routing import orders
from sandboxd.routing.outlets import Outlet

MOST_CHANGES = 512


class Ways:
    """Pushes what changed, asks what there is. speaks: the version of the router's orders."""

    def __init__(
        self,
        send: Callable[[bytes], None],
        order: Callable[[orders.Numbered], Awaitable[orders.Done]],
        numbers: "itertools.count[int]",
    ) -> None:
        self.speaks = 0
        self._send = send
        self._order = order
        self._numbers = numbers
        self._outlets: dict[str, Outlet] = {}
        self._ground: tuple[list[str], list[int]] | None = None
        self._changes = 0
        self._flows: dict[str, orders.Flows] = {}

    @property
    def is_told(self) -> bool:
        """Whether the worker knows of all of them, so that changes will do."""
        return self._ground is not None

    def push(self, outlets: Mapping[str, Outlet | None], *, resolvers: list[str], own: list[int], whole: bool) -> None:
        """Have these be the ways out of these envs, and of no others if that is the whole. resolvers, own: see SetOutlets."""
        found = {env_id: one for env_id, one in outlets.items() if one is not None}
        known = self._outlets if whole else self._outlets.keys() & outlets.keys()
        gone = [env_id for env_id in known if env_id not in found]
        new = [one for env_id, one in found.items() if self._outlets.get(env_id) != one]
        changed = self._ground != (resolvers, own) or bool(new or gone)
        as_whole = (
            self._ground != (resolvers, own)
            or self._changes >= max(MOST_CHANGES, len(self._outlets))
            or self.speaks < orders.WAYS
        )
        self._ground = resolvers, own
        for env_id in gone:
            del self._outlets[env_id]
        self._outlets |= {one.env_id: one for one in new}
        if changed and as_whole:
            self._changes = 0
            every = list(self._outlets.values())
            self._send(orders.encode(orders.SetOutlets(outlets=every, resolvers=resolvers, own=own)))
        elif changed:
            self._changes += 1
            self._send(orders.encode(orders.ChangeOutlets(outlets=new, gone=gone)))

    async def look(self, env_id: str) -> orders.Flows:
        """What of an env goes out; raises TimedOut, Internal."""
        await self._order(orders.Look(order=next(self._numbers), env_id=env_id))
        return self._flows.pop(env_id, None) or orders.Flows(env_id=env_id, passages=[])

    def told(self, flows: orders.Flows) -> None:
        """A worker's answer to a look, which comes before it is done. Several have some of it while one retires."""
        before = self._flows.get(flows.env_id)
        self._flows[flows.env_id] = flows if before is None else both(before, flows)


def both(one: orders.Flows, other: orders.Flows) -> orders.Flows:
    """What two workers say of one env, as one."""
    return orders.Flows(
        env_id=one.env_id,
        passages=sorted((*one.passages, *other.passages), key=lambda passage: passage.state == "open"),
        total=one.total + other.total,
        denied=one.denied + other.denied,
        sent=one.sent + other.sent,
        received=one.received + other.received,
    )
