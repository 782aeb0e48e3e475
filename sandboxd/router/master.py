"""The router's first process: holds the listening sockets and the newest table, forks the workers, passes orders on to them.

It serves no client, so nothing a client or an env does can hold it up. Workers share its listening sockets, passed by
descriptor: never SO_REUSEPORT, where closing one of two sockets resets the connections that wait in its queue. A worker that
ends, or does not answer its heartbeat, is replaced; what waits in the queues is then another's. An order is done once every
worker has done it; a worker that ended has nothing left to do. Imports control, listener and routing.
"""

import errno
import logging
import mmap
import os
import signal
import socket
from functools import partial

import msgspec

from sandboxd.kernel import fds
from sandboxd.kernel.libc import prctl
from sandboxd.kernel.pidfd import is_stuck
from sandboxd.kernel.titles import set_title
from sandboxd.router.control import Control
from sandboxd.router.egress import Egress
from sandboxd.router.handover import Estate, become, inherited
from sandboxd.router.listener import address_of, bind, joined, split_address
from sandboxd.router.loop import Loop, Signals
from sandboxd.router.outgoing import EGRESS, Outgoing, goes_out
from sandboxd.router.process import Pending, Worker
from sandboxd.router.unixes import Files
from sandboxd.router.worker import Router
from sandboxd.routing import orders
from sandboxd.routing.framing import Bounds
from sandboxd.routing.sums import Sums
from sandboxd.routing.turns import Answer, Claim, Turns

BEAT = 5.0
MISSED_BEATS = 4
PATIENCE = 3.0  # seconds for workers to end when told to
SOON, LATE, YOUNG = 0.05, 5.0, 10.0  # before a replacement; before one of a worker that ended when it was that young
PR_SET_PDEATHSIG = 1
RETIRED = 1 << 16  # from here on: workers of the program before us, which serve those whom they have

log = logging.getLogger("sandboxd.router")


class Master:
    """See above. `workers` by number; a number is the place in `loads` too, where each tells its connections to the others."""

    def __init__(self, bounds: Bounds, listeners: list[socket.socket], control: socket.socket, workers: int) -> None:
        self.bounds = bounds
        self.build = ""
        self.loop = Loop()
        self.workers: dict[int, Worker] = {}
        self._awaits_table = False  # until then those of the program before us know more than ours would
        self._count = workers
        self._loads = memoryview(mmap.mmap(-1, 4 * workers)).cast("I")  # shared with what is forked (mmap(2))
        self._listeners = listeners
        self._files = Files()
        for sock in listeners:
            self._files.note(sock)
        self._ports: dict[tuple[str, int], tuple[orders.Published, socket.socket]] = {}
        self._table: list[bytes] = []  # as a whole, and what changed since
        self.outgoing = Outgoing(self)
        self._version = -1
        self._sums = Sums()
        self._turns = Turns(bounds.queued)
        self._numbers = 0
        self._pending: dict[int, Pending] = {}
        self._ending = False
        self._signals = Signals(self.loop, self.end)
        self._control = Control(self, control)

    def run(self) -> None:
        """Serve until told to stop."""
        if not self._awaits_table:
            self._begin_all()
        self.loop.at(self.loop.now + BEAT, self._beat)
        self.loop.run()
        self._control.close()
        self._signals.close()
        self.loop.close()

    # -- another program in this process ---------------------------------------------------------------------------------

    def inherit(self, estate: Estate) -> None:
        """Go on from the program before us: its workers serve until there is a table for ours."""
        self._awaits_table = True
        self._numbers = estate.numbers
        for published, fd in estate.ports:
            sock = inherited(fd)
            self._files.note(sock, published.owner)
            self._ports[split_address(joined(published.address, published.host_port))] = (published, sock)
        renumbered: dict[int, int] = {}
        for heir in estate.workers:
            place = len(self.workers)
            out = goes_out(heir.number)
            number = self.outgoing.inherit(heir.number, heir.speaks, place) if out else RETIRED + place
            worker = self.workers[number] = Worker(self, number, heir.pid, inherited(heir.fd), heir.speaks)
            worker.wire.begun = heir.begun
            renumbered[heir.number] = number
        self._turns.take_up(estate.turns, renumbered)

    def _replace(self, order: orders.Replace) -> None:
        """Become another program, as soon as nothing is on its way to a worker."""
        if self._ending:
            return
        wires = [worker.wire for worker in self.workers.values()]
        if (
            not all(wire.open and wire.is_flushed for wire in wires) or not self.outgoing.is_settled
        ):  # or one has ended, and is to be waited for
            self.loop.at(self.loop.now + SOON, partial(self._replace, order))
            return
        heirs = [worker.heir() for worker in self.workers.values()]
        ports = [(published, sock.fileno()) for published, sock in self._ports.values()]
        estate = Estate(ports=ports, workers=heirs, numbers=self._numbers, turns=self._turns.standing())
        log.info("another program takes over: %s", " ".join(order.command))
        try:
            become(order, self._listeners, self._control.listening, estate)
        except OSError as error:
            self._refuse(order.order, error, order.command[0])

    def _begin_all(self) -> None:
        """Our own workers; those of the program before us take nobody more."""
        self._awaits_table = False
        retired = self._routers()
        for number in range(self._count):
            self.begin(number)
        for worker in retired:
            worker.wire.send(orders.encode(orders.Retire()))

    # -- workers ---------------------------------------------------------------------------------------------------------

    def begin(self, number: int) -> None:
        """Fork it."""
        if self._ending or number in self.workers:
            return
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if not pid:
            self._become(number, theirs)
        theirs.close()
        worker = self.workers[number] = Worker(self, number, pid, ours)
        if number == EGRESS:
            for frame in self.outgoing.first():
                worker.wire.send(frame)
            return
        for frame in self._table:
            worker.wire.send(frame)
        worker.wire.send(*self._listen_order(0))
        for published, sock in self._ports.values():
            worker.wire.send(orders.encode(orders.publish_order(0, published)), (sock.fileno(),))

    def _become(self, number: int, link: socket.socket) -> None:
        """In the child: be that worker. What the master had stays unfreed, so no number is closed that is another's by then."""
        status = 1
        try:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL, name="PR_SET_PDEATHSIG")
            fds.keep_only([0, 1, 2, link.fileno()])
            set_title("sandboxd-egress" if number == EGRESS else "sandboxd-router: worker")
            link.setblocking(False)
            if number == EGRESS:
                Egress(self.bounds, link).run()
            else:
                Router(self.bounds, link, self._loads, number).run()
            status = 0
        except BaseException:
            log.exception("a worker failed")
        finally:
            os._exit(status)

    def worker_ended(self, worker: Worker, code: int) -> None:
        """Replace it; what was asked of it is done."""
        del self.workers[worker.number]
        if 0 <= worker.number < self._count:
            self._loads[worker.number] = 0
        self._control.send(self._sums.end(worker.number))
        self._admit(self._turns.end(worker.number))
        for number in list(self._pending):
            self._done_by(worker.number, number)
        if self._ending:
            if not self.workers:
                self.loop.stop()
            return
        if worker.number >= RETIRED:
            self.outgoing.retired(worker.number)
            log.info("worker with pid %d, of the program before, ended (%d)", worker.pid, code)
            if self._awaits_table and not self._routers():
                self._begin_all()  # nobody serves any more: better without a table than not at all
            return
        log.error("worker %d (pid %d) ended (%d): another takes its place", worker.number, worker.pid, code)
        delay = LATE if self.loop.now - worker.born < YOUNG and code >= 0 else SOON
        self.loop.at(self.loop.now + delay, partial(self.begin, worker.number))

    def told(self, worker: Worker, frame: bytes) -> None:
        """A worker reports."""
        report = orders.decode(orders.report_decoder, frame)
        worker.missed = 0
        match report:
            case orders.Counts():
                self._control.send(self._sums.add(worker.number, report))
            case orders.Done():
                self._done_by(worker.number, report.order)
            case orders.Wake() | orders.Ask() | orders.Stuck() | orders.Flows():
                self._control.send(report)
            case orders.Bequest():
                self.outgoing.bequeathed(report)
            case orders.Retired():
                self.outgoing.retired(worker.number)
            case orders.Seek():
                self._admit(self._turns.seek(report.env_id, Claim(worker.number, report.number)))
            case orders.Leave():
                self._admit(self._turns.leave(report.env_id, Claim(worker.number, report.number)))
            case orders.AskNewest():
                # Whoever was told of an env asks for it at once: its table may have come, and not been passed on.
                if self._control.session is not None:
                    self._control.session.catch_up()
                worker.wire.send(orders.encode(orders.Newest()))

    def _admit(self, answers: list[Answer]) -> None:
        """Tell workers of connections that they may have now, or shall not wait for."""
        for claim, granted in answers:
            if claim.worker in self.workers:
                self.workers[claim.worker].wire.send(orders.encode(orders.Admit(number=claim.number, granted=granted)))

    def _beat(self) -> None:
        for worker in list(self.workers.values()):
            worker.missed += 1
            if is_stuck(worker.pid, worker.missed, MISSED_BEATS + 1):
                log.error("worker %d (pid %d) is stuck and is killed", worker.number, worker.pid)
                worker.kill()
            else:
                worker.wire.send(orders.encode(orders.Ping(order=0)))
        self.loop.at(self.loop.now + BEAT, self._beat)

    # -- orders ----------------------------------------------------------------------------------------------------------

    def hello(self) -> orders.Hello:
        """What a daemon needs to know that finds us."""
        return orders.Hello(
            version=orders.VERSION,
            pid=os.getpid(),
            listen=self._addresses(),
            published=[published for published, _ in self._ports.values()],
            table=self._version,
            workers=[worker.pid for worker in self._routers()],
            build=self.build,
        )

    def take(self, frame: bytes) -> None:
        """An order of the daemon's."""
        order = orders.decode(orders.brief_decoder, frame)
        match order:
            case None:
                log.warning("an order was not understood: %d bytes", len(frame))
            case orders.BriefTable() | orders.BriefChangeTable():
                self._set_table(frame, order)
            case orders.Deny():
                for worker in self._routers():
                    worker.wire.send(orders.encode(order))
            case orders.SetOutlets() | orders.ChangeOutlets():
                self.outgoing.set(frame, order)
            case orders.Listen():
                self._relisten(order)
            case orders.Publish():
                self._publish(order)
            case orders.Unpublish():
                self._unpublish(order)
            case orders.Release() | orders.Count() | orders.Look():
                self._pass_on(order)
            case orders.Ping():
                self._control.send(orders.Done(order=order.order, listen=self._addresses()))
            case orders.Replace():
                self._replace(order)
            case orders.Stop():
                self.end()

    def end(self) -> None:
        """Have the workers end, then ourselves."""
        if self._ending:
            return
        self._ending = True
        for sock in (*self._listeners, *(sock for _, sock in self._ports.values())):
            self._close_listener(sock)  # while the workers let what is under way end, whoever comes is refused at once
        self._listeners, self._ports = [], {}
        for worker in list(self.workers.values()):
            worker.wire.send(orders.encode(orders.Stop()))
            self.loop.at(self.loop.now + PATIENCE + self.bounds.drain, worker.kill)
        if not self.workers:
            self.loop.stop()

    def _routers(self) -> list[Worker]:
        return [worker for number, worker in self.workers.items() if not goes_out(number)]

    def _takers(self, order: orders.Numbered) -> list[Worker]:
        """Whom an order is for."""
        if isinstance(order, orders.Look):
            return [worker for worker in self.workers.values() if goes_out(worker.number) or worker.speaks >= orders.LOOKS]
        if isinstance(order, orders.Listen | orders.Publish):
            return [worker for number, worker in self.workers.items() if 0 <= number < RETIRED]
        return list(self.workers.values()) if isinstance(order, orders.Release | orders.Count) else self._routers()

    def _pass_on(self, order: orders.Numbered, passed: tuple[int, ...] = ()) -> None:
        """To every worker that it is for; the daemon hears once all have done it."""
        workers = self._takers(order)
        self._numbers += 1
        done = orders.Done(order=order.order, listen=self._addresses())
        frame = orders.encode(msgspec.structs.replace(order, order=self._numbers))
        self._pending[self._numbers] = Pending(order.order, done, {worker.number for worker in workers})
        for worker in workers:
            worker.wire.send(frame, passed)
        self._done_by(-1, self._numbers)

    def _done_by(self, worker: int, number: int) -> None:
        pending = self._pending.get(number)
        if pending is None:
            return
        pending.workers.discard(worker)
        if not pending.workers:
            del self._pending[number]
            self._control.send(pending.done)

    def _refuse(self, order: int, error: OSError | ValueError, address: str) -> None:
        number = getattr(error, "errno", None) or errno.EINVAL
        self._control.send(orders.Done(order=order, errno=number, address=address, listen=self._addresses()))

    def _publish(self, order: orders.Publish) -> None:
        address = joined(order.address, order.host_port)
        key = split_address(address)
        held = self._ports.get(key)
        sock = held[1] if held is not None and held[0].env_id == order.env_id else None
        if sock is None:
            try:
                sock = bind(address, order.owner)
            except OSError as error:
                self._refuse(order.order, error, address)
                return
            self._files.note(sock, order.owner)
        self._ports[key] = (orders.published_of(order), sock)
        self._pass_on(order, (sock.fileno(),))

    def _set_table(self, frame: bytes, order: orders.BriefTable | orders.BriefChangeTable) -> None:
        """To every worker that routes, and to those to come, in the bytes it came in."""
        if isinstance(order, orders.BriefTable):
            self._table = []
            self._version = order.table.version
            bounds = {endpoint.env_id: endpoint.max_connections for endpoint in order.table.endpoints}
            self._sums.keep(set(bounds))
            answers = self._turns.replace(bounds)
        else:
            self._version = order.change.version
            self._sums.forget(order.change.gone)
            bounds = {endpoint.env_id: endpoint.max_connections for endpoint in order.change.endpoints.values()}
            answers = self._turns.change(bounds, order.change.gone)
        self._table.append(orders.LENGTH.pack(len(frame)) + frame)
        for worker in self._routers():
            worker.wire.send(self._table[-1])
        self._admit(answers)
        if self._awaits_table:
            self._begin_all()

    def _unpublish(self, order: orders.Unpublish) -> None:
        for key in [key for key, (held, _) in self._ports.items() if order.means(held)]:
            self._close_listener(self._ports.pop(key)[1])
        self._pass_on(order)

    def _relisten(self, order: orders.Listen) -> None:
        """Listen on exactly these; nothing changes when one of them is not to be had."""
        kept = {split_address(address_of(sock)): sock for sock in self._listeners}
        wanted: list[socket.socket] = []
        for address in order.addresses:
            try:
                wanted.append(kept.get(split_address(address)) or bind(address))
            except (OSError, ValueError) as error:
                for sock in wanted:
                    if sock not in self._listeners:
                        sock.close()
                self._refuse(order.order, error, address)
                return
        for sock in self._listeners:
            if sock not in wanted:
                self._close_listener(sock)
        self._listeners = wanted
        for sock in wanted:
            self._files.note(sock)
        self._pass_on(orders.Listen(order=order.order, addresses=self._addresses()), self._passed())

    def _close_listener(self, sock: socket.socket) -> None:
        self._files.forget(sock)
        sock.close()

    def _listen_order(self, number: int) -> tuple[bytes, tuple[int, ...]]:
        return orders.encode(orders.Listen(order=number, addresses=self._addresses())), self._passed()

    def _passed(self) -> tuple[int, ...]:
        return tuple(sock.fileno() for sock in self._listeners)

    def _addresses(self) -> list[str]:
        return [address_of(sock) for sock in self._listeners]
