"""The daemon's side of the egress worker: which envs have a way out, and what goes out of one. Part of the router's handle."""

import itertools
from collections.abc import Awaitable, Callable

from sandboxd.routing import orders


class Ways:
    """Pushes what changed, asks what there is."""

    def __init__(
        self,
        send: Callable[[bytes], None],
        order: Callable[[orders.Numbered], Awaitable[orders.Done]],
        numbers: "itertools.count[int]",
    ) -> None:
        self._send = send
        self._order = order
        self._numbers = numbers
        self._pushed: orders.SetOutlets | None = None
        self._flows: dict[str, orders.Flows] = {}

    def push(self, outlets: orders.SetOutlets) -> None:
        """Have these be the ways out, unless they are."""
        if outlets != self._pushed:
            self._send(orders.encode(outlets))
        self._pushed = outlets

    async def look(self, env_id: str) -> orders.Flows:
        """What of an env goes out; raises TimedOut, Internal."""
        await self._order(orders.Look(order=next(self._numbers), env_id=env_id))
        return self._flows.pop(env_id, None) or orders.Flows(env_id=env_id, passages=[])

    def told(self, flows: orders.Flows) -> None:
        """The worker's answer to a look, which comes before it is done."""
        self._flows[flows.env_id] = flows
