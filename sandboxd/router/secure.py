"""TLS on the router's own address: passed through, unread, to the service that the ClientHello names.

One listener serves both: what begins with a TLS record's first byte is none of HTTP's. The service ends the TLS, with its own
certificate and ALPN; a hello counts like a request: its env is woken, waited for, and open only to whom the router lets in.
What cannot be passed on is told by an alert. Imports published (a raw connection from there on), closing and routing.hello.
"""

import _socket
from typing import TYPE_CHECKING

from sandboxd.router.access import is_local
from sandboxd.router.backends import Backend
from sandboxd.router.closing import linger
from sandboxd.router.loop import READ
from sandboxd.router.published import Raw
from sandboxd.router.relay import DONTWAIT
from sandboxd.routing import hello, pages
from sandboxd.routing.requests import Request
from sandboxd.routing.rules import Rule

if TYPE_CHECKING:
    from sandboxd.router.doors import Keyed
    from sandboxd.router.worker import Router

FIRST = hello.HANDSHAKE  # the byte a TLS connection begins with


class Secure(Raw):
    """One connection: reads the hello, then is a raw one.

    early: the hello. request: what it comes to, None until it is whole. here, local, uid: see `access`.
    """

    __slots__ = ("cookie", "here", "keyed", "local", "request", "trusted", "uid", "waits")

    def __init__(
        self, router: "Router", sock: _socket.socket, source: tuple[str, int], here: tuple[str, int], data: bytes
    ) -> None:
        super().__init__(router, None, sock, source)
        self.here = here
        self.local = is_local(source[0], here[0])
        self.uid: int | None = None
        self.request: Request | None = None
        self.keyed: Keyed | None = None
        self.cookie = b""
        self.trusted = False  # a proxy that passes TLS on says nothing of where it has it from
        self.waits = False
        self.early = data
        self.deadline = router.loop.now + router.bounds.head
        router.held_raw.add(self)

    def begin(self) -> None:
        """Read the hello's name, or, once it is known, what the env's state allows."""
        if self.request is None:
            self._read_name()
        if self.request is None or self.dial is not None or self.tunnel is not None or not self.open:
            return
        if self.find() is not None:
            super().begin()
        elif not self.router.doors.opens(self, self.request):
            if self.router.newest.is_certain(self):
                self.refuse(hello.UNRECOGNIZED_NAME)
        elif self.find() is not None:
            super().begin()

    def find(self) -> Backend | None:
        """The env's endpoint, if there is one."""
        backend = self.router.backends.choose(self.request)[0] if self.request is not None else None
        return self.router.doors.of(self.keyed) if backend is None and self.keyed is not None else backend

    protocol = "tls"

    def chosen(self) -> Backend | None:
        """Of several replicas the one that is least in use."""
        backend = self.find()
        return self.router.backends.replica(backend, (), 0) if backend is not None and backend.peers else backend

    @property
    def name(self) -> bytes:
        """That of the hello."""
        return (self.request.host if self.request is not None else None) or b""

    @property
    def is_held(self) -> bool:
        """Whether it waits for an env to be made for its key."""
        return self.open and self.waits and self.dial is None and self.tunnel is None

    def hold(self) -> None:
        """Wait for that; `deadline` is set since the hello was read."""
        self.waits = True
        self.wait()

    def among(self, request: Request, backend: Backend) -> Backend:
        """A key's env is one."""
        return backend

    def count_request(self, backend: Backend) -> None:
        """What is inside TLS nobody can count."""

    def route(self, request: Request, backend: Backend, rule: Rule | None) -> None:
        """There is one: `begin` goes on."""

    def answer_page(self, page: pages.Page) -> None:
        """What a page says, as an alert."""
        alerts = {403: hello.ACCESS_DENIED, 503: hello.INTERNAL_ERROR}
        self.refuse(alerts.get(page.status, hello.UNRECOGNIZED_NAME))

    turn_away = answer_page  # a hello's name is its one key

    def may_reach(self, backend: Backend) -> bool:
        """As a request may; asked when it is about to be passed on."""
        return self.router.access.allows(self, backend.endpoint)

    def readable(self) -> None:
        """More of the hello, or, in a tunnel, what follows it."""
        if self.outgoing is not None or self.request is not None:
            super().readable()
            return
        try:
            data = self.sock.recv(hello.MOST_HELLO - len(self.early), DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            super().fail()
            return
        self.early += data
        self.begin()

    def _read_name(self) -> None:
        try:
            name = hello.server_name(self.early)
        except hello.HelloError as error:
            self.refuse(error.alert)
            return
        if name is None:
            self.want(READ)
            return
        self.want(0)
        self.request = Request(b"", b"/", b"1", b"", 0, False, name)
        self.deadline = self.router.loop.now + self.router.backends.routes.hold

    def fail(self) -> None:
        """It cannot be served: as an alert, while the client still waits for the first answer to its hello."""
        if self.open and self.tunnel is None and self.request is not None:
            self.refuse(hello.INTERNAL_ERROR)
        else:
            super().fail()

    def denied(self) -> None:
        """It is somebody else's."""
        self.refuse(hello.ACCESS_DENIED)

    def refuse(self, alert: int) -> None:
        """Say why, and end the connection so that it is heard."""
        if self.dial is not None:
            self.dial.cancel()
            self.dial = None
        if self.open:
            try:
                self.put(hello.alert(alert))
            except OSError:
                pass  # nobody is left to hear it
            linger(self, self.router.bounds.linger)
        self.over()
