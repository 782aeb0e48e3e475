"""What is written down where an access log is wanted: each request of a client, and each raw or TLS connection as a whole.

`Logged` stands in the place of `Client` then, so that others pay nothing for it. Imports client and the log. Invariant: each
request, and each head that was refused, makes one entry: when its connection goes on, or is let go of.
"""

import _socket
import time
from typing import TYPE_CHECKING

from sandboxd.router.accesslog import AccessLog
from sandboxd.router.backends import Backend
from sandboxd.router.client import Client
from sandboxd.router.relay import Flow
from sandboxd.router.turns import Turn
from sandboxd.router.upstream import Upstream
from sandboxd.routing import accesslog, pages
from sandboxd.routing.requests import Request
from sandboxd.routing.responses import Response
from sandboxd.routing.rules import Rule

if TYPE_CHECKING:
    from sandboxd.router.published import Raw
    from sandboxd.router.worker import Router


class Logged(Client):
    """began: when the request that is under way did, 0: none is. since: from when on it waits, 0: it does not. out: bytes of
    its answer; went: where it goes."""

    __slots__ = ("began", "log", "out", "since", "status", "waited", "went")

    def __init__(
        self, router: "Router", sock: _socket.socket, source: tuple[str, int], here: tuple[str, int], *, log: AccessLog
    ) -> None:
        super().__init__(router, sock, source, here)
        self.log = log
        self._clear()

    def _clear(self) -> None:
        self.began = self.since = self.waited = 0.0
        self.status = self.out = 0
        self.went: Backend | None = None

    def _start(self) -> None:
        self._clear()
        self.began = time.monotonic()

    def _finish(self) -> None:
        if not self.began:
            return
        now = time.monotonic()
        waited = now - self.since if self.since else self.waited
        for flow in (self.receiving, self.tunnel.outward if self.tunnel is not None else None):
            self.out += flow.moved if flow is not None else 0  # it was broken off
        request, place = self.request, self.went.endpoint if self.went is not None else None
        entry = accesslog.Entry(
            time=accesslog.stamp(time.time()),
            client=accesslog.source_of(*self.source),
            method=accesslog.shown(request.method, accesslog.MOST_METHOD) if request is not None else "",
            host=accesslog.shown(request.host or b"", accesslog.MOST_HOST) if request is not None else "",
            path=accesslog.path_of(request.target) if request is not None else "",
            protocol=f"HTTP/1.{request.minor.decode()}" if request is not None else "",
            status=self.status,
            bytes=self.out,
            duration=round(now - self.began, 6),
            held=round(waited, 6),
            env=place.name if place is not None else "",
            id=place.env_id if place is not None else "",
            service=place.service if place is not None else "",
        )
        self._clear()
        self.log.note(entry)

    # -- what happens to a request ---------------------------------------------------------------------------------------

    def _take_request(self, request: Request) -> None:
        self._start()
        super()._take_request(request)

    def hold(self) -> None:
        """It waits for its env."""
        self.since = self.since or time.monotonic()
        super().hold()

    def turn(self, backend: Backend) -> Turn:
        """It waits for a connection."""
        self.since = self.since or time.monotonic()
        return super().turn(backend)

    def route(self, request: Request, backend: Backend, rule: Rule | None) -> None:
        """It is known where it goes."""
        self.went = backend
        super().route(request, backend, rule)

    def ask(self, request: Request, backend: Backend, sock: _socket.socket | None = None) -> None:
        """The same, without detours."""
        self.went = backend
        super().ask(request, backend, sock)

    def _send(self, upstream: Upstream, request: Request) -> None:
        if self.since:
            self.waited, self.since = time.monotonic() - self.since, 0.0
        super()._send(upstream, request)

    def answered(self, upstream: Upstream, response: Response, start: int, end: int) -> bool:
        """An answer of the service's."""
        if response.status >= 200 or response.status == 101:
            self.status = response.status
        return super().answered(upstream, response, start, end)

    def answer_page(self, page: pages.Page, *, close: bool = False) -> None:
        """An answer of ours, perhaps to what is no request."""
        if not self.began:
            self._start()
        self.status = page.status
        super().answer_page(page, close=close)

    def learn(self, upstream: Upstream) -> None:
        """Each request is written down, so each takes the whole way."""

    # -- bytes -----------------------------------------------------------------------------------------------------------

    def put(self, data: bytes | memoryview) -> bool:
        """What is not a flow's is counted here, and a flow's in `count`."""
        self.out += len(data) if self.feeder is None else 0
        return super().put(data)

    def put_last(self, data: bytes | memoryview) -> bool:
        """The same."""
        self.out += len(data) if self.feeder is None else 0
        return super().put_last(data)

    def count(self, flow: Flow, *, inward: bool) -> None:
        """A flow is over."""
        self.out += 0 if inward else flow.moved
        super().count(flow, inward=inward)

    # -- ends ------------------------------------------------------------------------------------------------------------

    def next_request(self) -> None:
        """The connection goes on."""
        self._finish()
        super().next_request()

    def _let_go(self) -> None:
        self._finish()
        super()._let_go()


def passage(raw: "Raw", now: float) -> accesslog.Entry:
    """A connection that is over, of whose bytes nothing is known but their number."""
    backend = raw.backend or raw.find()
    place = backend.endpoint if backend is not None else None
    return accesslog.Entry(
        time=accesslog.stamp(time.time()),
        client=accesslog.source_of(*raw.source),
        method="",
        host=accesslog.shown(raw.name, accesslog.MOST_HOST),
        path="",
        protocol=raw.protocol,
        status=0,
        bytes=raw.tunnel.outward.moved if raw.tunnel is not None else 0,
        duration=round(now - raw.began, 6),
        held=round(now - raw.since if raw.since else raw.waited, 6),
        env=place.name if place is not None else "",
        id=place.env_id if place is not None else "",
        service=place.service if place is not None else "",
    )
