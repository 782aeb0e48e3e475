"""One client connection: reads request heads, answers what cannot be passed on, keeps its time.

One request at a time; what is pipelined behind it waits in `carry`, capped by the shared buffer. Each state has a deadline
that `tick` looks at once a second. Imports exchange, backends, closing and routing. Invariant: in state READING nothing of an
earlier request is left; every other state ends by itself or by its deadline.
"""

import _socket
from typing import TYPE_CHECKING

from sandboxd.router import secure
from sandboxd.router.backends import Backend
from sandboxd.router.closing import linger, probe, release, reset_when_taken
from sandboxd.router.finding import BUSY, HELD, LEAVING, READING
from sandboxd.router.loop import READ, WRITE
from sandboxd.router.relay import BUFFER, DONTWAIT, shared, view
from sandboxd.router.repeating import Repeating
from sandboxd.routing import pages
from sandboxd.routing.framing import FramingError
from sandboxd.routing.requests import Request, is_plain, parse_request

if TYPE_CHECKING:
    from sandboxd.router.worker import Router


class Client(Repeating):
    """See above. size, head: of the last request, and, once two of one size came, its bytes: clients that poll send the same
    head over and over. A new connection begins with those of the one before it.
    """

    __slots__ = ("head", "proceeding", "scanned", "size", "unread")

    def __init__(self, router: "Router", sock: _socket.socket, source: tuple[str, int], here: tuple[str, int]) -> None:
        """`source`, `here`: the address it came from and the one it came to."""
        super().__init__(router, sock, source, here)
        self.size = router.size
        self.head = router.head
        self.scanned = 0
        self.proceeding = False
        self.unread = False

    # -- reading requests ------------------------------------------------------------------------------------------------

    def on_event(self, mask: int) -> None:
        """From the loop."""
        if mask == READ == self.mask and self.state == READING:  # the way of nearly all events, without detours
            self._read_head()
        else:
            super().on_event(mask)

    def readable(self) -> None:
        """A head, a body, or more than is wanted now."""
        if self.state == READING:
            self._read_head()
        elif self.outgoing is not None:
            self.outgoing.move()
        else:
            self._absorb()

    def begin(self) -> None:
        """Just accepted: most clients' requests are here already, and many connections are over before they need the loop.

        So it joins the loop when it waits for something: here, when its answer is out, when a body flows, or at the next tick.
        """
        self._read_head()
        if self.open and self.state == READING and not self.mask:
            self.want(READ)

    def _read_head(self) -> None:
        held = len(self.carry)
        try:
            if held:
                view[:held] = self.carry
                count = self.sock.recv_into(view[held:], BUFFER - held, DONTWAIT)
            else:
                count = self.sock.recv_into(shared, BUFFER, DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self.close()
        elif not held and count == len(self.head) and shared.startswith(self.head) and self.known is not None:
            self._take_request(self.known)
        elif self._take_head(held + count) and self.carry:
            self._proceed()

    def _take_head(self, end: int) -> bool:
        """Act on the request in shared[:end]; False: its head is not whole yet."""
        try:
            request = parse_request(shared, end, self.bounds, self.scanned)
        except FramingError as error:
            if shared[0] == secure.FIRST and self.request is None and not self.upstreams:
                self._secure(bytes(view[:end]))
            else:
                self.refuse(error.status, error.reason)
            return True
        if request is None:
            if not self.scanned:
                self.deadline = self.loop.now + self.bounds.head
            self.carry = bytes(view[:end])
            self.scanned = end
            return False
        self.scanned = 0
        if request.end == end:
            self.carry = b""
            if end == self.size and not request.length:
                self.head, self.known = self.router.head, self.router.known = bytes(view[:end]), request
            self.size = self.router.size = end
        else:
            self.carry = bytes(view[request.end : end])
        self._take_request(request)
        return True

    def _secure(self, data: bytes) -> None:
        """It speaks TLS: another role has the socket from here on."""
        release(self)
        self._let_go()
        self.router.join(secure.Secure(self.router, self.sock, self.source, self.here, data))

    def _take_request(self, request: Request) -> None:
        backend, again = self.admitted, self.again
        if again is not None and again.backend is backend and request.host == self.host and is_plain(request):
            self.ask_again(again, request)
            return
        if self.router.draining and not request.upgrade:
            request.close = True
        self.request = request
        if backend is not None and request.host == self.host:
            # As before: same name, same table (see `Router.obey`), so the same answer to every question `find` asks.
            backend.env.requests += 1
            self.state = BUSY
            self.moved = -1
            self.ask(request, backend)
        else:
            self.find(request)

    def _proceed(self) -> None:
        """Take the requests that are already here, in turn; a loop, since each may be answered before this returns."""
        if self.proceeding:
            return
        self.proceeding = True
        while self.open and self.state == READING and self.carry and not self.scanned:
            size = len(self.carry)
            view[:size] = self.carry
            self.carry = b""
            self._take_head(size)
        self.proceeding = False

    def _absorb(self) -> None:
        """Bytes that are not for now: keep one piece and stop reading. Or the client's end."""
        room = BUFFER - len(self.carry)
        try:
            count = self.sock.recv_into(shared, room, DONTWAIT) if room else 0
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if count:
            self.carry += view[:count]
        elif room:
            self.eof = True
            probe(self.sock)
        self.want(self.mask & ~READ)

    # -- ends of an exchange ---------------------------------------------------------------------------------------------

    def answer_page(self, page: pages.Page, *, close: bool = False) -> None:
        """Our own answer to the request that is under way."""
        request = self.request
        self.router.held.discard(self)
        self.router.pages[page.status] += 1
        # A body that was not taken makes the place of the next request unknowable, so the connection ends.
        unread = request is not None and bool(request.length) and not self.sent
        close = close or unread or request is None or request.close or bool(request.upgrade)
        as_html = request is not None and request.wants_html
        self.end_request()
        bodiless = request is not None and request.method == b"HEAD"
        data = pages.render(page, as_html=as_html, bodiless=bodiless, close=close, more=self.cookie)
        self.cookie = b""
        self.state = BUSY
        try:
            if close:
                self.put_last(data)
            else:
                self.put(data)
        except OSError:
            self.close()
            return
        self.exchanged(close=close, unread=unread or close)

    def exchanged(self, *, close: bool, unread: bool) -> None:
        """The exchange is over. `unread`: the client may still be sending what nobody reads."""
        self.unread = unread or bool(self.carry)
        if close:
            self.state = LEAVING
            self.deadline = self.loop.now + self.bounds.stall
            if not self.backlog:
                self._leave()
        elif self.backlog:
            self.state = BUSY  # `drained` comes here again
        else:
            self.next_request()

    def next_request(self) -> None:
        """The last answer is out, and the connection goes on."""
        self.request = None
        self.state = READING
        self.deadline = self.loop.now + self.bounds.idle
        if self.router.draining and not self.router.retired:
            self.unread = bool(self.carry)
            self._leave()
            return
        if self.eof and not self.carry:
            self.close()
            return
        if self.mask != READ and not self.eof:
            self.want(READ)
        if self.carry:
            self._proceed()
            if self.open and self.eof and self.state == READING:
                self.close()

    def leave_if_idle(self) -> None:
        """The router is about to end: only a request that is under way is waited for."""
        if self.state == READING and not self.carry:
            self.close()

    def take_last(self) -> None:
        """The answer that is to come, or the next one, is the last."""
        self.size, self.head, self.known, self.again = 0, b"\0", None, None
        if self.request is not None and not self.begun and not self.request.upgrade:
            self.request.close = True

    def drained(self) -> None:
        """The client took what waited."""
        if self.feeder is not None:
            self.feeder.resume()
        elif self.state == LEAVING:
            self._leave()
        elif self.busy:
            self.client_drained()
        elif self.state == BUSY:
            self.exchanged(close=False, unread=False)

    def _leave(self) -> None:
        """The last answer is with the kernel. Unread input would make close(2) reset it away."""
        if self.unread and not self.eof:
            self._let_go()
            linger(self, self.bounds.linger)
        else:
            self.close()

    def break_off(self) -> None:
        """The answer broke off: the client gets what came, then a reset, so that it takes nothing for whole."""
        self._let_go()
        reset_when_taken(self)

    def broken(self) -> None:
        """The client takes nothing more."""
        if self.tunnel is not None:
            self.tunnel.broken(self)
        else:
            self.close()

    def lost(self) -> None:
        """The client is gone while nothing was read from it."""
        if self.tunnel is not None:
            self.park()  # both directions may be shut with bytes still to be read
        else:
            self.close()  # we never half-close a client that waits for an answer, so this is a reset

    def gone(self) -> None:
        """A tunnel closed this connection."""
        self._let_go()

    def close(self) -> None:
        """Now."""
        if self.open:
            self.open = False
            self.loop.drop(self.fd)
            self.sock.close()
            self._let_go()

    def abort(self, *, stalled: bool = False) -> None:
        """From the loop, after a failure of ours."""
        if stalled and self.backend is not None:
            self.block(self.backend)
        self.close()

    def block(self, backend: Backend) -> None:
        """Leave an env alone whose socket blocked us."""
        self.router.block(backend)

    def _let_go(self) -> None:
        self.router.forget(self)
        self.drop()

    # -- time and counts -------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Once a second."""
        if self.parked and not self.mask and not self.eof and not self.carry:
            self.want(READ)  # from now on it is noticed when it goes away while it waits
        if self.eof and self.local and self.tunnel is None and self.router.access.is_closed(self):
            self.close()  # it waits for no answer any more
        elif self.state == BUSY:
            self._tick_busy(now)
        elif now < self.deadline:
            return
        elif self.state == HELD:
            self.answer_page(self.router.doors.late(self))
        elif self.state == READING and self.carry:
            self.answer_page(pages.too_slow("the head of the request did not come to its end in time"), close=True)
        else:
            self.close()

    def _tick_busy(self, now: float) -> None:
        """A client must take its answer, and send what it announced; how long a service thinks is its own business."""
        moved = sum(flow.moved for flow in (self.sending, self.receiving) if flow is not None)
        waits_for_client = bool(self.mask & WRITE) or (self.sending is not None and bool(self.mask & READ))
        if not waits_for_client or moved != self.moved or self.tunnel is not None:
            self.moved = moved
            self.deadline = now + self.bounds.stall
        elif now >= self.deadline and not self.begun:
            self.answer_page(pages.too_slow("the body of the request stopped coming"), close=True)
        elif now >= self.deadline:
            self.break_off()
