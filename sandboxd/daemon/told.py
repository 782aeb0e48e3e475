"""The table as the router was told it last, and what to tell it next: only what changed, where that will do. Pure.

A change of one env costs what that env costs, not what all of them do: neither here nor in the router's workers. A whole table
it is where names are contested, where rules are (one env's can bear on another's), and after MOST_CHANGES, or as many as there
are envs in it, since a worker that comes later is told all changes since. Imports lifecycle, routes and routing. Invariant: the
tables told, changed by the changes told, are those that `route_table` makes.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from sandboxd.daemon.routes import Ground, reached, route_table
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.routing.table import Change, Endpoint, RouteTable

MOST_CHANGES = 512


class Taker(Protocol):
    """The router."""

    def change(self, change: Change) -> bool:
        """Change its table; False: it takes a whole one."""

    def push(self, table: RouteTable) -> None:
        """Have it use this table."""


class Told:
    """See above. Endpoints keep their index from one whole table to the next."""

    def __init__(self, version: int) -> None:
        """`version`: below all that are told."""
        self.version = version
        self._ground: Ground | None = None
        self._changes = 0
        self._next = 0
        self._endpoints: dict[str, dict[int, Endpoint]] = {}
        self._hosts: dict[str, dict[str, int]] = {}
        self._holders: dict[str, str] = {}

    def tell(self, router: Taker, records: Mapping[str, EnvRecord], changed: Collection[str] | None, ground: Ground) -> None:
        """Tell what changed. records: of all envs, by id; changed: which of them, or of those that are gone; None: any."""
        change = None if changed is None else self.change({env_id: records.get(env_id) for env_id in changed}, ground)
        if change is None or not (change.is_empty or router.change(change)):
            router.push(self.table(list(records.values()), ground))

    def table(self, records: Sequence[EnvRecord], ground: Ground) -> RouteTable:
        """The whole of it."""
        self.version += 1
        table = route_table(records, ground, version=self.version)
        self._ground = None if table.rules else ground
        self._changes = 0
        self._next = len(table.endpoints)
        self._endpoints, self._hosts, self._holders = {}, {}, {}
        for index, endpoint in enumerate(table.endpoints):
            self._endpoints.setdefault(endpoint.env_id, {})[index] = endpoint
        for route in table.routes:
            env_id = table.endpoints[route.endpoint].env_id
            if self._holders.setdefault(route.host, env_id) != env_id:
                self._ground = None  # who comes second would have to come to light when the first one goes
            self._hosts.setdefault(env_id, {})[route.host] = route.endpoint
        return table

    def change(self, records: Mapping[str, EnvRecord | None], ground: Ground) -> Change | None:
        """What to tell of these envs (None: it is gone). None: it takes a whole table."""
        if self._ground is None or ground != self._ground or self._changes >= max(MOST_CHANGES, len(self._endpoints)):
            return None
        self._ground = None  # until this has come to its end
        parts = Parts()
        for env_id, record in records.items():
            if record is not None and record.spec.routes:
                return None
            if not self._compare(env_id, record, ground, parts):
                return None
        self._ground = ground
        change = Change(
            base=self.version,
            version=self.version + 1,
            endpoints=parts.endpoints,
            dropped=parts.dropped,
            routes=parts.routes,
            unrouted=parts.unrouted,
            gone=parts.gone,
        )
        if not change.is_empty:
            self.version += 1
            self._changes += 1
        return change

    def _compare(self, env_id: str, record: EnvRecord | None, ground: Ground, parts: "Parts") -> bool:
        """What became of one env; False: one of its names is another's."""
        endpoints, hosts = reached(record, ground) if record is not None else ([], [])
        old = self._endpoints.get(env_id, {})
        places = {endpoint.service: index for index, endpoint in old.items()}
        new: dict[int, Endpoint] = {}
        for endpoint in endpoints:
            index = places.get(endpoint.service, self._next)
            self._next += index == self._next
            new[index] = endpoint
            if old.get(index) != endpoint:
                parts.endpoints[index] = endpoint
        parts.dropped += [index for index in old if index not in new]
        indexes = list(new)
        named = {host: indexes[at] for host, at in hosts}
        known = self._hosts.get(env_id, {})
        for host in known.keys() - named.keys():
            parts.unrouted.append(host)
            del self._holders[host]
        for host, index in named.items():
            if self._holders.setdefault(host, env_id) != env_id:
                return False
            if known.get(host) != index:
                parts.routes[host] = index
        if old and not new:
            parts.gone.append(env_id)
        self._endpoints[env_id], self._hosts[env_id] = new, named
        if not new:
            del self._endpoints[env_id], self._hosts[env_id]
        return True


class Parts:
    """Of a change."""

    def __init__(self) -> None:
        self.endpoints: dict[int, Endpoint] = {}
        self.dropped: list[int] = []
        self.routes: dict[str, int] = {}
        self.unrouted: list[str] = []
        self.gone: list[str] = []
