"""One request and its answer: dial or reuse, send, relay both bodies at once, end as the client can understand.

An exchange belongs to one client connection and is used for its requests one after another. It keeps the client's own
upstream connections, one per service, each reused only after a fully framed answer to a fully sent request. What was read
into the shared buffer is used up before an event ends. Invariant: `busy` from `begin` until `Client.exchanged` was called, or
the client was closed.
"""

import socket
from typing import TYPE_CHECKING

from sandboxd.router.backends import Backend
from sandboxd.router.dialer import Dial
from sandboxd.router.loop import READ
from sandboxd.router.relay import ENDLESS, Flow, How, shared, view
from sandboxd.router.tunnel import Tunnel
from sandboxd.router.upstream import Upstream
from sandboxd.routing import pages
from sandboxd.routing.chunked import Chunked
from sandboxd.routing.framing import CHUNKED, UNTIL_CLOSE, FramingError
from sandboxd.routing.requests import IDEMPOTENT, Request, serialise_request
from sandboxd.routing.responses import Response, serialise_response

if TYPE_CHECKING:
    from sandboxd.router.client import Client

MOST_UPSTREAMS = 4  # services one client connection may keep a connection to
MOST_INTERIM = 32  # 1xx answers to one request
BLOCKED = 10.0  # seconds an env that blocked us is not dialled


class Exchange:
    """The request that is under way, if `busy`.

    sent, received: the request is out, the answer in, as a whole. begun: some of the answer went to the client. keep: the
    upstream can be used again. closing: the client's connection ends after the answer.
    """

    __slots__ = (
        *("client", "upstreams", "backend", "request", "upstream", "dial", "tunnel", "sending", "receiving", "interim"),
        *("busy", "plain", "sent", "received", "begun", "keep", "closing", "until_close", "continued"),
    )

    def __init__(self, client: "Client") -> None:
        self.client = client
        self.upstreams: dict[Backend, Upstream] = {}
        self.backend: Backend | None = None
        self.request: Request | None = None
        self.upstream: Upstream | None = None
        self.dial: Dial | None = None
        self.tunnel: Tunnel | None = None
        self.sending: Flow | None = None
        self.receiving: Flow | None = None
        self.interim = 0
        self.busy = self.plain = self.sent = False
        self.received = self.begun = self.keep = self.closing = self.until_close = self.continued = False

    # -- the request -----------------------------------------------------------------------------------------------------

    def begin(self, request: Request, backend: Backend) -> None:
        """Bring the request to the service."""
        self.received = self.begun = self.keep = self.closing = self.until_close = self.continued = False
        self.interim = 0
        self.busy = True
        self.request = request
        self.backend = backend
        self.plain = request.minor == b"1" and not request.close
        upstream = self.upstreams.get(backend)
        if upstream is not None:
            if request.method in IDEMPOTENT or upstream.is_quiet():
                self._send(upstream, request)
                return
            self._forget(upstream)
        self._dial(backend)

    def _dial(self, backend: Backend) -> None:
        endpoint, client = backend.endpoint, self.client
        if endpoint.port is None:
            client.answer_page(pages.no_port(endpoint.name))
        elif backend.env.blocked_until > client.loop.now:
            reason = "it held the router up and is left alone for a while"
            client.answer_page(pages.refused(endpoint.name, endpoint.port, reason))
        else:
            self.dial = Dial(backend, endpoint.port, self)
            backend.env.held.add(self)
            self.dial.start(client.bounds.dial)

    def connected(self, sock: socket.socket) -> None:
        """From the dial."""
        if self.backend is None or self.request is None:
            sock.close()
            return
        self._end_dial()
        upstream = Upstream(self.client.loop, sock, self.backend, self)
        if len(self.upstreams) >= MOST_UPSTREAMS:
            self._forget(next(iter(self.upstreams.values())))
        self.upstreams[self.backend] = upstream
        self._send(upstream, self.request)

    def unreachable(self, reason: str) -> None:
        """From the dial."""
        self._end_dial()
        if self.backend is not None:
            endpoint = self.backend.endpoint
            self.client.answer_page(pages.refused(endpoint.name, endpoint.port or 0, reason))

    def _end_dial(self) -> None:
        self.dial = None
        if self.backend is not None:
            self.backend.env.held.discard(self)

    def _send(self, upstream: Upstream, request: Request) -> None:
        client = self.client
        self.upstream = upstream
        head = serialise_request(request, client.peer)
        left, chunked = request.length, None
        if left:
            try:
                body, left, chunked = self._first_part(left)
            except FramingError as error:
                self._forget(upstream)
                client.refuse(error.status, error.reason)
                return
            head += body
        self.sent = not left
        upstream.backend.env.bytes_in += len(head)
        upstream.awaiting = True
        upstream.bodiless = request.method == b"HEAD"
        try:
            upstream.put(head)
        except OSError:
            self.unanswered(upstream, "it closed the connection before it answered", silent=True)
            return
        if left:
            self.sending = Flow(client, upstream, left, client.pipes, self._sending_ended)
            if chunked is not None:
                self.sending.chunked = chunked
                self.sending.carry, client.carry = client.carry, b""

    def _first_part(self, length: int) -> tuple[bytes, int, Chunked | None]:
        """What of the body came with the head, how much is left, and the judge of a chunked one; raises FramingError."""
        carry = self.client.carry
        if length != CHUNKED:
            body, self.client.carry = carry[:length], carry[length:]
            return body, length - len(body), None
        chunked = Chunked(400)
        good = chunked.scan(carry, 0, len(carry))
        body, self.client.carry = carry[:good], carry[good:]
        return body, 0 if chunked.done else ENDLESS, chunked

    def _sending_ended(self, flow: Flow, how: How) -> None:
        flow.stop()
        self.sending = None
        self.client.count(flow, inward=True)
        if how == How.DONE:
            self.sent = True
            self.client.carry = flow.extra
            if not flow.extra:
                self.client.want(self.client.mask | READ)
            if self.received:
                self._over()
        elif how == How.SINK_LOST and self.upstream is not None:
            self.upstream_broken(self.upstream)
        elif how == How.BROKEN and flow.error is not None and not self.begun:
            self.client.refuse(flow.error.status, flow.error.reason)
        else:
            self.client.close()

    def upstream_broken(self, upstream: Upstream) -> None:
        """It takes no more of the request; its answer may stand in its socket all the same, so that is still read."""
        if self.tunnel is not None:
            self.tunnel.broken(upstream)
            return
        self.keep = False
        if self.sending is not None:
            self.sending.stop()
            self.sending = None
        self.client.want(self.client.mask & ~READ)
        if self.received:
            self._over()
        else:
            upstream.want(upstream.mask | READ)

    # -- the answer ------------------------------------------------------------------------------------------------------

    def answered(self, upstream: Upstream, response: Response, start: int, end: int) -> bool:
        """shared[start:end] begins with that head. True: it is an interim one. Raises FramingError(502)."""
        request, client = self.request, self.client
        if request is None:
            return False
        if response.status < 200:
            return self._interim(upstream, request, response, end)
        if self.plain and self.sent and response.verbatim and response.length == end - response.end and not response.close:
            self._pass_whole(upstream, start, end)
            return False
        stop, left, chunked = self._measure(request, response, end)
        upstream.awaiting = False
        self.begun = True
        self.until_close = response.length == UNTIL_CLOSE
        self.keep = not response.close and (stop == end or bool(left))
        # Without a 100 a client may never send the body it announced; nobody could tell where its next request begins.
        unasked = request.expect and not self.continued and not self.sent
        self.closing = request.close or self.until_close or unasked
        upstream.backend.env.bytes_out += end - start
        rest = bytes(view[stop:end]) if left else b""
        try:
            if response.verbatim and not self.closing and request.minor == b"1":
                client.put(view[start:stop])
            else:
                head = serialise_response(response, close=self.closing, keep_alive=request.minor == b"0")
                client.put(head + view[response.end : stop])
        except OSError:
            client.close()
            return False
        if left:
            self.receiving = Flow(upstream, client, left, client.pipes, self._receiving_ended)
            self.receiving.chunked = chunked
            self.receiving.carry = rest
        elif not client.backlog:
            self._answer_in()
        return False

    def _pass_whole(self, upstream: Upstream, start: int, end: int) -> None:
        """The common case: an answer that came in one piece, needs no change and ends nothing."""
        upstream.awaiting = False
        upstream.backend.env.bytes_out += end - start
        self.begun = self.keep = True
        client = self.client
        try:
            gone = client.put(view[start:end])
        except OSError:
            client.close()
            return
        if not gone or upstream.backlog:
            if gone:
                self._answer_in()
            return  # else `client_drained` goes on
        self.received = True
        self.busy = False
        self.upstream = None
        upstream.reused = True
        if upstream.mask != READ:
            upstream.want(READ)
        client.next_request()

    def _measure(self, request: Request, response: Response, end: int) -> tuple[int, int, Chunked | None]:
        """Up to where shared belongs to the answer, how much of the body is left, and the judge of a chunked one."""
        length, begin = response.length, response.end
        if length >= 0:
            taken = min(length, end - begin)
            return begin + taken, length - taken, None
        if length == UNTIL_CLOSE:
            return end, ENDLESS, None
        if request.minor == b"0":
            raise FramingError(502, "it answered an HTTP/1.0 request in chunks")
        chunked = Chunked(502)
        stop = chunked.scan(shared, begin, end)
        return stop, 0 if chunked.done else ENDLESS, chunked

    def _interim(self, upstream: Upstream, request: Request, response: Response, end: int) -> bool:
        self.interim += 1
        if response.status == 101:
            if not request.upgrade or not self.sent or not response.upgrade:
                raise FramingError(502, "it switched protocols without having been asked to")
            self._switch(upstream, response, end)
            return False
        if self.interim > MOST_INTERIM:
            raise FramingError(502, "it gave interim answers without end")
        if request.minor == b"1":
            self.continued = self.continued or response.status == 100
            try:
                self.client.put(serialise_response(response, close=False, keep_alive=False))
            except OSError:
                self.client.close()
                return False
        return True

    def _switch(self, upstream: Upstream, response: Response, end: int) -> None:
        """From here on the bytes are of another protocol; those that came early on either side go first."""
        client = self.client
        upstream.awaiting = False
        upstream.tunnelled = True
        self.begun = True
        early, client.carry = client.carry, b""
        head = serialise_response(response, close=False, keep_alive=False)
        try:
            client.put(head + view[response.end : end])
            if early:
                upstream.put(early)
        except OSError:
            client.close()
            return
        self.tunnel = Tunnel(client, upstream, client.pipes, self._tunnel_ended)
        if client.eof:
            self.tunnel.near_ended()

    def _tunnel_ended(self) -> None:
        if self.tunnel is not None:
            self.client.count(self.tunnel.inward, inward=True)
            self.client.count(self.tunnel.outward, inward=False)
        if self.upstream is not None:
            self.upstream.let_go()
        self.client.gone()

    def _receiving_ended(self, flow: Flow, how: How) -> None:
        flow.stop()
        self.receiving = None
        self.client.count(flow, inward=False)
        if how == How.DONE:
            self.keep = self.keep and not flow.extra
            self._answer_in()
        elif how == How.EOF and self.until_close:
            self._answer_in()
        elif how == How.SINK_LOST:
            self.client.close()
        else:
            self.client.break_off()

    def client_drained(self) -> None:
        """The client has taken the whole of an answer that came in one piece."""
        if self.begun and not self.received and self.receiving is None and self.tunnel is None:
            self._answer_in()

    def _answer_in(self) -> None:
        """The answer is out as a whole."""
        self.received = True
        if self.sent or self.closing or not self.keep:
            self._over()
        # Else the request is still coming, and goes to a service that keeps the connection: wait for its end.

    def _over(self) -> None:
        upstream = self.upstream
        self.busy = False
        self.upstream = None
        if upstream is not None:
            upstream.reused = True
            if self.keep and self.sent and not upstream.backlog:
                upstream.want(READ)
            else:
                self._forget(upstream)
        if self.sending is not None:
            self.sending.stop()
            self.sending = None
        self.client.exchanged(close=self.closing or not self.sent, unread=not self.sent)

    def unanswered(self, upstream: Upstream, reason: str, *, silent: bool) -> None:
        """No proper answer will come. `silent`: nothing at all came, so a kept connection may just have timed out."""
        request, backend = self.request, self.backend
        stale = silent and upstream.reused and self.sent
        self._forget(upstream)
        if request is None or backend is None or not self.busy:
            return
        if self.begun:
            self.client.break_off()
        elif stale and not request.length and request.method in IDEMPOTENT:
            self._dial(backend)
        else:
            self.client.answer_page(pages.bad_answer(backend.endpoint.name, reason))

    # -- ends ------------------------------------------------------------------------------------------------------------

    def upstream_idle_event(self, upstream: Upstream) -> None:
        """A kept connection ended, or sent something unasked; or the sending goes on after the answer, and it ended."""
        self._forget(upstream)
        if self.busy and upstream is self.upstream:
            self.keep = False
            self._over()

    def upstream_stalled(self, upstream: Upstream) -> None:
        """A call on it blocked: its init plays foul."""
        self.client.router.block(upstream.backend)
        self._cut(upstream, "it held the router up")

    def released(self, upstream: Upstream) -> None:
        """Its env goes away."""
        self._cut(upstream, "")

    def release(self) -> None:
        """The env that is being dialled goes away."""
        if self.dial is not None and self.backend is not None:
            self.dial.cancel()
            self._end_dial()
            self.client.answer_page(pages.going(self.backend.endpoint.name))

    def _cut(self, upstream: Upstream, reason: str) -> None:
        if self.tunnel is not None and upstream is self.upstream:
            self.tunnel.cut()
        elif not self.busy or upstream is not self.upstream:
            self._forget(upstream)
        elif self.begun:
            self.client.break_off()
        else:
            self._forget(upstream)
            name = upstream.backend.endpoint.name
            self.client.answer_page(pages.bad_answer(name, reason) if reason else pages.going(name))

    def drop(self) -> None:
        """Let go of everything; the client is going."""
        self.busy = False
        if self.dial is not None:
            self.dial.cancel()
            self._end_dial()
        for flow in (self.sending, self.receiving):
            if flow is not None:
                flow.stop()
        self.sending = self.receiving = None
        if self.tunnel is not None:
            self.tunnel.inward.stop()
            self.tunnel.outward.stop()
        self.end_request()
        for upstream in list(self.upstreams.values()):
            self._forget(upstream)

    def end_request(self) -> None:
        """Our own page is the answer. A service that has half a request must not take it for a whole one."""
        self.busy = False
        upstream, self.upstream = self.upstream, None
        if self.sending is not None:
            self.sending.stop()
            self.sending = None
        if upstream is not None and upstream.open:
            if not self.sent:
                upstream.reset()
            self._forget(upstream)

    def _forget(self, upstream: Upstream) -> None:
        if self.upstreams.get(upstream.backend) is upstream:
            del self.upstreams[upstream.backend]
        upstream.awaiting = False
        upstream.close()
