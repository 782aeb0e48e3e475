"""One connection to a service, for one client connection: reads the heads of answers, and nothing unasked.

Kept between two requests of its client, never lent to another client's (a pool would mix answers and hang servers that take
one connection at a time). What arrives while no request is out ends the connection. Imports relay and routing.responses.
"""

import _socket
import socket
from typing import Protocol

from sandboxd.kernel.splice import reset_on_close
from sandboxd.router.backends import Backend
from sandboxd.router.loop import READ, Loop
from sandboxd.router.relay import BUFFER, DONTWAIT, Side, shared, view
from sandboxd.router.turns import Turn
from sandboxd.routing.framing import FramingError
from sandboxd.routing.responses import Response, goes_as_it_is, parse_response


class Asker(Protocol):
    """The exchange that an upstream works for."""

    def answered(self, upstream: "Upstream", response: Response, start: int, end: int) -> bool:
        """shared[start:end] begins with that head; returns whether another head is to follow (1xx)."""

    def pass_on(self, upstream: "Upstream", count: int) -> None:
        """shared[:count] is a whole answer to a request that was repeated, its head the last one's."""

    def unanswered(self, upstream: "Upstream", reason: str, *, silent: bool) -> None:
        """No answer will come; `silent`: not one byte of it came."""

    def upstream_broken(self, upstream: "Upstream") -> None:
        """It takes no more bytes."""

    def upstream_idle_event(self, upstream: "Upstream") -> None:
        """It ended, or sent something unasked."""

    def upstream_stalled(self, upstream: "Upstream") -> None:
        """A call on it blocked."""

    def released(self, upstream: "Upstream") -> None:
        """Its env goes away."""


class Upstream(Side):
    """`awaiting`: a head is due. `repeated`: to the request it had last. `bodiless`: it answers HEAD. `reused`: it has served a
    request before. `turn`: its place among those that its env allows, where it bounds them; then it is not kept."""

    __slots__ = (
        *(
            "asker",
            "awaiting",
            "backend",
            "bodiless",
            "ended",
            "head",
            "known",
            "last",
            "repeated",
            "reused",
            "size",
            "tunnelled",
            "turn",
        ),
        "whole",
    )

    def __init__(self, loop: Loop, sock: _socket.socket, backend: Backend, asker: Asker) -> None:
        super().__init__(loop, sock, 0)
        loop.after_batch(self)
        self.backend = backend
        self.asker = asker
        self.awaiting = False
        self.bodiless = False
        self.ended = False
        self.repeated = False
        self.reused = False
        self.tunnelled = False
        self.turn: Turn | None = None
        self.head = b""
        # Of the last answer the size of its head, and, once two of one size came, its bytes and what they were parsed to; at
        # first those of the connection before it.
        self.size = backend.size
        self.last = backend.last
        self.known = backend.known
        self.whole = backend.whole  # bytes of that answer with its body, where such a one can go out as it came; else 0
        backend.env.open += 1
        backend.env.held.add(self)
        loop.hold_foreign()

    def on_event(self, mask: int) -> None:
        """From the loop."""
        if mask == READ == self.mask and self.awaiting:  # the way of nearly all events, without detours
            self._read_head()
        else:
            super().on_event(mask)

    def look(self) -> None:
        """On a service that is quick, and others that had their turn since, the answer is there without any waiting."""
        if self.open and self.awaiting:
            self._read_head()
        if self.open and self.awaiting:
            self.want(self.mask | READ)

    def readable(self) -> None:
        """A head, a body, or the end."""
        if self.awaiting:
            self._read_head()
        elif self.outgoing is not None:
            self.outgoing.move()
        elif self.tunnelled:
            super().readable()
        else:
            self.asker.upstream_idle_event(self)

    def send_at_once(self) -> None:
        """Accepted sockets have it from their listener; of ours only those that stream need it."""
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def broken(self) -> None:
        """It takes no more bytes."""
        self.asker.upstream_broken(self)

    def release(self) -> None:
        """Its env goes away."""
        self.asker.released(self)

    def abort(self, *, stalled: bool = False) -> None:
        """From the loop, after a failure of ours."""
        if stalled:
            self.asker.upstream_stalled(self)
        else:
            self.asker.unanswered(self, "the router failed on its answer", silent=False)
        self.close()

    def close(self) -> None:
        """End the connection, whoever else holds the socket."""
        if not self.open:
            return
        if not self.parked:
            self.loop.forget(self.fd)
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is gone already
        self.open = False
        if not self.ended or self.turn is not None or not self.backend.take_back(self.sock):
            self.sock.close()
        self._uncount()

    def reset(self) -> None:
        """End it so that the service cannot take a broken request for a whole one."""
        if self.open:
            try:
                reset_on_close(self.sock)
            except OSError:
                pass  # it is gone already
            self.close()

    def is_quiet(self) -> bool:
        """Whether nothing has come since the last answer; asked before a request that may not be sent twice."""
        try:
            self.sock.recv(1, socket.MSG_PEEK | DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def let_go(self) -> None:
        """Somebody else took the socket over (a tunnel closed it)."""
        self._uncount()

    def closed(self) -> None:
        """Another may have its place now."""
        if self.turn is not None:
            self.turn.give()

    def _uncount(self) -> None:
        if self in self.backend.env.held:
            self.backend.env.held.discard(self)
            self.backend.env.open -= 1
            self.loop.drop_foreign()
            if self.turn is not None and self.sock.fileno() < 0:
                self.turn.give()

    def _read_head(self) -> None:
        held = len(self.head)
        try:
            if held:
                view[:held] = self.head
                count = self.sock.recv_into(view[held:], BUFFER - held, DONTWAIT)
            else:
                count = self.sock.recv_into(shared, BUFFER, DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            self.asker.unanswered(self, "it reset the connection before it answered", silent=not held)
            return
        if not count:
            self.asker.unanswered(self, "it closed the connection before it answered", silent=not held)
            return
        if count == self.whole and self.repeated and not held and shared.startswith(self.last, 0, count):
            self.asker.pass_on(self, count)
            return
        # Within `count`: behind it stands what another connection left there.
        if not held and shared.startswith(self.last, 0, count) and self.known is not None and not self.bodiless:
            self._hand_over(self.known, count)
            return
        self.head = b""
        at, end = 0, held + count
        try:
            while (response := parse_response(shared, at, end, bodiless=self.bodiless)) is not None:
                if response.end == self.size and not at and response.status >= 200 and not self.bodiless:
                    self._remember(response)
                self.size = self.backend.size = response.end
                if self.repeated and not at and response.end + response.length == end and goes_as_it_is(response):
                    self.asker.pass_on(self, end)
                    return
                # Once the answer is handed over, the next request may be on its way already and `shared` be used for it.
                if not self.asker.answered(self, response, at, end):
                    return
                at = response.end
            self.head = bytes(view[at:end])
        except FramingError as error:
            self.asker.unanswered(self, error.reason, silent=False)

    def _remember(self, response: Response) -> None:
        """The head at the begin of the shared buffer, for this connection and those to come."""
        backend = self.backend
        self.last = backend.last = bytes(view[: response.end])
        self.known = backend.known = response
        self.whole = backend.whole = response.end + response.length if goes_as_it_is(response) else 0

    def _hand_over(self, response: Response, end: int) -> None:
        try:
            self.asker.answered(self, response, 0, end)
        except FramingError as error:
            self.asker.unanswered(self, error.reason, silent=False)
