"""The request's way to a service: dial or reuse, send the head, relay the body.

First half of an `exchange`, which it is a base of. It keeps the client connection's own upstreams, one per service, each
reused only after a fully framed answer to a fully sent request. Imports the dialer, upstream and routing.
"""

import _socket

from sandboxd.router.backends import Backend
from sandboxd.router.bodies import first_part
from sandboxd.router.dialer import Dial, dial_at_once
from sandboxd.router.loop import READ, Loop
from sandboxd.router.pipes import Pipes
from sandboxd.router.relay import Flow, How, Side
from sandboxd.router.tunnel import Tunnel
from sandboxd.router.turns import Turn
from sandboxd.router.upstream import Upstream
from sandboxd.routing import pages
from sandboxd.routing.framing import Bounds, FramingError
from sandboxd.routing.requests import IDEMPOTENT, Request, serialise_request
from sandboxd.routing.responses import Response

MOST_UPSTREAMS = 4  # services one client connection may keep a connection to


class Asking(Side):
    """The request that is under way, if `busy`.

    sent, received: the request is out, the answer in, as a whole. begun: some of the answer went to the client. keep: the
    upstream can be used again. again: see `Repeating`. closing: the client's connection ends after the answer. carry: read, and
    not yet used. Bases of one Client and not its parts: objects that know each other would be garbage that only the collector
    can find.
    """

    __slots__ = (
        *("bounds", "pipes", "peer", "trusted", "carry", "eof", "cookie"),
        *("again", "upstreams", "backend", "request", "upstream", "dial", "tunnel", "sending", "receiving", "interim"),
        *("busy", "sent", "received", "begun", "keep", "closing", "until_close", "continued"),
    )

    def __init__(self, loop: Loop, sock: _socket.socket, bounds: Bounds, pipes: Pipes) -> None:
        super().__init__(loop, sock, 0)
        self.bounds = bounds
        self.pipes = pipes
        self.peer = b""
        self.trusted = False
        self.carry = b""
        self.cookie = b""  # the Set-Cookie line that the next answer is to have
        self.again: Upstream | None = None
        self.upstreams: dict[Backend, Upstream] = {}
        self.backend: Backend | None = None
        self.request: Request | None = None
        self.upstream: Upstream | None = None
        self.dial: Dial | Turn | None = None
        self.tunnel: Tunnel | None = None
        self.sending: Flow | None = None
        self.receiving: Flow | None = None
        self.interim = 0
        self.eof = self.busy = self.sent = False
        self.received = self.begun = self.keep = self.closing = self.until_close = self.continued = False

    # -- what the other halves do -------------------------------------------------------------------------------------

    def answer_page(self, page: pages.Page, *, close: bool = False) -> None:
        """Answer with a page of ours."""
        raise NotImplementedError

    def goes_elsewhere(self, backend: Backend) -> bool:
        """Whether another replica takes the request, of which that one has not had a byte."""
        raise NotImplementedError

    def turn(self, backend: Backend) -> Turn:
        """A place in the line for a connection to an env that bounds them."""
        raise NotImplementedError

    def answered(self, upstream: Upstream, response: Response, start: int, end: int) -> bool:
        """From an upstream: see `Asker`, here and below."""
        raise NotImplementedError

    def pass_on(self, upstream: Upstream, count: int) -> None:
        """From an upstream."""
        raise NotImplementedError

    def unanswered(self, upstream: Upstream, reason: str, *, silent: bool) -> None:
        """From an upstream."""
        raise NotImplementedError

    def upstream_idle_event(self, upstream: Upstream) -> None:
        """From an upstream."""
        raise NotImplementedError

    def upstream_stalled(self, upstream: Upstream) -> None:
        """From an upstream."""
        raise NotImplementedError

    def released(self, upstream: Upstream) -> None:
        """From an upstream."""
        raise NotImplementedError

    def release(self) -> None:
        """The env that is being dialled goes away."""
        raise NotImplementedError

    def answer_over(self) -> None:
        """Request and answer are both as far as they will get."""
        raise NotImplementedError

    # -- the request -----------------------------------------------------------------------------------------------------

    def ask(self, request: Request, backend: Backend, sock: _socket.socket | None = None) -> None:
        """Bring the request to the service; by `sock`, where a connection stands already."""
        self.again = None
        self.received = self.begun = self.keep = self.closing = self.until_close = self.continued = False
        self.interim = 0
        self.busy = True
        self.request = request
        self.backend = backend
        upstream = self.upstreams.get(backend)
        if upstream is not None:
            if sock is None and (request.method in IDEMPOTENT or upstream.is_quiet()):
                self._send(upstream, request)
                return
            self.forget(upstream)
        if sock is None:
            self.begin_dial(backend)
        else:
            self.connected(sock)

    def begin_dial(self, backend: Backend) -> None:
        """Make a new connection to the service."""
        endpoint = backend.endpoint
        if endpoint.port is None:
            self.answer_page(pages.no_port(endpoint.name))
        elif backend.env.blocked_until > self.loop.now:
            reason = "it held the router up and is left alone for a while"
            self.answer_page(pages.refused(endpoint.name, endpoint.port, reason))
        elif endpoint.max_connections:
            self._begin(self.turn(backend), backend)
        else:
            try:
                sock = dial_at_once(backend, endpoint.port)
            except OSError:
                sock = None
            if sock is not None:
                self.connected(sock)
            else:
                self._begin(Dial(backend, endpoint.port, self), backend)

    def _begin(self, dial: Dial | Turn, backend: Backend) -> None:
        self.dial = dial
        dial.start(self.bounds.dial)
        if self.dial is dial:  # else it is over already
            backend.env.held.add(self)

    def connected(self, sock: _socket.socket) -> None:
        """From the dial."""
        if self.backend is None or self.request is None:
            sock.close()
            return
        turn = self.dial if isinstance(self.dial, Turn) else None
        if self.dial is not None:
            self.end_dial()
        upstream = Upstream(self.loop, sock, self.backend, self)
        upstream.turn = turn
        if len(self.upstreams) >= MOST_UPSTREAMS:
            self.forget(next(iter(self.upstreams.values())))
        self.upstreams[self.backend] = upstream
        self._send(upstream, self.request)

    def unreachable(self, reason: str) -> None:
        """From the dial."""
        self.end_dial()
        if self.backend is not None and not self.goes_elsewhere(self.backend):
            endpoint = self.backend.endpoint
            self.answer_page(pages.refused(endpoint.name, endpoint.port or 0, reason))

    def crowded(self, reason: str) -> None:
        """From a turn."""
        self.end_dial()
        if self.backend is not None:
            endpoint = self.backend.endpoint
            self.answer_page(pages.crowded(endpoint.name, endpoint.max_connections, reason))

    def end_dial(self) -> None:
        """It came to an end, one way or another."""
        self.dial = None
        if self.backend is not None:
            self.backend.env.held.discard(self)

    def _send(self, upstream: Upstream, request: Request) -> None:
        self.upstream = upstream
        upstream.awaiting = True
        upstream.repeated = False
        upstream.bodiless = request.method == b"HEAD"
        head = serialise_request(request, self.peer, trusted=self.trusted)
        left, chunked = request.length, None
        if left:
            try:
                body, self.carry, left, chunked = first_part(self.carry, left)
            except FramingError as error:
                self.forget(upstream)
                self.answer_page(pages.bad_request(error.status, error.reason), close=True)
                return
            head += body
        self.sent = not left
        upstream.backend.env.bytes_in += len(head)
        try:
            upstream.put(head)
        except OSError:
            self.unanswered(upstream, "it closed the connection before it answered", silent=True)
            return
        if left:
            self.sending = Flow(self, upstream, left, self.pipes, self._sending_ended)
            if chunked is not None:
                self.sending.chunked = chunked
                self.sending.carry, self.carry = self.carry, b""

    def _sending_ended(self, flow: Flow, how: How) -> None:
        flow.stop()
        self.sending = None
        self.count(flow, inward=True)
        if how == How.DONE:
            self.sent = True
            self.carry = flow.extra
            if not flow.extra:
                self.want(self.mask | READ)
            if self.received:
                self.answer_over()
        elif how == How.SINK_LOST and self.upstream is not None:
            self.upstream_broken(self.upstream)
        elif how == How.BROKEN and flow.error is not None and not self.begun:
            self.answer_page(pages.bad_request(flow.error.status, flow.error.reason), close=True)
        else:
            self.close()

    def upstream_broken(self, upstream: Upstream) -> None:
        """It takes no more of the request; its answer may stand in its socket all the same, so that is still read."""
        if self.tunnel is not None:
            self.tunnel.broken(upstream)
            return
        self.keep = False
        if self.sending is not None:
            self.sending.stop()
            self.sending = None
        self.want(self.mask & ~READ)
        if self.received:
            self.answer_over()
        else:
            upstream.want(upstream.mask | READ)

    def forget(self, upstream: Upstream) -> None:
        """Close it, and keep it no longer."""
        self.again = None
        if self.upstreams.get(upstream.backend) is upstream:
            del self.upstreams[upstream.backend]
        upstream.awaiting = False
        upstream.close()

    def count(self, flow: Flow, *, inward: bool) -> None:
        """Add what a flow moved to its env's counts."""
        if self.backend is not None:
            if inward:
                self.backend.env.bytes_in += flow.moved
            else:
                self.backend.env.bytes_out += flow.moved
            flow.moved = 0
