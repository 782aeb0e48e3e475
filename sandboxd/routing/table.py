"""The table the daemon pushes to the router: which host name leads to which endpoint; as a whole, or what changed of it.

Pure: imports msgspec, framing, keys and rules only. A snapshot replaces the one before it, and a change is made, at one stroke:
no request ever sees half of it. Invariant: `Routes.find` answers only for names that are in the table; what is not there is
unknown, and the caller's page must not list what is.
"""

import re
from typing import Literal

import msgspec

from sandboxd.routing.framing import FramingError
from sandboxd.routing.keys import Door
from sandboxd.routing.rules import Choices, Rule

LOCAL = b".localhost"
# RFC 3986 3.2.2 host and port, in the spellings that can be ours; an underscore is no DNS name, yet seen in the wild.
HOST = re.compile(rb"([0-9A-Za-z._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{0,5})?")


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One service of an env that can be reached.

    asleep: suspended, or stopped for having been idle; a request wakes it. dial: path of its dial.sock, "" for the host's own
    network. netns_cookie: what sockets born there must show (0: not known). owner: the uid whose loopback connections may come
    in. reason: why it is stopped or failed. init_pid: pid 1 of an env on the host's network (0: not known), whose processes may
    reach no other env. group: of an env with replicas the id of the first, which all of them share; replica: its number there;
    draining: no new request is to go there; sticky: browsers stay with the replica that they were sent to. max_connections: of
    all services of the env together, 0: any. share: as in a spec, "": nothing was said;
    token: what shows that somebody has its link. early: one that is starting, and is ready as soon as it listens on its port:
    a request that waits may find that out by itself.
    """

    env_id: str
    name: str
    service: str
    state: Literal["ready", "starting", "asleep", "stopped", "failed"]
    dial: str
    port: int | None
    netns_cookie: int
    owner: int
    reason: str = ""
    init_pid: int = 0
    group: str = ""
    replica: int = 0
    draining: bool = False
    sticky: bool = False
    max_connections: int = 0
    share: Literal["", "private", "box", "link"] = ""
    token: str = ""
    early: bool = False


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """host: lower case, no port, "shop.localhost". endpoint: its index in the table."""

    host: str
    endpoint: int


class RouteTable(msgspec.Struct, frozen=True, kw_only=True):
    """One snapshot. hold: seconds a request for a "starting" endpoint waits before it gets a 503.

    rules: of names whose requests are told apart by more than the name. doors: templates, whose envs have a route of the name
    SLOT@HOST for their key, which no Host field can say. base: what all names of ours end with; those that end with `localhost`
    mean the same.
    """

    version: int
    endpoints: list[Endpoint]
    routes: list[Route]
    hold: float = 30.0
    rules: list[Rule] = []
    doors: list[Door] = []
    base: str = "localhost"


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What makes one table of another that has no rules. base: the version it is made for. endpoints, routes: new, or others
    now, by index and by host. dropped, unrouted: indexes and hosts that are no more. gone: envs that are not named any more.
    """

    base: int
    version: int
    endpoints: dict[int, Endpoint] = {}
    dropped: list[int] = []
    routes: dict[str, int] = {}
    unrouted: list[str] = []
    gone: list[str] = []

    @property
    def is_empty(self) -> bool:
        """Whether it changes nothing."""
        return not (self.endpoints or self.dropped or self.routes or self.unrouted)


class Routes:
    """The table in force, made ready for look-ups by the raw value of a Host field. endpoints: by index; names: where
    each host name leads, by its bytes.
    """

    def __init__(self, table: RouteTable) -> None:
        """Routes whose index is out of range are left out: they lead nowhere."""
        self.version = table.version
        self.hold = table.hold
        self._base = b"" if table.base == "localhost" else b"." + spelled(table.base)
        self.endpoints = dict(enumerate(table.endpoints))
        self.names = {
            spelled(route.host): route.endpoint for route in table.routes if 0 <= route.endpoint < len(table.endpoints)
        }
        by_host: dict[bytes, list[Rule]] = {}
        for rule in table.rules:
            if 0 <= rule.endpoint < len(table.endpoints):
                by_host.setdefault(spelled(rule.host), []).append(rule)
        dead = frozenset(index for index, one in enumerate(table.endpoints) if one.state in ("stopped", "failed"))
        for host, rules in by_host.items():
            if host in self.names:  # the name's own place, where no condition holds
                rules.append(Rule(host=host.decode(), endpoint=self.names[host]))
        self._choices = {host: Choices(rules, dead) for host, rules in by_host.items()}

        self._doors = {spelled(door.host): door for door in table.doors}

    def apply(self, change: Change) -> bool:
        """Be another table; False: it was made for one that is not in force."""
        if change.base != self.version:
            return False
        self.version = change.version
        for index in change.dropped:
            self.endpoints.pop(index, None)
        self.endpoints.update(change.endpoints)
        for host in change.unrouted:
            self.names.pop(spelled(host), None)
        for host, index in change.routes.items():
            if index in self.endpoints:
                self.names[spelled(host)] = index
        return True

    def door(self, host: bytes) -> tuple[Door, str] | None:
        """The template that a Host value asks for, and the label before its name; raises FramingError."""
        if not self._doors:
            return None
        name = self._name(host)
        door = self._doors.get(name)
        if door is not None:
            return door, ""
        label, _, rest = name.partition(b".")
        door = self._doors.get(rest)
        return (door, label.decode("ascii")) if door is not None and {"host", "sni"} & {*door.keys} else None

    def of_slot(self, door: Door, slot: str) -> int | None:
        """The endpoint's index for a key of a template."""
        return self.names.get(f"{slot}@{door.host}".encode())

    def find(self, host: bytes) -> int | None:
        """The endpoint's index for a Host field's value, None when unknown; raises FramingError for what is no host at all."""
        return self.names.get(self._name(host))

    @property
    def has_rules(self) -> bool:
        """Whether `choose` ever chooses."""
        return bool(self._choices)

    def choose(self, host: bytes, target: bytes, fields: bytes, draw: float) -> Rule | None:
        """The rule for a request, None where its host has none or none that fits; raises FramingError."""
        choices = self._choices.get(self._name(host))
        return choices.choose(target, fields, draw) if choices is not None else None

    def is_ruled(self, host: bytes) -> bool:
        """Whether requests for that host are told apart one by one."""
        return self._name(host) in self._choices

    def _name(self, host: bytes) -> bytes:
        """A Host value as a name of the table, below the base domain what was said below `localhost`; raises FramingError."""
        name = bare(host)
        return name[: -len(LOCAL)] + self._base if self._base and name.endswith(LOCAL) else name


def spelled(host: str) -> bytes:
    """A name of ours as Host fields have it."""
    return host.lower().encode("ascii", "replace")


def bare(host: bytes) -> bytes:
    """A Host value without its port and trailing dot, in lower case; raises FramingError for what is no host."""
    match = HOST.fullmatch(host)
    if match is None:
        raise FramingError(400, "the Host field is no host name")
    return match[1].lower().removesuffix(b".")
