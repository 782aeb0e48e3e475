"""The router process as a whole: what there is, how orders of the daemon change it, the tick that bounds every wait.

Wiring only. The tick runs while there are connections, so that an idle router sleeps. Invariant: `forget` was called for each
client that is closed.
"""

import errno
import gc
import logging
import os
import socket
from collections import Counter
from collections.abc import Iterator
from functools import partial

from sandboxd.kernel.fds import raise_limit
from sandboxd.router.access import Access
from sandboxd.router.backends import Backend, Backends
from sandboxd.router.client import Client
from sandboxd.router.control import Control
from sandboxd.router.exchange import BLOCKED
from sandboxd.router.listener import Listener, bind, split_address
from sandboxd.router.loop import Loop, Signals
from sandboxd.router.pipes import Pipes
from sandboxd.router.published import Port, Raw
from sandboxd.routing import orders
from sandboxd.routing.framing import Bounds

TICK = 1.0
SHRINK = 10  # ticks between two looks at what is kept ready for nobody
DESCRIPTORS_PER_CLIENT = 3  # its own, its service's, and a share of ready sockets and pipes

log = logging.getLogger("sandboxd.router")


class Router:
    """Everything a worker holds."""

    def __init__(self, bounds: Bounds, listeners: list[socket.socket], control: socket.socket) -> None:
        self.bounds = bounds
        self.loop = Loop()
        self.pipes = Pipes(bounds.pipes)
        self.backends = Backends(self.loop)
        self.access = Access()
        self.clients: set[Client] = set()
        self.held: set[Client] = set()
        self.pages: Counter[int] = Counter()
        self.raws: set[Raw] = set()
        self.held_raw: set[Raw] = set()
        self._most = bounds.clients or raise_limit() // DESCRIPTORS_PER_CLIENT
        self._listeners = [self._listen(sock) for sock in listeners]
        self._ports: dict[tuple[str, int], Port] = {}
        self._ticking = False
        self._ticks = 0
        self._pages_told = 0
        self._roused: set[str] = set()
        self._control = Control(self, control)
        self._signals = Signals(self.loop, self.loop.stop)

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

    def is_full(self) -> bool:
        """Whether no more clients can be taken."""
        return len(self.clients) + len(self.raws) >= self._most

    def _connections(self) -> "Iterator[Client | Raw]":
        yield from self.clients
        yield from self.raws

    def forget(self, client: Client) -> None:
        """It is closed."""
        self.clients.discard(client)
        self.held.discard(client)

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
        self._control.send(orders.Stuck(env_id=backend.env.env_id))

    def rouse(self, env_id: str) -> None:
        """Say that a request waits for an env that is asleep; once for each table, as a daemon may have died meanwhile."""
        if env_id not in self._roused:
            self._roused.add(env_id)
            self._control.send(orders.Wake(env_id=env_id))

    def _listen(self, sock: socket.socket) -> Listener:
        name = sock.getsockname()
        here = None if name[0] in ("0.0.0.0", "::") else name  # where its connections arrive, if that is one place
        return Listener(self.loop, sock, lambda accepted, source: self._accepted(accepted, source, here), self.is_full)

    def _accepted(self, sock: socket.socket, source: tuple[str, int], here: tuple[str, int] | None) -> None:
        client = Client(self, sock, source, here or sock.getsockname())
        self.clients.add(client)
        if not self._ticking:
            self.wake()
        client.begin()

    def _tick(self) -> None:
        now = self.loop.now
        for client in list(self.clients):
            client.tick(now)
        for raw in list(self.held_raw):
            raw.tick(now)
        self._ticks += 1
        if self._ticks % SHRINK == 0:
            self.pipes.trim()
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
            self._control.send(orders.Counts(envs=changed, pages=self.pages))

    # -- orders ----------------------------------------------------------------------------------------------------------

    def hello(self) -> orders.Hello:
        """What a daemon needs to know that finds us."""
        return orders.Hello(
            version=orders.VERSION,
            pid=os.getpid(),
            listen=[listener.address for listener in self._listeners],
            published=[port.published for port in self._ports.values()],
            table=self.backends.routes.table.version,
        )

    def obey(self, order: orders.Order) -> None:
        """Do what the daemon wants, and answer where an answer is due."""
        match order:
            case orders.SetTable():
                self._set_table(order)
            case orders.Listen():
                self._answer(order.order, self._relisten(order.addresses))
            case orders.Publish():
                self._answer(order.order, self._publish(order))
            case orders.Unpublish():
                for key in [key for key, port in self._ports.items() if port.published.env_id == order.env_id]:
                    self._ports.pop(key).close()
                self._answer(order.order, (0, ""))
            case orders.Release():
                if order.env_id in self.backends.envs:
                    self.backends.envs[order.env_id].release()
                self._answer(order.order, (0, ""))
            case orders.Count():
                self._report()
                self._answer(order.order, (0, ""))
            case orders.Ping():
                self._answer(order.order, (0, ""))
            case orders.Stop():
                self.loop.stop()

    def _answer(self, order: int, result: tuple[int, str]) -> None:
        listen = [listener.address for listener in self._listeners]
        self._control.send(orders.Done(order=order, errno=result[0], address=result[1], listen=listen))

    def _set_table(self, order: orders.SetTable) -> None:
        self.backends.replace(order.table)
        self._roused.clear()
        self.access.hosted = {e.env_id: e.init_pid for e in order.table.endpoints if e.init_pid and not e.dial}
        for client in self.clients:
            client.admitted = None
        for client in list(self.held):
            client.reconsider()
        for raw in list(self.held_raw):
            raw.begin()
        for one in self._connections():
            if one.tunnel is None or one.backend is None:
                continue
            if one.backend.endpoint.state == "asleep":
                one.tunnel.doze(partial(self.rouse, one.backend.env.env_id))
            else:
                one.tunnel.rise()

    def _publish(self, order: orders.Publish) -> tuple[int, str]:
        address = f"{order.address}:{order.host_port}" if ":" not in order.address else f"[{order.address}]:{order.host_port}"
        key = split_address(address)
        published = orders.Published(
            address=order.address,
            host_port=order.host_port,
            env_id=order.env_id,
            service=order.service,
            port=order.port,
        )
        held = self._ports.get(key)
        if held is not None and held.published.env_id == order.env_id:
            held.published = published
            return 0, ""
        try:
            self._ports[key] = Port(self, published, bind(address))
        except OSError as error:
            return error.errno or 1, address
        return 0, ""

    def _relisten(self, addresses: list[str]) -> tuple[int, str]:
        """Listen on exactly these; nothing changes when one of them is not to be had."""
        kept = {split_address(listener.address): listener for listener in self._listeners}
        wanted: list[Listener | socket.socket] = []
        for address in addresses:
            try:
                wanted.append(kept.get(split_address(address)) or bind(address))
            except (OSError, ValueError) as error:
                for fresh in wanted:
                    if isinstance(fresh, socket.socket):
                        fresh.close()
                return getattr(error, "errno", None) or errno.EINVAL, address
        for listener in self._listeners:
            if listener not in wanted:
                listener.close()
        self._listeners = [self._listen(new) if isinstance(new, socket.socket) else new for new in wanted]
        return 0, ""

    def _close(self) -> None:
        for listener in self._listeners:
            listener.close()
        for port in self._ports.values():
            port.close()
        for client in list(self.clients):
            client.close()
        for raw in list(self.raws):
            raw.release()
        for env in self.backends.envs.values():
            env.release()
        self.pipes.close()
        self.access.close()
        self._control.close()
        self._signals.close()
        self.loop.close()
