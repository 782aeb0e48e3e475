"""What the router knows at run time about the endpoints of the table in force: counts, open connections, ready sockets.

A snapshot of the table is pure data; a Backend carries what outlives a snapshot. It is kept as long as the endpoint is the
same place (env, service, socket, namespace, port) and made anew when one of these changed, so that a connection kept to an
env that was stopped and started again is never used for the new one. Imports routing.table and the dialer's Stock.
"""

import random
import socket
from collections.abc import Container
from typing import Protocol

from sandboxd.router.dialer import Stock
from sandboxd.router.loop import Loop
from sandboxd.routing.balance import Candidate, pick
from sandboxd.routing.orders import Traffic
from sandboxd.routing.requests import Request
from sandboxd.routing.responses import Response
from sandboxd.routing.rules import Rule
from sandboxd.routing.table import Endpoint, Routes, RouteTable

MOST_SPELLINGS = 4096
Place = tuple[str, str, str, int, int | None]


class Held(Protocol):
    """Something that holds a connection to an env, or waits for one."""

    def release(self) -> None:
        """Let go of it now."""


class Env:
    """One env, over all its endpoints."""

    __slots__ = ("blocked_until", "bytes_in", "bytes_out", "env_id", "held", "open", "reported", "requests", "stocks")

    def __init__(self, env_id: str) -> None:
        self.env_id = env_id
        self.held: set[Held] = set()
        self.stocks: dict[tuple[str, int], Stock] = {}
        self.open = 0
        self.requests = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.blocked_until = 0.0
        self.reported = (0, 0, 0, 0, 0, 0, 0)

    def release(self) -> None:
        """Close every connection and every ready socket."""
        for held in list(self.held):
            held.release()
        for stock in self.stocks.values():
            stock.end()
        self.stocks.clear()

    def traffic(self, busy: int, tunnels: int, tunnelled: int) -> Traffic | None:
        """The counts, if they changed since they were asked for last."""
        counts = (self.open, self.requests, self.bytes_in, self.bytes_out, busy, tunnels, tunnelled)
        if counts == self.reported:
            return None
        self.reported = counts
        return Traffic(
            open=self.open,
            requests=self.requests,
            bytes_in=self.bytes_in,
            bytes_out=self.bytes_out,
            busy=busy,
            tunnels=tunnels,
            tunnelled=tunnelled,
        )


class Backend:
    """One endpoint. family: which of 127.0.0.1 and ::1 answered last. peers: all replicas, of the first one. size, last, known:
    see `Upstream`."""

    __slots__ = ("_stock", "endpoint", "env", "family", "known", "last", "loop", "peers", "size")

    def __init__(self, endpoint: Endpoint, env: Env, loop: Loop) -> None:
        self.endpoint = endpoint
        self.env = env
        self.loop = loop
        self.family: int = socket.AF_INET
        self.peers: list[Backend] = []
        self._stock: Stock | None = None
        self.size = 0
        self.last = b"\0"
        self.known: Response | None = None

    @property
    def stock(self) -> Stock:
        """Where sockets for it come from."""
        if self._stock is not None and not self._stock.over:
            return self._stock
        endpoint = self.endpoint
        key = (endpoint.dial, endpoint.netns_cookie)
        stock = self.env.stocks.get(key)
        if stock is None:
            stock = self.env.stocks[key] = Stock(self.loop, endpoint.dial, endpoint.netns_cookie)
        self._stock = stock
        return stock


class Backends:
    """The table in force, and the backends it names."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.routes = Routes(RouteTable(version=-1, endpoints=[], routes=[]))
        self.envs: dict[str, Env] = {}
        self._places: dict[Place, Backend] = {}
        self._by_index: list[Backend] = []
        self._known: dict[bytes, Backend] = {}
        self._turn = 0

    def replace(self, table: RouteTable) -> None:
        """Take a new snapshot; sockets of namespaces that are no longer named are closed, connections run on."""
        places: dict[Place, Backend] = {}
        self._by_index = []
        for endpoint in table.endpoints:
            place = (endpoint.env_id, endpoint.service, endpoint.dial, endpoint.netns_cookie, endpoint.port)
            backend = places.get(place) or self._places.get(place)
            if backend is None:
                backend = Backend(endpoint, self.env(endpoint.env_id), self._loop)
            backend.endpoint = endpoint
            places[place] = backend
            self._by_index.append(backend)
        self._places = places
        self.routes = Routes(table)
        self._known = {}
        self._drop_unnamed()
        self._group()

    def _group(self) -> None:
        """Have the first one of a service's replicas know them all: requests come by its name."""
        groups: dict[tuple[str, str], list[Backend]] = {}
        for backend in self._by_index:
            endpoint = backend.endpoint
            backend.peers = []
            if endpoint.group:
                peers = groups.setdefault((endpoint.group, endpoint.service), [])
                peers.append(backend)
                backend.peers = peers if endpoint.group == endpoint.env_id else []

    def replica(self, backend: Backend, kept: Container[Backend], wanted: int) -> Backend:
        """The replica for a request of a client with connections to those kept; wanted: the number of one that it was sent to
        before, 0: none. Where none is ready, one that is to be waited for."""
        peers = backend.peers
        candidates = [
            Candidate(
                peer.endpoint.replica,
                peer.endpoint.state == "ready" and peer.env.blocked_until <= self._loop.now,
                peer.endpoint.draining,
                peer.env.open - (peer in kept),
                peer in kept,
            )
            for peer in peers
        ]
        self._turn += 1
        place = pick(candidates, wanted, self._turn)
        if place is not None:
            return peers[place]
        coming = (peer for peer in peers if peer.endpoint.state in ("starting", "asleep"))
        return backend if backend.endpoint.state in ("starting", "asleep") else next(coming, backend)

    def find(self, host: bytes) -> Backend | None:
        """By the value of a Host field; raises FramingError for what is no host."""
        known = self._known.get(host)
        if known is not None:
            return known
        index = self.routes.find(host)
        if index is None:
            return None
        # Only spellings of names of ours are remembered, and not many.
        if len(self._known) < MOST_SPELLINGS:
            self._known[host] = self._by_index[index]
        return self._by_index[index]

    def at(self, index: int) -> Backend:
        """By its place in the table in force."""
        return self._by_index[index]

    def choose(self, request: Request) -> tuple[Backend | None, Rule | None]:
        """Where a request goes, and by which rule if its host has any; raises FramingError."""
        host = request.host
        if host is None:
            return None, None
        routes = self.routes
        if not routes.has_rules or not routes.is_ruled(host):
            return self.find(host), None
        rule = routes.choose(host, request.target, request.fields, random.random())
        return (self._by_index[rule.endpoint], rule) if rule is not None else (None, None)

    def find_service(self, env_id: str, service: str) -> Endpoint | None:
        """The endpoint of a service, else any of its env: they share dial.sock and namespace."""
        of_env = [backend.endpoint for backend in self._by_index if backend.endpoint.env_id == env_id]
        return next((endpoint for endpoint in of_env if endpoint.service == service), of_env[0] if of_env else None)

    def env(self, env_id: str) -> Env:
        """The env's counts and connections, made when there are none."""
        env = self.envs.get(env_id)
        if env is None:
            env = self.envs[env_id] = Env(env_id)
        return env

    def _drop_unnamed(self) -> None:
        named: dict[str, set[tuple[str, int]]] = {}
        for backend in self._by_index:
            endpoint = backend.endpoint
            if endpoint.state in ("ready", "starting", "asleep"):
                named.setdefault(endpoint.env_id, set()).add((endpoint.dial, endpoint.netns_cookie))
        for env_id, env in list(self.envs.items()):
            keep = named.get(env_id, set())
            for key in [key for key in env.stocks if key not in keep]:
                env.stocks.pop(key).end()
            if env_id not in named and not env.held and not any(b.endpoint.env_id == env_id for b in self._by_index):
                del self.envs[env_id]
