"""From a request to its env: which it is, whether this client may reach it, waiting while it starts.

A base of `client`, over `exchange`. What cannot be reached is answered with a page of ours; what may become reachable is held
until the table changes or its time is up. Imports access, backends and routing. Invariant: a client in state HELD stands in
`Router.held`, and no other does.
"""

import _socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from sandboxd.router.access import is_local
from sandboxd.router.backends import Backend
from sandboxd.router.exchange import Exchange
from sandboxd.router.knocking import Knock
from sandboxd.router.newest import UNASKED
from sandboxd.router.turns import Turn
from sandboxd.routing import links, pages
from sandboxd.routing.balance import set_cookie, wanted_of
from sandboxd.routing.forwarded import is_trusted
from sandboxd.routing.framing import FramingError
from sandboxd.routing.requests import Request
from sandboxd.routing.rules import Rule, stripped

if TYPE_CHECKING:
    from sandboxd.router.doors import Keyed
    from sandboxd.router.worker import Router


# Where a connection is. Plain numbers: they are compared several times a request, and members of an enum are slow to get at.
READING = 0  # a head, or nothing yet
HELD = 1  # for an env that starts
BUSY = 2  # with an exchange
LEAVING = 3  # the last answer is going out
REFUSED = 1.0  # seconds for which a replica that took no connection gets none that another one can take


class Finding(Exchange):
    """See above. uid: of the process at the other end of a connection from this host; None: not known, or not from here.

    admitted: where the last request went, of `host`, in the table in force. kin: the replicas among which it was chosen.
    """

    __slots__ = (
        "admitted",
        "born",
        "deadline",
        "here",
        "host",
        "keyed",
        "kin",
        "local",
        "moved",
        "router",
        "source",
        "state",
        "ticket",
        "uid",
        "uncounted",
    )

    def __init__(self, router: "Router", sock: _socket.socket, source: tuple[str, int], here: tuple[str, int]) -> None:
        super().__init__(router.loop, sock, router.bounds, router.pipes)
        self.router = router
        self.source = source
        self.here = here
        self.peer = source[0].encode()
        self.trusted = bool(router.bounds.trusted) and is_trusted(source[0], router.bounds.trusted)
        self.local = is_local(source[0], here[0])
        self.uid: int | None = None
        self.state = READING
        self.born = router.loop.now
        self.deadline = self.born + router.bounds.idle
        self.admitted: Backend | None = None
        self.host: bytes | None = None
        self.keyed: Keyed | None = None
        self.kin: list[Backend] = []
        self.uncounted = False
        self.moved = 0
        self.ticket = UNASKED

    def refuse(self, status: int, reason: str) -> None:
        """Our own answer to a request that cannot be passed on; the connection ends."""
        self.answer_page(pages.bad_request(status, reason), close=True)

    def find(self, request: Request) -> None:
        """Which env it is for, and what then."""
        if self.state != HELD:
            self.ticket = UNASKED
        try:
            backend, rule = self.router.backends.choose(request)
        except FramingError as error:
            self.refuse(error.status, error.reason)
            return
        if request.host is None:
            self.answer_page(pages.unknown_host())
        elif backend is None:
            self.uncounted = self.uncounted or self.state != HELD  # until it is known whose request it is
            if not self.router.doors.opens(self, request):
                self.send_away(pages.unknown_host)
        elif backend.endpoint.share == "link" and self.by_link(request, backend, rule):
            return
        elif not self.router.access.allows(self, backend.endpoint):
            self.answer_page(links.needed() if backend.endpoint.share == "link" else pages.not_yours())
        else:
            self.serve(request, backend, rule)

    def serve(self, request: Request, backend: Backend, rule: Rule | None) -> None:
        """A client that may reach it."""
        backend = self.among(request, backend)
        self.count_request(backend)
        self.route(request, backend, rule)

    def by_link(self, request: Request, backend: Backend, rule: Rule | None) -> bool:
        """Let a request in that shows the env's link; a browser first learns to show it without. False: it shows none."""
        shown = links.shown(request, backend.endpoint.token, trusted=self.trusted)
        if shown is None:
            return False
        if shown.cookie not in self.cookie:  # it may have been held meanwhile
            self.cookie += shown.cookie
        if shown.cookie and request.wants_html and request.method in (b"GET", b"HEAD"):
            self.answer_page(links.moved(shown.target))
        else:
            self.serve(msgspec.structs.replace(request, target=shown.target), backend, rule)
        return True

    def count_request(self, backend: Backend) -> None:
        """Once, however often the way of a held request is looked for."""
        backend.env.requests += self.state != HELD or self.uncounted
        self.uncounted = False

    def among(self, request: Request, backend: Backend) -> Backend:
        """The replica that this request goes to, where there are several; a browser that is to stay is told which one."""
        self.kin = backend.peers
        if len(backend.peers) < 2 and not backend.endpoint.sticky:
            return backend
        wanted = wanted_of(request.fields) if backend.endpoint.sticky else 0
        chosen = self.router.backends.replica(backend, self.upstreams, wanted) if backend.peers else backend
        if backend.endpoint.sticky and chosen.endpoint.replica != wanted and chosen.endpoint.state == "ready":
            self.cookie += set_cookie(chosen.endpoint.replica)
        for peer in backend.peers:
            if peer is not chosen and peer in self.upstreams:
                self.forget(self.upstreams[peer])  # kept, it would count there
        return chosen

    def goes_elsewhere(self, backend: Backend) -> bool:
        """The one that took no connection is left alone for a moment, where another is ready that did not refuse lately."""
        request = self.request
        backend.refused_until = self.loop.now + REFUSED
        others = [peer for peer in self.kin if peer.takes_more(self.loop.now)]
        if request is None or backend not in self.kin or not others:
            return False
        chosen = min(others, key=lambda peer: peer.env.open + peer.env.queued)
        if chosen.endpoint.sticky:
            self.cookie = self.cookie.replace(set_cookie(backend.endpoint.replica), b"") + set_cookie(chosen.endpoint.replica)
        backend.env.requests -= 1
        chosen.env.requests += 1
        self.ask(request, chosen)
        return True

    def send_away(self, page: Callable[[], pages.Page]) -> None:
        """It cannot be reached, if no table is on its way that says otherwise; else it waits for that."""
        if self.router.newest.is_certain(self):
            self.answer_page(page())
        elif self.state != HELD:
            self.hold()

    def turn_away(self, page: pages.Page) -> None:
        """The same for a page that is there."""
        self.send_away(lambda: page)

    @property
    def is_held(self) -> bool:
        """Whether its request waits for an env."""
        return self.open and self.state == HELD

    def hold(self) -> None:
        """Have the request wait for its env; whoever it is lets it wait no longer than is allowed."""
        self.state = HELD
        self.deadline = self.loop.now + self.router.backends.routes.hold
        self.router.held.add(self)

    def route(self, request: Request, backend: Backend, rule: Rule | None) -> None:
        """What the env's state allows; called again for a held request when the table changed."""
        endpoint = backend.endpoint
        knock = backend.knock
        sock = knock.give(self) if knock is not None else None
        if endpoint.state == "ready" or sock is not None:
            self.go(request, backend, rule, sock)
        elif endpoint.state in ("starting", "asleep"):
            if endpoint.state == "asleep":
                self.router.rouse(endpoint.env_id)
            if self.state != HELD:
                self.hold()
            if endpoint.early and knock is None:
                backend.knock = Knock(backend, self)
                backend.knock.start()
        elif endpoint.state == "stopped":
            self.send_away(partial(pages.stopped, endpoint.name, endpoint.reason))
        else:
            self.send_away(partial(pages.failed, endpoint.name, endpoint.reason))

    def go(self, request: Request, backend: Backend, rule: Rule | None, sock: _socket.socket | None = None) -> None:
        """To what is ready. sock: the connection that showed that it is."""
        endpoint = backend.endpoint
        if self.state == HELD:
            self.router.held.discard(self)
        self.admitted, self.host = backend, request.host
        if endpoint.max_connections and backend in self.upstreams:
            self.forget(self.upstreams[backend])  # of a time when it did not bound them
        if rule is not None or endpoint.group or endpoint.share == "link":
            self.admitted = None  # the next one may go elsewhere
            if rule is not None and rule.strip:
                request = msgspec.structs.replace(request, target=stripped(request.target, rule.path))
        self.state = BUSY
        self.moved = -1  # the first tick sets the deadline
        self.ask(request, backend, sock)

    def turn(self, backend: Backend) -> Turn:
        """A place in the line for a connection to an env that bounds them."""
        return self.router.gate.turn(backend, self)

    def reconsider(self) -> None:
        """The table changed while this request was held, or is the newest."""
        if self.is_held and self.request is not None:
            self.find(self.request)
