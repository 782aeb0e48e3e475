"""One request and its answer, from `ask` to its end, as the client can understand it.

The half of a client connection (`client`) that faces the services; `asking` brings the request there, this brings the answer
back. What was read into the shared buffer is used up before an event ends. Invariant: `busy` from `ask` until one of the hooks
ended it: `exchanged`, `next_request`, `break_off`, `answer_page`, `close`.
"""

from sandboxd.router.asking import Asking
from sandboxd.router.backends import Backend
from sandboxd.router.bodies import measure
from sandboxd.router.loop import READ
from sandboxd.router.relay import Flow, How, view
from sandboxd.router.tunnel import Tunnel
from sandboxd.router.upstream import Upstream
from sandboxd.routing import pages
from sandboxd.routing.framing import UNTIL_CLOSE, FramingError
from sandboxd.routing.requests import IDEMPOTENT, Request
from sandboxd.routing.responses import Response, serialise_response

MOST_INTERIM = 32  # 1xx answers to one request
BLOCKED = 10.0  # seconds an env that blocked us is not dialled


class Exchange(Asking):
    """See above."""

    __slots__ = ()

    # -- what the client's half does -------------------------------------------------------------------------------------

    def exchanged(self, *, close: bool, unread: bool) -> None:
        """It is over. `unread`: the client may still be sending what nobody reads."""
        raise NotImplementedError

    def learn(self, upstream: Upstream) -> None:
        """An answer went out in one piece, as it came."""
        raise NotImplementedError

    def next_request(self) -> None:
        """It is over, and the connection goes on."""
        raise NotImplementedError

    def break_off(self) -> None:
        """The answer broke off: the client gets what came, then a reset, so that it takes nothing for whole."""
        raise NotImplementedError

    def gone(self) -> None:
        """A tunnel closed this connection."""
        raise NotImplementedError

    def block(self, backend: Backend) -> None:
        """Leave an env alone whose socket blocked us."""
        raise NotImplementedError

    # -- the answer ------------------------------------------------------------------------------------------------------

    def answered(self, upstream: Upstream, response: Response, start: int, end: int) -> bool:
        """shared[start:end] begins with that head. True: it is an interim one. Raises FramingError(502)."""
        request = self.request
        if request is None:
            return False
        if (
            self.sent
            and response.verbatim
            and response.length == end - response.end
            and response.close == request.close
            and response.status >= 200
            and request.minor == b"1"
            and not self.cookie
        ):
            if response.close:
                self._pass_last(upstream, start, end)
            else:
                self._pass_whole(upstream, start, end)
            return False
        if response.status < 200:
            return self._interim(upstream, request, response, end)
        stop, left, chunked = measure(request, response, end)
        upstream.awaiting = False
        self.begun = True
        self.until_close = response.length == UNTIL_CLOSE
        self.keep = not response.close and (stop == end or bool(left)) and upstream.turn is None
        # Without a 100 a client may never send the body it announced; nobody could tell where its next request begins.
        unasked = request.expect and not self.continued and not self.sent
        self.closing = request.close or self.until_close or unasked
        upstream.backend.env.bytes_out += end - start
        rest = bytes(view[stop:end]) if left else b""
        try:
            said = self.closing == (response.close and not self.until_close)
            if response.verbatim and request.minor == b"1" and said and not self.cookie:
                data: bytes | memoryview = view[start:stop]
            else:
                head = self._dressed(serialise_response(response, close=self.closing, keep_alive=request.minor == b"0"))
                data = head + view[response.end : stop]
            if self.closing and not left and self.sent:
                self.put_last(data)
            else:
                self.put(data)
        except OSError:
            self.close()
            return False
        if left:
            self.receiving = Flow(upstream, self, left, self.pipes, self._receiving_ended)
            self.receiving.chunked = chunked
            self.receiving.carry = rest
        elif not self.backlog:
            self._answer_in()
        return False

    def _dressed(self, head: bytes) -> bytes:
        """A head of the service's with what is ours to add."""
        cookie, self.cookie = self.cookie, b""
        return head[:-2] + cookie + head[-2:] if cookie else head

    def _pass_whole(self, upstream: Upstream, start: int, end: int) -> None:
        """The common case: an answer that came in one piece, needs no change and ends nothing."""
        upstream.awaiting = False
        upstream.backend.env.bytes_out += end - start
        self.begun = True
        self.keep = upstream.turn is None
        try:
            gone = self.put(view[start:end])
        except OSError:
            self.close()
            return
        if not gone or upstream.backlog or not self.keep:
            if gone:
                self._answer_in()
            return  # else `client_drained` goes on
        self.received = True
        self.busy = False
        self.upstream = None
        upstream.reused = True
        if upstream.mask != READ:
            upstream.want(READ)
        self.learn(upstream)
        self.next_request()

    def _pass_last(self, upstream: Upstream, start: int, end: int) -> None:
        """The same where it ends both connections."""
        upstream.awaiting = False
        upstream.backend.env.bytes_out += end - start
        self.begun = self.closing = True
        try:
            gone = self.put_last(view[start:end])
        except OSError:
            self.close()
            return
        if gone:  # else `client_drained` goes on
            self.busy = False
            self.upstream = None
            upstream.ended = True
            self.exchanged(close=True, unread=False)

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
                self.put(serialise_response(response, close=False, keep_alive=False))
            except OSError:
                self.close()
                return False
        return True

    def _switch(self, upstream: Upstream, response: Response, end: int) -> None:
        """From here on the bytes are of another protocol; those that came early on either side go first."""
        upstream.awaiting = False
        upstream.tunnelled = True
        self.begun = True
        early, self.carry = self.carry, b""
        head = self._dressed(serialise_response(response, close=False, keep_alive=False))
        try:
            self.put(head + view[response.end : end])
            if early:
                upstream.put(early)
        except OSError:
            self.close()
            return
        self.tunnel = Tunnel(self, upstream, self.pipes, self._tunnel_ended)
        if self.eof:
            self.tunnel.near_ended()

    def _tunnel_ended(self) -> None:
        if self.tunnel is not None:
            self.count(self.tunnel.inward, inward=True)
            self.count(self.tunnel.outward, inward=False)
        if self.upstream is not None:
            self.upstream.let_go()
        self.gone()

    def _receiving_ended(self, flow: Flow, how: How) -> None:
        flow.stop()
        self.receiving = None
        self.count(flow, inward=False)
        if how == How.DONE:
            self.keep = self.keep and not flow.extra
            self._answer_in()
        elif how == How.EOF and self.until_close:
            self._answer_in()
        elif how == How.SINK_LOST:
            self.close()
        else:
            self.break_off()

    def client_drained(self) -> None:
        """The client has taken the whole of an answer that came in one piece."""
        if self.begun and not self.received and self.receiving is None and self.tunnel is None:
            self._answer_in()

    def _answer_in(self) -> None:
        """The answer is out as a whole."""
        self.received = True
        if self.sent or self.closing or not self.keep:
            self.answer_over()
        # Else the request is still coming, and goes to a service that keeps the connection: wait for its end.

    def answer_over(self) -> None:
        """Request and answer are both as far as they will get."""
        upstream = self.upstream
        self.busy = False
        self.upstream = None
        if self.sending is not None:
            self.sending.stop()
            self.sending = None
        close = self.closing or not self.sent
        if close and not self.backlog:
            # The client first: its last bytes may wait for the FIN (`put_last`). With it all its upstreams go, see `drop`.
            self.exchanged(close=True, unread=not self.sent)
            return
        if upstream is not None:
            upstream.reused = True
            if self.keep and self.sent and not upstream.backlog:
                upstream.want(READ)
            else:
                self.forget(upstream)
        self.exchanged(close=close, unread=not self.sent)

    def unanswered(self, upstream: Upstream, reason: str, *, silent: bool) -> None:
        """No proper answer will come. `silent`: nothing at all came, so a kept connection may just have timed out."""
        request, backend = self.request, self.backend
        stale = silent and upstream.reused and self.sent
        self.forget(upstream)
        if request is None or backend is None or not self.busy:
            return
        if self.begun:
            self.break_off()
        elif stale and not request.length and request.method in IDEMPOTENT:
            self.begin_dial(backend)
        else:
            self.answer_page(pages.bad_answer(backend.endpoint.name, reason))

    # -- ends ------------------------------------------------------------------------------------------------------------

    def upstream_idle_event(self, upstream: Upstream) -> None:
        """A kept connection ended, or sent something unasked; or the sending goes on after the answer, and it ended."""
        self.forget(upstream)
        if self.busy and upstream is self.upstream:
            self.keep = False
            self.answer_over()

    def upstream_stalled(self, upstream: Upstream) -> None:
        """A call on it blocked: its init plays foul."""
        self._cut(upstream, "it held the router up")
        self.block(upstream.backend)

    def released(self, upstream: Upstream) -> None:
        """Its env goes away."""
        self._cut(upstream, "")

    def release(self) -> None:
        """The env that is being dialled goes away."""
        if self.dial is not None and self.backend is not None:
            self.dial.cancel()
            self.end_dial()
            self.answer_page(pages.going(self.backend.endpoint.name))

    def _cut(self, upstream: Upstream, reason: str) -> None:
        if self.tunnel is not None and upstream is self.upstream:
            self.tunnel.cut()
        elif not self.busy or upstream is not self.upstream:
            self.forget(upstream)
        elif self.begun:
            self.break_off()
        else:
            self.forget(upstream)
            name = upstream.backend.endpoint.name
            self.answer_page(pages.bad_answer(name, reason) if reason else pages.going(name))

    def drop(self) -> None:
        """Let go of everything; the client is going."""
        self.again = None
        if self.busy:
            self._drop_exchange()
        for upstream in self.upstreams.values():
            upstream.awaiting = False
            upstream.close()
        self.upstreams.clear()

    def _drop_exchange(self) -> None:
        if self.dial is not None:
            self.dial.cancel()
            self.end_dial()
        for flow in (self.sending, self.receiving):
            if flow is not None:
                flow.stop()
        self.sending = self.receiving = None
        if self.tunnel is not None:
            self.tunnel.inward.stop()
            self.tunnel.outward.stop()
        self.end_request()

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
            self.forget(upstream)
