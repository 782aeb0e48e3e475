"""The same request again, on the connection where it was answered before: no parsing, no looking up, no writing anew.

Clients that poll or are measured send one head over and over, and services answer it with one head. What was decided for the
one before holds as long as nothing else came in between: the bytes that go to the service are kept, and an answer whose head
and size are those of the last one goes out as it is. Whatever differs takes the way that all others take. A base of `Client`,
over `finding`. Invariant: `again` is set only between two requests, by an answer that left nothing of its exchange over (not
`begun`, not `received`, not `keep`); `ask`, `forget` and `drop` unset it.
"""

import _socket
from typing import TYPE_CHECKING

from sandboxd.router.finding import BUSY, READING, Finding
from sandboxd.router.loop import READ
from sandboxd.router.relay import view
from sandboxd.router.upstream import Upstream
from sandboxd.routing.requests import IDEMPOTENT, Request, serialise_request

if TYPE_CHECKING:
    from sandboxd.router.worker import Router


class Repeating(Finding):
    """known: what the last head was parsed to, None until two of one size came. written: it as it goes to the service."""

    __slots__ = ("known", "written")

    def __init__(self, router: "Router", sock: _socket.socket, source: tuple[str, int], here: tuple[str, int]) -> None:
        super().__init__(router, sock, source, here)
        self.known: Request | None = router.known
        self.written = b""

    def learn(self, upstream: Upstream) -> None:
        """An answer went out as it came; have the next one be shorter work, if the request is the one that is known."""
        request = self.request
        if request is None or request is not self.known or self.admitted is not upstream.backend or self.interim:
            return
        if upstream.whole and not upstream.bodiless and request.method in IDEMPOTENT and not request.upgrade:
            self.written = serialise_request(request, self.peer, trusted=self.trusted)
            self.begun = self.received = self.keep = False
            self.again = upstream

    def ask_again(self, upstream: Upstream) -> None:
        """The request that is known came again: `ask` with all that was found before."""
        self.again = None  # until it is answered in the same way
        self.request = self.known
        self.upstream = upstream
        self.busy = upstream.awaiting = upstream.repeated = True
        self.state = BUSY
        self.moved = -1
        env = upstream.backend.env
        env.requests += 1
        env.bytes_in += len(self.written)
        try:
            upstream.repeated = upstream.put(self.written)
        except OSError:
            self.unanswered(upstream, "it closed the connection before it answered", silent=True)

    def pass_on(self, upstream: Upstream, count: int) -> None:
        """The answer is in the shared buffer as a whole, and like the last one."""
        upstream.awaiting = False
        upstream.backend.env.bytes_out += count
        try:
            gone = self.put(view[:count])
        except OSError:
            self.close()
            return
        if not gone:
            self.begun = self.keep = True
            return  # `client_drained` goes on
        self.busy = False
        self.upstream = None
        self.again = upstream
        if self.mask != READ or self.carry or self.eof or self.router.draining:
            self.next_request()
            return
        self.request = None
        self.state = READING
        self.deadline = self.loop.now + self.bounds.idle
