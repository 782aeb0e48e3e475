"""Published ports: a host address that leads to one port of an env, as raw TCP.

Asked for by name (`-p 8080:3000`), so whoever can reach the address may connect, as with any program that listens there; but
of this host's loopback, opened for somebody (`sandbox forward`), only who may reach the env by its name. A
connection for an env that is starting or asleep waits like a request does; one that cannot be served is reset, since raw TCP
has no other words. Imports access, the dialer, tunnel and listener.
"""

import _socket
import socket
from typing import TYPE_CHECKING

import msgspec

from sandboxd.router import unixes
from sandboxd.router.access import is_local
from sandboxd.router.backends import Backend
from sandboxd.router.closing import release, reset
from sandboxd.router.dialer import Dial
from sandboxd.router.listener import Listener
from sandboxd.router.newest import UNASKED
from sandboxd.router.relay import Side
from sandboxd.router.tunnel import Tunnel
from sandboxd.router.turns import Turn
from sandboxd.routing import proxied
from sandboxd.routing.orders import Published

if TYPE_CHECKING:
    from sandboxd.router.worker import Router


class Service(Side):
    """The far end of a raw connection."""

    __slots__ = ("raw", "turn")

    def __init__(self, raw: "Raw", sock: _socket.socket, turn: Turn | None) -> None:
        """`turn`: its place among the connections that its env allows, where it bounds them."""
        super().__init__(raw.router.loop, sock)
        self.raw = raw
        self.turn = turn
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def closed(self) -> None:
        """Another may have its place now."""
        if self.turn is not None:
            self.turn.give()

    def broken(self) -> None:
        """Nothing can be sent there any more."""
        if self.raw.tunnel is not None:
            self.raw.tunnel.broken(self)

    def abort(self, *, stalled: bool = False) -> None:
        """From the loop, after a failure of ours."""
        self.raw.abort(stalled=stalled)


class Raw(Side):
    """One connection to a published port: waits, dials, then is one end of a tunnel.

    began, since, waited: for the access log, as `Logged` has them.
    """

    __slots__ = (
        *("backend", "deadline", "dial", "early", "far", "port", "router", "source", "tunnel"),
        *("began", "since", "ticket", "waited"),
    )

    def __init__(self, router: "Router", port: "Port | None", sock: _socket.socket, source: tuple[str, int]) -> None:
        super().__init__(router.loop, sock, 0)
        self.router = router
        self.port = port
        self.source = source
        self.early = b""  # what the service gets before what the client sends
        self.tunnel: Tunnel | None = None
        self.dial: Dial | Turn | None = None
        self.far: Service | None = None
        self.backend: Backend | None = None
        self.began = router.loop.now
        self.since = self.waited = 0.0
        self.deadline = self.began + router.backends.routes.hold
        self.ticket = UNASKED
        self.want(0)

    protocol = "tcp"

    @property
    def name(self) -> bytes:
        """The host name that was asked for, if one was."""
        return b""

    @property
    def busy(self) -> bool:
        """Whether a connection is being made; afterwards it is a tunnel."""
        return self.dial is not None

    def begin(self) -> None:
        """What the env's state allows; called again when the table changed."""
        if self.dial is not None or self.tunnel is not None:
            return
        backend = self.chosen()
        if backend is None or backend.endpoint.state not in ("ready", "starting", "asleep"):
            if self.router.newest.is_certain(self):
                self.fail()
            else:
                self.router.held_raw.add(self)
        elif not self.may_reach(backend):
            self.denied()
        elif backend.endpoint.state != "ready":
            if backend.endpoint.state == "asleep":
                self.router.rouse(backend.endpoint.env_id)
            self.router.held_raw.add(self)
            self.wait()
        elif backend.endpoint.port is None:
            self.fail()
        else:
            self.router.held_raw.discard(self)
            self.backend = backend
            backend.env.held.add(self)
            bounded = backend.endpoint.max_connections
            if bounded:
                self.wait()
            self.dial = self.router.gate.turn(backend, self) if bounded else Dial(backend, backend.endpoint.port, self)
            self.dial.start(self.router.bounds.dial)

    def reconsider(self) -> None:
        """The table in force is the newest."""
        if self.open:
            self.begin()

    def wait(self) -> None:
        """It waits, for its env or for a connection to it."""
        self.since = self.since or self.router.loop.now

    def find(self) -> Backend | None:
        """Where it leads, None when the env is gone."""
        return self.port.backend() if self.port is not None else None

    def chosen(self) -> Backend | None:
        """Where it goes now."""
        return self.find()

    def may_reach(self, backend: Backend) -> bool:
        """Whoever can reach a published address may."""
        return True

    def denied(self) -> None:
        """It may not."""
        self.fail()

    def connected(self, sock: _socket.socket) -> None:
        """From the dial."""
        turn = self.dial if isinstance(self.dial, Turn) else None
        self.dial = None
        if self.since:
            self.waited, self.since = self.router.loop.now - self.since, 0.0
        self.router.loop.hold_foreign()
        self.far = Service(self, sock, turn)
        if self.backend is not None:
            self.backend.env.open += 1
        early, self.early = self.early, b""
        try:
            if early:
                self.far.put(early)
        except OSError:
            self.far.close()
            self.fail()
            return
        self.tunnel = Tunnel(self, self.far, self.router.pipes, self.over)

    def unreachable(self, reason: str) -> None:
        """From the dial."""
        self.dial = None
        self.fail()

    def crowded(self, reason: str) -> None:
        """From a turn."""
        self.dial = None
        self.fail()

    def lost(self) -> None:
        """Gone while it waits, or in a tunnel that does not read it now."""
        if self.tunnel is None:
            self.fail()
        else:
            self.park()

    def broken(self) -> None:
        """Nothing can be sent to it any more."""
        if self.tunnel is not None:
            self.tunnel.broken(self)

    def tick(self, now: float) -> None:
        """Once a second."""
        if now >= self.deadline and self in self.router.held_raw:
            self.fail()

    def release(self) -> None:
        """Its env goes away."""
        if self.tunnel is not None:
            self.tunnel.cut()
        else:
            self.fail()

    def abort(self, *, stalled: bool = False) -> None:
        """From the loop, after a failure of ours."""
        if stalled and self.backend is not None:
            self.router.block(self.backend)
        if self.tunnel is not None:
            self.tunnel.cut()
        else:
            self.fail()

    def fail(self) -> None:
        """Reset it."""
        if self.dial is not None:
            self.dial.cancel()
            self.dial = None
        if self.open:
            release(self)
            reset(self.sock)
        self.over()

    def over(self) -> None:
        """Nothing is left of it."""
        tunnel, backend = self.tunnel, self.backend
        self.router.part(self)
        if self.far is not None:
            if self.far.sock.fileno() < 0:
                self.far.closed()
            self.far = None
            self.router.loop.drop_foreign()
            if backend is not None:
                backend.env.open -= 1
        if backend is not None:
            self.backend = None
            backend.env.held.discard(self)
            if tunnel is not None:
                backend.env.bytes_in += tunnel.inward.moved
                backend.env.bytes_out += tunnel.outward.moved


class Guarded(Raw):
    """One to a port that is there for somebody. here, local, uid: see `access`."""

    __slots__ = ("here", "local", "uid")

    def __init__(self, router: "Router", port: "Port | None", sock: _socket.socket, source: tuple[str, int]) -> None:
        super().__init__(router, port, sock, source)
        self.here: tuple[str, int] = sock.getsockname()[:2]
        self.local = is_local(source[0], self.here[0])
        self.uid: int | None = None

    def may_reach(self, backend: Backend) -> bool:
        """As a request may."""
        return self.router.access.allows(self, backend.endpoint)


class Port:
    """One published port and its listener."""

    def __init__(self, router: "Router", published: Published, sock: socket.socket) -> None:
        self._router = router
        self.published = published
        self._backend: Backend | None = None
        self._listener = Listener(router.loop, sock, self._accepted, router.room)

    def backend(self) -> Backend | None:
        """The backend as the table has it now; None when the env is not in it."""
        endpoint = self._router.backends.find_service(self.published.env_id, self.published.service)
        if endpoint is None:
            return None
        wanted = msgspec.structs.replace(endpoint, port=self.published.port)
        known = self._backend
        if known is None or (known.endpoint.dial, known.endpoint.netns_cookie) != (wanted.dial, wanted.netns_cookie):
            known = self._backend = Backend(wanted, self._router.backends.env(wanted.env_id), self._router.loop)
        known.endpoint = wanted
        return known

    def resume(self) -> None:
        """Leave it to others no longer."""
        self._listener.resume()

    def close(self) -> None:
        """Stop listening; connections run on."""
        self._listener.close()

    def _accepted(self, sock: _socket.socket, source: tuple[str, int]) -> None:
        kind = Raw if self.published.owner < 0 else Guarded
        if sock.family == socket.AF_UNIX:
            kind, source = Raw, (unixes.PEER, unixes.peer(sock)[0])
        if not self._router.admits(source[0]):
            reset(sock)
            return
        raw = kind(self._router, self, sock, source)
        if self.published.proxy:
            raw.early = proxied.header(source, (unixes.PEER, 0) if sock.family == socket.AF_UNIX else sock.getsockname())
        self._router.join(raw)
