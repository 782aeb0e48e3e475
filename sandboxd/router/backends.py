"""What the router knows at run time about the endpoints of the table in force: counts, open connections, ready sockets.

A snapshot of the table is pure data; a Backend carries what outlives a snapshot. It is kept as long as the endpoint is the
same place (env, service, socket, namespace, port) and made anew when one of these changed, so that a connection kept to an
env that was stopped and started again is never used for the new one. Imports routing.table and Stock.
"""

import _socket
import random
import socket
from collections.abc import Container, Iterable
from typing import Protocol

from sandboxd.router.knocking import Knock
from sandboxd.router.loop import Loop
from sandboxd.router.stock import Stock
from sandboxd.routing.balance import Candidate, pick
from sandboxd.routing.orders import Traffic
from sandboxd.routing.requests import Request
from sandboxd.routing.responses import Response
from sandboxd.routing.rules import Rule
from sandboxd.routing.table import Change, Endpoint, Routes, RouteTable, spelled

MOST_SPELLINGS = 4096
Place = tuple[str, str, str, int, int | None]


class Held(Protocol):
    """Something that holds a connection to an env, or waits for one."""

    def release(self) -> None:
        """Let go of it now."""


class Env:
    """One env, over all its endpoints."""

    __slots__ = (
        "blocked_until",
        "bytes_in",
        "bytes_out",
        "env_id",
        "held",
        "open",
        "queued",
        "refused",
        "reported",
        "requests",
        "stocks",
    )

    def __init__(self, env_id: str) -> None:
        self.env_id = env_id
        self.held: set[Held] = set()
        self.stocks: dict[tuple[str, int], Stock] = {}
        self.open = 0
        self.queued = 0
        self.refused = 0
        self.requests = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.blocked_until = 0.0
        self.reported = (0, 0, 0, 0, 0, 0, 0, 0, 0)

    def release(self) -> None:
        """Close every connection and every ready socket."""
        for held in list(self.held):
            held.release()
        for stock in self.stocks.values():
            stock.end()
        self.stocks.clear()

    def traffic(self, busy: int, tunnels: int, tunnelled: int) -> Traffic | None:
        """The counts, if they changed since they were asked for last."""
        lasting = (self.requests, self.bytes_in, self.bytes_out, self.refused)
        counts = (self.open, self.queued, *lasting, busy, tunnels, tunnelled)
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
            queued=self.queued,
            refused=self.refused,
        )


class Backend:
    """One endpoint. family: which of 127.0.0.1 and ::1 answered last. peers: all replicas, of the first one. refused_until:
    a replica that took no connection. size, last, known, whole: see `Upstream`."""

    __slots__ = (
        "_stock",
        "endpoint",
        "env",
        "family",
        "knock",
        "known",
        "last",
        "loop",
        "peers",
        "refused_until",
        "size",
        "whole",
    )

    def __init__(self, endpoint: Endpoint, env: Env, loop: Loop) -> None:
        self.endpoint = endpoint
        self.env = env
        self.loop = loop
        self.family: int = socket.AF_INET
        self.peers: list[Backend] = []
        self.refused_until = 0.0
        self.knock: Knock | None = None
        self._stock: Stock | None = None
        self.size = self.whole = 0
        self.last = b"\0"
        self.known: Response | None = None

    def takes_more(self, now: float) -> bool:
        """Whether a replica is ready, did not hold the router up, and did not refuse lately."""
        return self.endpoint.state == "ready" and self.env.blocked_until <= now and self.refused_until <= now

    def take_back(self, sock: _socket.socket) -> bool:
        """Whether the socket of a connection that is over is kept for another one."""
        return self._stock is not None and self._stock.take_back(sock)

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
        self._by_index: dict[int, Backend] = {}
        self._of_env: dict[str, list[int]] = {}
        self._known: dict[bytes, Backend] = {}
        self._turn = 0

    def replace(self, table: RouteTable) -> None:
        """Take a new snapshot; sockets of namespaces that are no longer named are closed, connections run on."""
        places = {place_of(backend.endpoint): backend for backend in self._by_index.values()}
        self._by_index = {}
        self._of_env = {}
        for index, endpoint in enumerate(table.endpoints):
            places[place_of(endpoint)] = self._place(index, endpoint, places.get(place_of(endpoint)))
        self.routes = Routes(table)
        self._known = {}
        self.drop_unnamed(list(self.envs))
        self._group()

    def _group(self) -> None:
        """Have the first one of a service's replicas know them all: requests come by its name."""
        groups: dict[tuple[str, str], list[Backend]] = {}
        for backend in self._by_index.values():
            endpoint = backend.endpoint
            backend.peers = []
            if endpoint.group:
                peers = groups.setdefault((endpoint.group, endpoint.service), [])
                peers.append(backend)
                backend.peers = peers if endpoint.group == endpoint.env_id else []

    def replica(self, backend: Backend, kept: Container[Backend], wanted: int) -> Backend:
        """The replica for a request of a client with connections to those kept; wanted: the number of one that it was sent to
        before, 0: none. Where none is ready, one that is to be waited for."""
        peers, now = backend.peers, self._loop.now
        some = any(peer.takes_more(now) for peer in peers)
        candidates = [
            Candidate(
                peer.endpoint.replica,
                peer.takes_more(now) if some else peer.endpoint.state == "ready",
                peer.endpoint.draining,
                peer.env.open + peer.env.queued - (peer in kept),
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

    def change(self, change: Change) -> set[str] | None:
        """Take a change of it; returns the envs it touches, None: it was made for another table, and is not taken."""
        led = [self.routes.names.get(spelled(host)) for host in (*change.unrouted, *change.routes)]
        before = [self._by_index[index] for index in (*change.dropped, *change.endpoints, *led) if index in self._by_index]
        if not self.routes.apply(change):
            return None
        for index in (*change.dropped, *change.endpoints):
            if index in self._by_index:
                self._of_env[self._by_index[index].env.env_id].remove(index)
        for index in change.dropped:
            self._by_index.pop(index, None)
        for index, endpoint in change.endpoints.items():
            old = self._by_index.get(index)
            same = old is not None and place_of(old.endpoint) == place_of(endpoint)
            self._place(index, endpoint, old if same else None)
        now = [self._by_index[index] for index in (*change.endpoints, *change.routes.values()) if index in self._by_index]
        touched = {backend.env.env_id for backend in (*before, *now)}
        groups = {backend.endpoint.group for backend in (*before, *now) if backend.endpoint.group}
        if groups:
            self._group()
        touched |= groups
        self._known = {}
        self.drop_unnamed(touched)
        return touched

    def _place(self, index: int, endpoint: Endpoint, known: Backend | None) -> Backend:
        backend = known or Backend(endpoint, self.env(endpoint.env_id), self._loop)
        backend.endpoint = endpoint
        self._by_index[index] = backend
        self._of_env.setdefault(endpoint.env_id, []).append(index)
        return backend

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
        of_env = [self._by_index[index].endpoint for index in self._of_env.get(env_id, ())]
        return next((endpoint for endpoint in of_env if endpoint.service == service), of_env[0] if of_env else None)

    def hosted(self, known: dict[str, int], touched: set[str] | None) -> dict[str, int]:
        """Pid 1 of each env on the host's network, by env id. known: as it was before `touched` changed (None: any)."""
        if touched is None:
            return {e.env_id: e.init_pid for e in self.routes.endpoints.values() if e.init_pid and not e.dial}
        found = {env_id: pid for env_id, pid in known.items() if env_id not in touched}
        for index in (index for env_id in touched for index in self._of_env.get(env_id, ())):
            endpoint = self._by_index[index].endpoint
            if endpoint.init_pid and not endpoint.dial:
                found[endpoint.env_id] = endpoint.init_pid
        return found

    def env(self, env_id: str) -> Env:
        """The env's counts and connections, made when there are none."""
        env = self.envs.get(env_id)
        if env is None:
            env = self.envs[env_id] = Env(env_id)
        return env

    def drop_unnamed(self, env_ids: Iterable[str]) -> None:
        """Of these envs close the ready sockets of places that the table does not name, and forget who is gone altogether."""
        for env_id in env_ids:
            env = self.envs.get(env_id)
            if env is None:
                continue
            endpoints = [self._by_index[index].endpoint for index in self._of_env.get(env_id, ())]
            live = [endpoint for endpoint in endpoints if endpoint.state in ("ready", "starting", "asleep")]
            keep = {(endpoint.dial, endpoint.netns_cookie) for endpoint in live}
            for key in [key for key in env.stocks if key not in keep]:
                env.stocks.pop(key).end()
            if not endpoints:
                self._of_env.pop(env_id, None)
                if not env.held:
                    del self.envs[env_id]


def place_of(endpoint: Endpoint) -> Place:
    """What makes it the same place."""
    return endpoint.env_id, endpoint.service, endpoint.dial, endpoint.netns_cookie, endpoint.port
