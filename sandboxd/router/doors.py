"""Requests for a template: their key, the env that has it, or the wait for one to be made.

`routing.keys` decides what a request's key is, the daemon whether it gets an env; this one asks for it, once for all who wait,
and again as long as nobody answers: a daemon may have died meanwhile. Waiting is bounded in number and in time. Imports routing
and nothing of exchanges. Invariant: whoever waits here is in `held`, and so is answered by his deadline.
"""

import secrets
from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple, Protocol

from sandboxd.routing import orders, pages
from sandboxd.routing.keys import Door, Found, find_key, may_create, slot_of, source_of
from sandboxd.routing.requests import Request
from sandboxd.routing.rules import Rule
from sandboxd.routing.table import Endpoint

if TYPE_CHECKING:
    from sandboxd.router.backends import Backend
    from sandboxd.router.worker import Router

AGAIN = 1.0  # seconds until what nobody answered is asked again
PATIENCE = 1.0  # seconds for which a browser that can be shown a page waits without one


class Keyed(NamedTuple):
    """A request and its key."""

    request: Request
    door: Door
    found: Found
    slot: str
    source: str
    since: float

    @property
    def has_page(self) -> bool:
        """Whether a page may be shown instead of the answer: then the browser asks again by itself."""
        return self.door.waiting_page and self.request.method in (b"GET", b"HEAD") and self.request.wants_html


class Guest(Protocol):
    """Who asks for a key's env: an HTTP client, or a TLS connection whose hello is here."""

    open: bool
    request: Request | None
    keyed: Keyed | None
    cookie: bytes
    deadline: float
    trusted: bool
    source: tuple[str, int]
    here: tuple[str, int]
    local: bool
    uid: int | None

    @property
    def is_held(self) -> bool:
        """Whether it waits."""

    def hold(self) -> None:
        """Have it wait, no longer than is allowed."""

    def among(self, request: Request, backend: "Backend") -> "Backend":
        """Of several replicas the one to go to."""

    def count_request(self, backend: "Backend") -> None:
        """Once for each request."""

    def route(self, request: Request, backend: "Backend", rule: Rule | None) -> None:
        """What the env's state allows."""

    def answer_page(self, page: pages.Page) -> None:
        """It cannot be served."""

    def turn_away(self, page: pages.Page) -> None:
        """The same, unless a table is on its way that may say otherwise: its template may have keys of another kind now."""


class Doors:
    """Those who wait, by slot; and when each slot was asked for."""

    def __init__(self, router: "Router") -> None:
        self._router = router
        self._waiting: dict[str, set[Guest]] = {}
        self._asked: dict[str, float] = {}

    def opens(self, client: "Guest", request: Request) -> bool:
        """Whether a request is for a template: then it goes to its env, waits for it, or is answered. Raises FramingError."""
        keyed = self._keyed(client, request)
        if keyed is None:
            return client.keyed is not None  # answered just now
        router = self._router
        index = router.backends.routes.of_slot(keyed.door, keyed.slot)
        if index is not None:
            backend = client.among(request, router.backends.at(index))
            client.count_request(backend)
            client.route(request, backend, Rule(host="", endpoint=index, path=keyed.found.path, strip=bool(keyed.found.path)))
        elif not may_create(keyed.door, keyed.found.key):
            client.answer_page(pages.no_env(keyed.door.name))
        elif not client.is_held and self.count() >= router.bounds.held:
            client.answer_page(
                pages.no_room(keyed.door.name, "too many requests wait already", "Try again in a moment.", AGAIN)
            )
        else:
            if not client.is_held:
                client.hold()
            self._waiting.setdefault(keyed.slot, set()).add(client)
            self._ask(keyed)
        if client.is_held and client.keyed is keyed and keyed.has_page:
            client.deadline = min(client.deadline, keyed.since + PATIENCE)
        return True

    def concerns(self, client: "Guest", touched: Collection[str]) -> bool:
        """Whether a change of these envs may end a held client's wait. In a burst all others wait for other keys, and to look
        for the way of each anew with each change was a quarter of what a new key costs here (measured)."""
        keyed = client.keyed
        if keyed is None or keyed.request is not client.request:
            return True
        index = self._router.backends.routes.of_slot(keyed.door, keyed.slot)
        if index is None:
            return client not in self._waiting.get(keyed.slot, ())
        endpoint = self._router.backends.at(index).endpoint
        return endpoint.env_id in touched or endpoint.group in touched

    def of(self, keyed: Keyed) -> "Backend | None":
        """The env of a key, if there is one."""
        index = self._router.backends.routes.of_slot(keyed.door, keyed.slot)
        return None if index is None else self._router.backends.at(index)

    def count(self) -> int:
        """How many wait for envs that are yet to be made."""
        return sum(map(len, self._waiting.values()))

    def late(self, client: "Guest") -> pages.Page:
        """What to tell one who waited for as long as anybody does, here or for an env that is known."""
        keyed, routes = client.keyed, self._router.backends.routes
        if keyed is not None and keyed.request is client.request:
            if keyed.has_page and self._router.loop.now < keyed.since + routes.hold:
                index = routes.of_slot(keyed.door, keyed.slot)
                return pages.waiting(keyed.door.name, "" if index is None else routes.endpoints[index].reason)
            return pages.still_starting(keyed.door.name, routes.hold)
        backend = self._router.backends.choose(client.request)[0] if client.request is not None else None
        return pages.still_starting(backend.endpoint.name if backend is not None else "it", routes.hold)

    def deny(self, denial: orders.Deny) -> None:
        """The daemon will make no env for a key."""
        self._asked.pop(denial.slot, None)
        for client in self._waiting.pop(denial.slot, ()):
            if waits(client, denial.slot) and client.keyed is not None:
                page = pages.no_room(client.keyed.door.name, denial.text, denial.hint, denial.retry_after)
                client.answer_page(page)

    def tick(self) -> None:
        """Once a second: forget who waits no more, and ask again for the others."""
        routes = self._router.backends.routes
        for slot, known in list(self._waiting.items()):
            clients = {client for client in known if waits(client, slot)}
            keyed = next((client.keyed for client in clients), None)
            if keyed is None or routes.of_slot(keyed.door, slot) is not None:
                del self._waiting[slot]
            else:
                self._waiting[slot] = clients
                self._ask(keyed)
        self._asked = {slot: when for slot, when in self._asked.items() if slot in self._waiting}

    def _keyed(self, client: "Guest", request: Request) -> Keyed | None:
        """The request's key, found once; None: it is for no template (client.keyed is None), or was answered."""
        known = client.keyed
        if client.is_held and known is not None and known.request is request and known.slot:
            return known
        client.keyed = None
        asked = self._router.backends.routes.door(request.host) if request.host is not None else None
        if asked is None:
            return None
        door, label = asked
        source = source_of(client.source[0], request.forwarded, trusted=client.trusted)
        found = find_key(door, label, request, source, trusted=client.trusted, chance=secrets.token_bytes(16))
        now = self._router.loop.now
        slot = slot_of(door.secret, found.key) if found is not None else ""
        client.keyed = Keyed(request, door, found or Found(""), slot, source, now)
        if not self._router.access.allows(client, place_of(door)):
            client.answer_page(pages.not_yours())
        elif found is None:
            client.turn_away(pages.no_key(door.name, door.keys))
        else:
            client.cookie = found.cookie
            return client.keyed
        return None

    def _ask(self, keyed: Keyed) -> None:
        now = self._router.loop.now
        if now - self._asked.get(keyed.slot, now - AGAIN) >= AGAIN:
            self._asked[keyed.slot] = now
            self._router.tell(orders.Ask(template=keyed.door.name, key=keyed.found.key, slot=keyed.slot, source=keyed.source))


def waits(client: "Guest", slot: str) -> bool:
    """Whether a client still waits for that key."""
    return client.is_held and client.keyed is not None and client.keyed.request is client.request and client.keyed.slot == slot


def place_of(door: Door) -> Endpoint:
    """A template as what one may or may not reach."""
    return Endpoint(
        env_id="",
        name=door.name,
        service="",
        state="starting",
        dial="",
        port=None,
        netns_cookie=0,
        owner=door.owner,
        share=door.share,
    )
