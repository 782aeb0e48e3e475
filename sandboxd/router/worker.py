"""A worker of the router as a whole: what there is, how orders change it, the tick that bounds every wait.

Wiring only. The tick runs while there are connections, so that an idle router sleeps. Invariant: `forget` was called for each
client that is closed.
"""

import _socket
import gc
import logging
import socket
from collections import Counter
from collections.abc import Iterator
from functools import partial

from sandboxd.kernel.fds import raise_limit
from sandboxd.router import unixes
from sandboxd.router.access import Access, is_local
from sandboxd.router.accesslog import AccessLog
from sandboxd.router.backends import Backend, Backends
from sandboxd.router.client import Client
from sandboxd.router.closing import reset
from sandboxd.router.control import Wire
from sandboxd.router.doors import Doors
from sandboxd.router.exchange import BLOCKED
from sandboxd.router.finding import Finding
from sandboxd.router.inbound import passages
from sandboxd.router.listener import Listener, joined, split_address
from sandboxd.router.logged import Logged, passage
from sandboxd.router.loop import Loop, Signals
from sandboxd.router.newest import Newest
from sandboxd.router.pipes import Pipes
from sandboxd.router.published import Port, Raw
from sandboxd.router.sharing import Share
from sandboxd.router.turns import Gate
from sandboxd.routing import orders
from sandboxd.routing.forwarded import is_trusted
from sandboxd.routing.framing import Bounds
from sandboxd.routing.requests import Request

TICK = 1.0
SHRINK = 10  # ticks between two looks at what is kept ready for nobody
MOST_PASSED = 64
MOST_OF_ONE = 1024  # connections of one address, where nothing is said; a quarter of all at most
DESCRIPTORS_PER_CLIENT = 3  # its own, its service's, and a share of ready sockets and pipes

log = logging.getLogger("sandboxd.router")


class Router:
    """Everything a worker holds."""

    def __init__(self, bounds: Bounds, link: socket.socket, loads: memoryview, number: int) -> None:
        """`link`: to the master. `loads`: how many connections each worker has; ours is that of `number`."""
        self.bounds = bounds
        self.loop = Loop()
        self.pipes = Pipes(bounds.pipes)
        self.backends = Backends(self.loop)
        self.access = Access()
        self.clients: set[Client] = set()
        self.held: set[Finding] = set()
        self.pages: Counter[int] = Counter()
        self.raws: set[Raw] = set()
        self.held_raw: set[Raw] = set()
        most = bounds.clients or raise_limit() // DESCRIPTORS_PER_CLIENT
        self._share = Share(loads, number, most)
        self._sources: dict[str, int] = {}
        self._most_of_one = bounds.per_source or min(MOST_OF_ONE, most // 4)
        self._listeners: list[Listener] = []
        self._ports: dict[tuple[str, int], Port] = {}
        self._ticking = False
        self._ticks = 0
        self._pages_told = 0
        # Of the last request on a new connection, see `Client`: many clients make one connection for each request.
        self.size = 0
        self.head = b"\0"
        self.known: Request | None = None
        self._roused: set[str] = set()
        self.doors = Doors(self)
        self.gate = Gate(self.loop, self.tell, bounds.queue)
        self.newest = Newest(self.loop, self.tell)
        self._log = AccessLog(self.loop, bounds.access_log, bounds.access_log_limit) if bounds.access_log else None
        self._client = Client if self._log is None else partial(Logged, log=self._log)
        self._wire = Wire(self.loop, link, self._take, self.loop.stop, most_fds=MOST_PASSED)
        self.draining = self.retired = False
        self._signals = Signals(self.loop, self.drain)

    def run(self) -> None:
        """Serve until told to stop."""
        # What was made so far lives for ever, and connections die by reference count: there is next to nothing to collect.
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        try:
            self.loop.run()
        finally:
            self._close()

    # -- connections -----------------------------------------------------------------------------------------------------

    def room(self) -> int:
        """How many clients can be taken now, see `Share`."""
        return self._share.room(len(self.clients) + len(self.raws))

    def _take_again(self) -> None:
        """Of those left to others: ours ended first, and nobody would take what waits (measured: half of two workers' rate)."""
        if self._share.takes_again(len(self.clients) + len(self.raws)):
            for listener in self._listeners:
                listener.resume()
            for port in self._ports.values():
                port.resume()

    def _connections(self) -> "Iterator[Client | Raw]":
        yield from self.clients
        yield from self.raws

    def forget(self, client: Client) -> None:
        """It is closed."""
        if client in self.clients:
            self.clients.remove(client)
            self._leave(client.source[0])
        self._share.loads[self._share.number] = len(self.clients) + len(self.raws)
        if self._share.yields:
            self._take_again()
        self.held.discard(client)
        if self.draining:
            self._drained()

    def drain(self) -> None:
        """Take no more connections, let the requests that are under way come to their end, within a bound; then end."""
        if self.draining and not self.retired:
            return
        self._shut(retired=False)
        for client in list(self.clients):
            client.leave_if_idle()
        self.loop.at(self.loop.now + self.bounds.drain, self.loop.stop)

    def retire(self) -> None:
        """Others listen from now on. Who is connected hears with his next answer that it was the last, and asks no more."""
        self._shut(retired=True)
        self.size, self.head, self.known = 0, b"\0", None
        for client in self.clients:
            client.take_last()

    def _shut(self, *, retired: bool) -> None:
        self.draining, self.retired = True, retired
        self._relisten([])
        while self._ports:
            self._ports.popitem()[1].close()
        self._drained()

    def _drained(self) -> None:
        if not self.clients and not self.raws:
            self.loop.stop()

    def join(self, raw: Raw) -> None:
        """A raw connection begins."""
        self._sources[raw.source[0]] = self._sources.get(raw.source[0], 0) + 1
        self.raws.add(raw)
        self.wake()
        raw.begin()

    def part(self, raw: Raw) -> None:
        """It is over."""
        self.held_raw.discard(raw)
        if raw in self.raws:
            self.raws.remove(raw)
            self._leave(raw.source[0])
            if self._share.yields:
                self._take_again()
            if self._log is not None:
                self._log.note(passage(raw, self.loop.now))

    def admits(self, source: str) -> bool:
        """Whether one more connection of that address is taken: none may take what all the others need.

        Those of this very host share one address, and have an owner who can be asked: bound only where a bound was set.
        """
        if self._sources.get(source, 0) < self._most_of_one or is_trusted(source, self.bounds.trusted):
            return True
        return not self.bounds.per_source and is_local(source, unixes.PEER)

    def _leave(self, source: str) -> None:
        self._sources[source] -= 1
        if not self._sources[source]:
            del self._sources[source]

    def wake(self) -> None:
        """Something needs the tick."""
        if not self._ticking:
            self._ticking = True
            self._ticks = 0
            self.loop.at(self.loop.now + TICK, self._tick)

    def block(self, backend: Backend) -> None:
        """Let go of an env whose socket blocked us, leave it alone for a while, and say so."""
        backend.env.blocked_until = self.loop.now + BLOCKED
        backend.env.release()
        self.tell(orders.Stuck(env_id=backend.env.env_id))

    def rouse(self, env_id: str) -> None:
        """Say that a request waits for an env that is asleep; once for each table, as a daemon may have died meanwhile."""
        if env_id not in self._roused:
            self._roused.add(env_id)
            self.tell(orders.Wake(env_id=env_id))

    def _listen(self, sock: socket.socket) -> Listener:
        if sock.family == socket.AF_UNIX:
            return Listener(self.loop, sock, lambda accepted, _: self._accepted_near(accepted), self.room)
        name = sock.getsockname()
        here = None if name[0] in ("0.0.0.0", "::") else name  # where its connections arrive, if that is one place
        return Listener(self.loop, sock, lambda accepted, source: self._accepted(accepted, source, here), self.room)

    def _accepted(self, sock: _socket.socket, source: tuple[str, int], here: tuple[str, int] | None) -> None:
        if not self.admits(source[0]):
            reset(sock)  # there is no request yet that could be answered
            return
        self._begin(self._client(self, sock, source, here or sock.getsockname()))

    def _accepted_near(self, sock: _socket.socket) -> None:
        """By a Unix socket: the kernel says whose it is."""
        pid, uid = unixes.peer(sock)
        client = self._client(self, sock, (unixes.PEER, pid), (unixes.PEER, 0))
        client.uid = uid
        self._begin(client)

    def _begin(self, client: Client) -> None:
        self._sources[client.source[0]] = self._sources.get(client.source[0], 0) + 1
        self.clients.add(client)
        if not self._ticking:
            self.wake()
        client.begin()

    def _tick(self) -> None:
        now = self.loop.now
        for client in list(self.clients):
            self.loop.on_behalf(client, partial(client.tick, now))
        for raw in list(self.held_raw):
            self.loop.on_behalf(raw, partial(raw.tick, now))
        self.doors.tick()
        if self.draining:
            self._drained()
        self._ticks += 1
        if self._ticks % SHRINK == 0:
            self.pipes.trim()
            self.backends.drop_unnamed(list(self.backends.envs))
            for env in self.backends.envs.values():
                for stock in env.stocks.values():
                    stock.shrink()
        self._report()
        # Two rounds of shrinking after the last client, then nothing is left to do.
        if self.clients or self.raws:
            self._ticks %= SHRINK
        if self._ticks < 5 * SHRINK:
            self.loop.at(now + TICK, self._tick)
        else:
            self._ticking = False

    def _report(self) -> None:
        """Send the counts that changed. What is under way is counted here, so that no request pays for it."""
        busy: dict[str, int] = {}
        tunnels: dict[str, int] = {}
        tunnelled: dict[str, int] = {}
        for one in self._connections():
            if one.backend is None:
                continue
            env_id = one.backend.env.env_id
            if one.tunnel is not None:
                tunnels[env_id] = tunnels.get(env_id, 0) + 1
                tunnelled[env_id] = tunnelled.get(env_id, 0) + one.tunnel.inward.moved + one.tunnel.outward.moved
            elif one.busy:
                busy[env_id] = busy.get(env_id, 0) + 1
        changed = {}
        for env_id, env in self.backends.envs.items():
            traffic = env.traffic(busy.get(env_id, 0), tunnels.get(env_id, 0), tunnelled.get(env_id, 0))
            if traffic is not None:
                changed[env_id] = traffic
        if changed or self.pages.total() != self._pages_told:
            self._pages_told = self.pages.total()
            self.tell(orders.Counts(envs=changed, pages=self.pages))

    # -- orders ----------------------------------------------------------------------------------------------------------

    def _take(self, frame: bytes) -> None:
        """Do what the master wants, and answer where an answer is due."""
        order = orders.decode(orders.order_decoder, frame)
        match order:
            case None:
                log.warning("an order was not understood: %d bytes", len(frame))
                return
            case orders.SetTable() | orders.ChangeTable():
                self._set_table(order)
                return
            case orders.Listen():
                self._relisten([self._passed() for _ in order.addresses])
            case orders.Publish():
                self._publish(order, self._passed())
            case orders.Unpublish():
                for key in [key for key, port in self._ports.items() if order.means(port.published)]:
                    self._ports.pop(key).close()
            case orders.Release():
                if order.env_id in self.backends.envs:
                    self.backends.envs[order.env_id].release()
            case orders.Count():
                self._report()
            case orders.Look():
                self.tell(orders.Flows(env_id=order.env_id, passages=passages(self._connections(), order.env_id)))
            case orders.Newest() | orders.Deny() | orders.Admit() | orders.Retire() | orders.Stop():
                self._hear(order)
                return
        self.tell(orders.Done(order=order.order))

    def _hear(self, told: orders.Newest | orders.Deny | orders.Admit | orders.Retire | orders.Stop) -> None:
        """What asks for no answer."""
        match told:
            case orders.Newest():
                self.newest.told()
            case orders.Deny():
                self.doors.deny(told)
            case orders.Admit():
                self.gate.told(told)
            case orders.Retire() if not self.draining:
                self.retire()
            case orders.Stop():
                self.drain()

    def tell(self, report: orders.Report) -> None:
        """To the master, and through it to the daemon."""
        self._wire.send(orders.encode(report))

    def _passed(self) -> socket.socket:
        """The listening socket that came with the order that is being obeyed."""
        return socket.socket(fileno=self._wire.received.popleft())

    def _set_table(self, order: orders.SetTable | orders.ChangeTable) -> None:
        if isinstance(order, orders.SetTable):
            self.backends.replace(order.table)
            self.newest.begun = True
            self._table_changed(None)
            return
        touched = self.backends.change(order.change)
        if touched is None:
            log.error("a change of table %d came, and %d is in force", order.change.base, self.backends.routes.version)
        else:
            self._table_changed(touched)

    def _table_changed(self, touched: set[str] | None) -> None:
        """touched: the envs whose places or names are others now; None: any."""
        self._roused.clear()
        hosted = self.backends.hosted(self.access.hosted, touched)
        if hosted != self.access.hosted:
            self.access.hosted, touched = hosted, None
        for client in self.clients:
            if touched is None or (client.admitted is not None and client.admitted.env.env_id in touched):
                client.admitted = None
        for held in list(self.held):
            if touched is None or self.doors.concerns(held, touched):
                self.loop.on_behalf(held, held.reconsider)
        for raw in list(self.held_raw):
            self.loop.on_behalf(raw, raw.begin)
        for one in self._connections():
            if one.tunnel is None or one.backend is None or (touched is not None and one.backend.env.env_id not in touched):
                continue
            if one.backend.endpoint.state == "asleep":
                one.tunnel.doze(partial(self.rouse, one.backend.env.env_id))
            else:
                one.tunnel.rise()

    def _publish(self, order: orders.Publish, sock: socket.socket) -> None:
        key = split_address(joined(order.address, order.host_port))
        published = orders.published_of(order)
        held = self._ports.get(key)
        if held is not None and held.published.env_id == order.env_id:
            held.published = published
            sock.close()
        else:
            self._ports[key] = Port(self, published, sock)

    def _relisten(self, socks: list[socket.socket]) -> None:
        """Listen on exactly these."""
        for listener in self._listeners:
            listener.close()
        self._listeners = [self._listen(sock) for sock in socks]

    def _close(self) -> None:
        self._shut(retired=False)
        for client in list(self.clients):
            client.close()
        for raw in list(self.raws):
            raw.release()
        for env in self.backends.envs.values():
            env.release()
        if self._log is not None:
            self._log.close()
        self.pipes.close()
        self.access.close()
        self._wire.close()
        self._signals.close()
        self.loop.close()
