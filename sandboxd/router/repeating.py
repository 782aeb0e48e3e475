"""The next request of a connection that had one like it answered: no looking up again, no reading of what was read before.

What was decided for the request before holds as long as nothing else came in between, for those that ask for the same name and
have no more to say than most. Clients that poll or are measured even send one head over and over, and services answer it with
one head: the bytes that go to the service are kept, and an answer whose head and size are those of the last one goes out as it
is. Whatever differs takes the way that all others take. A base of `Client`, over `finding`. Invariant: `again` is set only
between two requests, by an answer that left nothing of its exchange over (not `begun`, not `received`, not `keep`); `ask`,
`forget` and `drop` unset it.
"""

import _socket
from typing import TYPE_CHECKING

from sandboxd.router.finding import BUSY, READING, Finding
from sandboxd.router.loop import READ
from sandboxd.router.relay import view
from sandboxd.router.upstream import Upstream
from sandboxd.routing.requests import Request, serialise_request

if TYPE_CHECKING:
    from sandboxd.router.worker import Router


class Repeating(Finding):
    """known: what the last head was parsed to, None until two of one size came. written: `wrote` as it goes to the service."""

    __slots__ = ("known", "written", "wrote")

    def __init__(self, router: "Router", sock: _socket.socket, source: tuple[str, int], here: tuple[str, int]) -> None:
        super().__init__(router, sock, source, here)
        self.known: Request | None = router.known
        self.wrote: Request | None = None
        self.written = b""

    def learn(self, upstream: Upstream) -> None:
        """An answer went out as it came; have the next one be shorter work."""
        if self.admitted is upstream.backend and not (self.interim or upstream.bodiless or self.router.draining):
            self.begun = self.received = self.keep = False
            self.again = upstream

    def ask_again(self, upstream: Upstream, request: Request) -> None:
        """`ask` with all that was found before, for a plain request."""
        self.again = None  # until it is answered in the same way
        if request is not self.wrote:
            self.wrote = request
            self.written = serialise_request(request, self.peer, trusted=self.trusted)
        self.request = request
        self.upstream = upstream
        self.busy = self.sent = upstream.awaiting = upstream.repeated = True
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
        """The answer is in the shared buffer as a whole, and goes out as it is."""
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
        if self.mask != READ or self.carry or self.eof or self.router.draining:
            self.next_request()
            return
        self.again = upstream
        self.request = None
        self.state = READING
        self.deadline = self.loop.now + self.bounds.idle
