"""The control socket: who may connect, how many, and which handler answers which method.

Takes a listening unix socket and a table of handlers; `connection` does the talking. A connection cap holds for all and for
each process; at the cap the client that was idle longest makes room, so that nobody can lock others out by holding
connections. Besides our own interface it serves org.varlink.service, so that any varlink client can ask what there is.
"""

import asyncio
import errno
import logging
import os
import socket
import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple

from sandboxd import __version__
from sandboxd.daemon.connection import Call, ClientGone, Connection, Handler, Methods, Peer
from sandboxd.daemon.departures import Departures
from sandboxd.daemon.parting import leaving, say
from sandboxd.errors import PermissionDenied, QueueFull, SandboxdError
from sandboxd.kernel.fds import ran_out
from sandboxd.protocol.envelopes import SERVICE, ServiceError
from sandboxd.protocol.interface import Description, GetInfo, GetInterfaceDescription, Info, description
from sandboxd.protocol.messages import INTERFACE, METHODS, Reply

__all__ = ["Bounds", "Call", "ClientGone", "ControlServer", "Handler", "Peer"]

log = logging.getLogger("sandboxd.control")

ACCEPTS_AT_ONCE = 32
# linux/socket.h, from 6.16: a socket that does not want descriptors. A listener hands it down to what it accepts.
SO_PASSRIGHTS = 83
SO_PEERGROUPS = 59  # asm-generic/socket.h, from 4.13


class Bounds(NamedTuple):
    """Most connections, of all clients, of one user but root, and of one process; `rest`: seconds to accept none when
    descriptors ran out."""

    connections: int = 256
    per_user: int = 256
    per_process: int = 128
    rest: float = 1.0


USUAL = Bounds()


def is_own_or_root(peer: Peer) -> bool:
    """Whether this peer is the daemon's own user, or root."""
    return peer.uid in (0, os.geteuid())


def groups_of(sock: socket.socket, gid: int) -> set[int]:
    """The groups of who connected, as the kernel saw them then. Somebody of more than fit is of none: that gives no rights."""
    try:
        return {gid, *memoryview(sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 1024)).cast("I")}
    except OSError:  # ERANGE
        return {gid}


def for_admins(handler: Handler) -> Handler:
    """A handler of what concerns every user."""

    async def asked(call: Call) -> Reply | None:
        if call.peer.sees != 0 and call.peer.uid != os.geteuid():
            raise PermissionDenied(
                f"{call.method.rpartition('.')[2]} is for root and for admins of sandboxd", hint="ask one of them"
            )
        return await handler(call)

    return asked


class ControlServer:
    """Serves `handlers` (by method name) on a listening unix socket, which stays its owner's."""

    def __init__(
        self,
        sock: socket.socket,
        handlers: Mapping[str, Handler],
        *,
        allowed: Callable[[Peer], bool] = is_own_or_root,
        admins: int | None = None,
        bounds: Bounds = USUAL,
    ) -> None:
        unknown = handlers.keys() - METHODS.keys()
        if unknown:
            raise ValueError(f"no such methods: {sorted(unknown)}")
        table = {f"{INTERFACE}.{name}": (METHODS[name].params, handler) for name, handler in handlers.items()}
        table[f"{SERVICE}.GetInfo"] = (GetInfo, self._info)
        table[f"{SERVICE}.GetInterfaceDescription"] = (GetInterfaceDescription, self._describe)
        self._methods = Methods(table, {INTERFACE: list(METHODS), SERVICE: []})
        self._sock = sock
        self._allowed = allowed
        self._admins = admins  # the group whose members see all
        self._bounds = bounds
        self._connections: set[Connection] = set()
        self._departures: Departures | None = None
        self._resting: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Clients connected now."""
        return len(self._connections)

    async def start(self) -> None:
        """Serve from now on."""
        self._sock.setblocking(False)
        refuse_descriptors(self._sock)
        self._loop = asyncio.get_running_loop()
        self._departures = Departures(self._loop)
        self._listen()

    def move(self, sock: socket.socket) -> None:
        """Serve another listener from now on, in place of one that nobody can reach; who is connected stays so.

        Who waits in the queue of the old one is taken in: the kernel resets them when it is closed (unix(7)), and they may
        have asked already."""
        self._acceptable(socket.SOMAXCONN)
        self._loop.remove_reader(self._sock.fileno())
        if self._resting:
            self._resting.cancel()
        self._sock = sock
        sock.setblocking(False)
        refuse_descriptors(sock)
        self._listen()

    async def stop(self, *, is_kept: bool = False, patience: float = 0.0) -> None:
        """Refuse who comes, cancel what is being answered, close every connection. Not to be awaited by a handler.

        is_kept: the listener stays for the next daemon, so who comes may wait in its queue. patience: seconds for calls that
        are being answered, but for those that may as well be asked again.
        """
        if self._departures is None:
            return
        self._loop.remove_reader(self._sock.fileno())
        if self._resting:
            self._resting.cancel()
        # Who connects from now on is refused. Who is connected and asked nothing yet is told, so that he may ask the next
        # daemon; a call that is cut short just ends: nobody knows how far it came.
        if not is_kept:
            self._sock.shutdown(socket.SHUT_RDWR)
            self._turn_away_waiting()
        waited_for = [one for one in self._connections if patience and not one.may_be_asked_again and not one.resumes]
        if answering := [one.answered() for one in waited_for]:
            await asyncio.wait([asyncio.ensure_future(one) for one in answering], timeout=patience)
        while self._connections:
            ended = list(self._connections)
            await asyncio.gather(*(connection.end(is_kept=is_kept) for connection in ended))
            self._connections.difference_update(ended)
        self._departures.close()
        self._departures = None

    def _turn_away_waiting(self) -> None:
        while True:
            try:
                sock, _ = self._sock.accept()
            except OSError:  # EINVAL once the queue of a listener that was shut down is empty
                return
            say(sock, leaving())
            sock.close()

    # -- who comes in

    def _listen(self) -> None:
        self._resting = None
        self._loop.add_reader(self._sock.fileno(), self._acceptable)

    def _acceptable(self, most: int = ACCEPTS_AT_ONCE) -> None:
        for _ in range(most):
            try:
                sock, _ = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if ran_out(error):
                    self._rest(error)
                    return
                log.warning("accept on the control socket: %s", error)
                continue
            self._receive(sock)

    def _rest(self, error: OSError) -> None:
        """Without descriptors accept fails for as long as a client waits: do not spin on it."""
        log.error("no new clients for %s s: accept: %s", self._bounds.rest, error)
        self._make_room()
        self._loop.remove_reader(self._sock.fileno())
        self._resting = self._loop.call_later(self._bounds.rest, self._listen)

    def _receive(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        # struct ucred of unix(7): pid_t, uid_t, gid_t
        pid, uid, gid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        peer = Peer(uid, gid, pid, self._admins is not None and self._admins in groups_of(sock, gid))
        if error := self._objection(peer):
            say(sock, error)
            sock.close()
            return
        assert self._departures is not None
        self._connections.add(Connection(sock, peer, self._methods, self._departures, self._connections.discard))

    def _objection(self, peer: Peer) -> SandboxdError | None:
        """Why this peer cannot come in now; None: it can."""
        if not self._allowed(peer):
            return PermissionDenied(f"this daemon serves uid {os.geteuid()}, not uid {peer.uid}")
        own = sum(other.peer.pid == peer.pid for other in self._connections)
        if own >= self._bounds.per_process and not self._make_room(peer.pid):
            return QueueFull(f"process {peer.pid} has {own} calls under way", hint="wait for some of them", limit=own)
        same = sum(other.peer.uid == peer.uid for other in self._connections)
        if peer.uid != 0 and same >= self._bounds.per_user and not self._make_room(uid=peer.uid):
            return QueueFull(f"uid {peer.uid} has {same} calls under way", hint="wait for some of them", limit=same)
        if len(self._connections) >= self._bounds.connections and not self._make_room():
            limit = self._bounds.connections
            return QueueFull(f"{limit} calls are under way", hint="try again in a moment", limit=limit, retry_after=1)
        return None

    def _make_room(self, pid: int | None = None, uid: int | None = None) -> bool:
        """Close the connection that was idle longest, of one process, one user or of all; False: none is idle.

        Who has asked and was not heard yet is not: nobody is to lose a call to somebody who came after it."""
        meant = [one for one in self._connections if pid in (None, one.peer.pid) and uid in (None, one.peer.uid)]
        for one in meant:
            one.hear()
        if not self._connections.issuperset(meant):
            return True  # one of them had left
        idle = [one for one in meant if one.idle]
        if not idle:
            return False
        oldest = min(idle, key=lambda one: one.since)
        self._connections.discard(oldest)
        oldest.close()
        return True

    # -- org.varlink.service

    async def _info(self, call: Call) -> Reply:
        return Info(vendor="sandboxd", product="sandboxd", version=__version__, url="", interfaces=[INTERFACE, SERVICE])

    async def _describe(self, call: Call) -> Reply:
        assert isinstance(call.params, GetInterfaceDescription)
        text = description(call.params.interface)
        if text is None:
            raise ServiceError("InterfaceNotFound", interface=call.params.interface)
        return Description(description=text)


def refuse_descriptors(listener: socket.socket) -> bool:
    """Let senders of descriptors fail with EPERM, where the kernel can: closing one of theirs may block (SO_LINGER, FUSE)."""
    try:
        listener.setsockopt(socket.SOL_SOCKET, SO_PASSRIGHTS, 0)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
        return False
    return True
