"""The daemon's side of the router: starts it or finds the one that runs, pushes tables, gives orders, hears of its end.

The daemon binds what the router listens on and passes it down, so that a taken port is known before anything was started. The
router outlives its daemon; the next one connects to router.sock and carries on (the kernel keeps who called listen(2) on it,
which is the router, so its pid is known even when it does not answer). Asyncio by add_reader and add_writer: no task is left
behind. Invariant: after `close`, `stop` or its death a handle calls nobody back.
"""

import asyncio
import itertools
import logging
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from sandboxd import __version__
from sandboxd.errors import Internal, LaunchFailed, TimedOut
from sandboxd.kernel.pidfd import is_stuck
from sandboxd.router import accesslog, starting
from sandboxd.router.line import Line
from sandboxd.router.starting import bind_control, bound_after, check_address, connect, matches, program, spawn, taken
from sandboxd.router.ways import Ways
from sandboxd.routing import orders
from sandboxd.routing.framing import Bounds
from sandboxd.routing.table import Change, RouteTable

START, GREETING = 60.0, 30.0  # seconds for a new router to say hello, a third of what the unit has; and for one that runs
ANSWER = 5.0  # seconds for an order; all are carried out at once
BEAT = 5.0
MISSED_BEATS = 4  # then it is stuck, and is killed, so that another can be started

log = logging.getLogger("sandboxd.router.handle")


class RouterHandle:
    """See `start_or_adopt`. on_death: called once when the router ended by itself. on_stuck: an env's socket blocked it.
    on_wake: a request is here for an env that is asleep. on_ask: one for a key that has none."""

    def __init__(self, sock: socket.socket, pid: int, path: Path) -> None:
        self.pid = pid
        self.listen: list[str] = []
        self.published: list[orders.Published] = []
        self.workers: list[int] = []  # their pids, when we came
        self.counts: dict[str, dict[str, int]] = {}
        self.pages: dict[int, int] = {}
        self.on_death: Callable[[], object] | None = None
        self.on_stuck: Callable[[str], object] | None = None
        self.on_wake: Callable[[str], object] | None = None
        self.on_ask: Callable[[orders.Ask], object] | None = None
        self._loop = asyncio.get_running_loop()
        self._path = path
        self._line = Line(sock, self._take, self._died)
        self.flushed = partial(self._line.flushed, ANSWER)
        self.build = ""  # what its daemon called its program
        self._speaks = 0  # the version of its orders
        self._pushed = -1  # the version of its table
        self._numbers = itertools.count(1)
        self.ways = Ways(self._line.send, self._order, self._numbers)
        self._is_dismissed = False
        self._waiting: dict[int, asyncio.Future[orders.Done]] = {}
        self._hello: asyncio.Future[orders.Hello] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._child: subprocess.Popen[bytes] | None = None
        self._pidfd = os.pidfd_open(pid)
        self._beats_missed = 0
        self._beat: asyncio.TimerHandle | None = None

    # -- beginnings ------------------------------------------------------------------------------------------------------

    @classmethod
    async def start_or_adopt(
        cls,
        *,
        dir: Path,
        listen: list[str],
        bounds: Bounds | None = None,
        prefix: Sequence[str] = (),
        handed: Sequence[socket.socket] = (),
        workers: int = 1,
    ) -> "RouterHandle":
        """The router of that directory, listening on these addresses.

        prefix: a command that becomes a new one. handed: listeners for some of the addresses, which stay the caller's.

        Raises PortTaken (by whom), UsageError for what is no address or no access log, LaunchFailed when it does not come up.
        """
        for address in listen:
            check_address(address)
        accesslog.check(bounds.access_log if bounds is not None else "")
        handle = await cls._adopt(dir)
        if handle is not None and handle.is_outdated:
            handle = await handle._renewed(program(bounds or Bounds(), workers))
        if handle is not None:
            try:
                await handle.relisten(listen)
            except BaseException:
                handle.close()
                raise
            return handle
        return await cls._start(dir, listen, handed, partial(spawn, bounds=bounds or Bounds(), workers=workers, prefix=prefix))

    @property
    def is_outdated(self) -> bool:
        """Whether it is of another version than we are, and can be replaced while it serves."""
        return self.build != __version__ and self._speaks >= orders.REPLACES

    async def _renewed(self, command: list[str]) -> "RouterHandle | None":
        """The same process, in which the program of our version has taken over; as it was where that could not be executed."""
        log.info("the router (pid %d) is of version %s and becomes %s", self.pid, self.build, __version__)
        try:
            done = await self._order(orders.Replace(order=next(self._numbers), command=command, path=starting.module_path()))
            log.error("the router cannot become another: %s: %s", done.address, os.strerror(done.errno))
        except TimedOut as error:
            log.error("the router does not become another: %s", error)
        except Internal:  # its connection ended: with execve(2)
            self.close()
            return await self._adopt(self._path.parent, START)
        return self

    @classmethod
    async def _adopt(cls, directory: Path, bound: float | None = None) -> "RouterHandle | None":
        sock = connect(directory)
        if sock is None:
            return None
        pid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        try:
            handle = cls(sock, pid, directory / starting.SOCKET)
        except OSError:
            sock.close()
            return None
        try:
            await handle._greet(bound or GREETING)
        except (TimedOut, Internal):
            log.warning("the router (pid %d) does not answer and is replaced", pid)
            handle._kill()
            await handle._wait_gone()
            handle.close()
            return None
        return handle

    @classmethod
    async def _start(
        cls,
        directory: Path,
        listen: list[str],
        handed: Sequence[socket.socket],
        spawned: "Callable[[Path, list[socket.socket], socket.socket], subprocess.Popen[bytes]]",
    ) -> "RouterHandle":
        listeners: list[socket.socket] = []
        control: socket.socket | None = None
        try:
            for address in listen:
                listeners.append(await bound_after(directory, address, handed))
            control = bind_control(directory)
            child = spawned(directory, listeners, control)
        finally:
            for sock in listeners:
                sock.close()
            if control is not None:
                control.close()
        started = connect(directory)
        handle = cls(started, child.pid, directory / starting.SOCKET) if started is not None else None
        try:
            if handle is None:
                raise Internal("it ended at once, or router.sock was taken away")
            handle._child = child
            await handle._greet(START)
        except (TimedOut, Internal) as error:
            child.kill()
            child.wait()
            if handle is not None:
                handle.close()
            (directory / starting.SOCKET).unlink(missing_ok=True)
            why = f"the router did not start: {starting.tail(directory / starting.LOG) or error}"
            raise LaunchFailed(why, hint=f"see {directory / starting.LOG}", step="router") from error
        return handle

    async def _greet(self, bound: float) -> None:
        try:
            hello = await asyncio.wait_for(asyncio.shield(self._hello), bound)
        except TimeoutError:
            raise TimedOut(
                f"the router did not answer within {bound:.0f} s", hint=f"see {self._path.parent / starting.LOG}"
            ) from None
        self.pid, self._speaks = hello.pid, hello.version
        self.ways.speaks = hello.version
        self.listen = list(hello.listen)
        self.published = list(hello.published)
        self.workers = list(hello.workers)
        self.build = hello.build
        self._loop.add_reader(self._pidfd, self._process_ended)
        self._beat = self._loop.call_later(BEAT, self._on_beat)

    async def relisten(self, listen: list[str]) -> None:
        """Have an adopted router listen where we were told to; a port of 0 is content with any port of that host."""
        wanted = [next((held for held in self.listen if matches(address, held)), address) for address in listen]
        if set(wanted) == set(self.listen):
            return
        done = await self._order(orders.Listen(order=next(self._numbers), addresses=wanted))
        if done.errno:
            raise taken(done.address, done.errno)
        self.listen = list(done.listen)

    @property
    def unbound(self) -> str:
        """Why it cannot bound the connections to an env, which one of an older version would not even notice; "": it can."""
        if self._speaks >= orders.BOUNDS:
            return ""
        return f"the router that runs (pid {self.pid}) is of an older version and cannot count connections"

    # -- orders ----------------------------------------------------------------------------------------------------------

    def push(self, table: RouteTable) -> None:
        """Have the router use this table; of those not yet sent only the newest goes."""
        named = {endpoint.env_id for endpoint in table.endpoints}
        for env_id in [env_id for env_id in self.counts if env_id not in named]:
            del self.counts[env_id]
        self._pushed = table.version
        self._line.send_table(orders.encode(orders.SetTable(table=table)))

    def change(self, change: Change) -> bool:
        """Have the router change its table; False: it has another, cannot, or does not keep up: push it as a whole."""
        if change.base != self._pushed or self._speaks < orders.CHANGES or self._line.holds_table:
            return False
        for env_id in change.gone:
            self.counts.pop(env_id, None)
        self._pushed = change.version
        self._line.send_change(orders.encode(orders.ChangeTable(change=change)))
        return True

    def deny(self, denial: orders.Deny) -> None:
        """Have those who wait for a key told that there will be no env for it."""
        self._line.send(orders.encode(denial))

    async def publish(self, held: orders.Published) -> None:
        """Reach one port of an env at a host address, as raw TCP; raises PortTaken."""
        done = await self._order(orders.publish_order(next(self._numbers), held))
        if done.errno:
            raise taken(done.address, done.errno)
        same = (held.address, held.host_port)
        self.published = [*(other for other in self.published if (other.address, other.host_port) != same), held]

    async def unpublish(self, env_id: str, one: orders.Published | None = None) -> None:
        """Close the env's published listeners, or one of them; its open connections run on until `release`."""
        address, port = (one.address, one.host_port) if one is not None else ("", 0)
        order = orders.Unpublish(order=next(self._numbers), env_id=env_id, address=address, host_port=port)
        await self._order(order)
        self.published = [published for published in self.published if not order.means(published)]

    async def count(self) -> None:
        """Have `counts` be those of now, with every table pushed before in force; raises TimedOut, Internal."""
        await self._order(orders.Count(order=next(self._numbers)))

    async def release(self, env_id: str) -> bool:
        """Have every connection and ready socket of the env closed; False: not confirmed in time."""
        try:
            await self._order(orders.Release(order=next(self._numbers), env_id=env_id))
        except (TimedOut, Internal):
            return False
        return True

    def dismiss(self) -> None:
        """Have the router end by itself, whatever becomes of us; it lets what is under way end, by its bounds."""
        self.on_death = None
        self._is_dismissed = self._line.open
        self._line.send(orders.encode(orders.Stop()))

    async def stop(self, drain: float = 0.0) -> None:
        """End the router; returns when it is gone. drain: how long it may take for what is under way, by its bounds."""
        if not self._is_dismissed:
            self.dismiss()
        if self._is_dismissed:
            try:
                await asyncio.wait_for(self._wait_gone(), ANSWER + drain)
            except TimeoutError:
                self._kill()
                await self._wait_gone()
        self.close()
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the router and leave it running."""
        self.on_death = None
        self._disconnect("the handle was closed")
        self._close_pidfd()
        if self._child is not None and self._child.poll() is None:
            self._child.returncode = 0  # it is meant to run on: Popen would warn that it does
        if not self._ended.done():
            self._ended.set_result(None)

    async def _order(self, order: orders.Numbered) -> orders.Done:
        if not self._line.open:
            raise Internal("the router is gone", hint=f"see {self._path.parent / starting.LOG}")
        future: asyncio.Future[orders.Done] = self._loop.create_future()
        self._waiting[order.order] = future
        self._line.send(orders.encode(order))
        try:
            return await asyncio.wait_for(future, ANSWER)
        except TimeoutError:
            raise TimedOut(f"the router did not carry out {type(order).__name__} within {ANSWER:.0f} s") from None
        finally:
            self._waiting.pop(order.order, None)

    # -- the connection --------------------------------------------------------------------------------------------------

    def _take(self, report: orders.Report) -> None:
        match report:
            case orders.Hello():
                if not self._hello.done():
                    self._hello.set_result(report)
            case orders.Done():
                self._beats_missed = 0
                future = self._waiting.get(report.order)
                if future is not None and not future.done():
                    future.set_result(report)
            case orders.Counts():
                self.pages = report.pages or self.pages
                self.counts.update({env_id: msgspec.structs.asdict(traffic) for env_id, traffic in report.envs.items()})
            case orders.Flows():
                self.ways.told(report)
            case orders.Wake():
                if self.on_wake is not None:
                    self.on_wake(report.env_id)
            case orders.Ask():
                if self.on_ask is not None:
                    self.on_ask(report)
            case orders.Stuck():
                log.warning("a socket of env %s blocked the router; it is left alone for a while", report.env_id)
                if self.on_stuck is not None:
                    self.on_stuck(report.env_id)

    def _on_beat(self) -> None:
        if is_stuck(self.pid, self._beats_missed, MISSED_BEATS):
            log.error("the router (pid %d) is stuck and is killed", self.pid)
            self._kill()
            return
        self._beats_missed += 1
        self._line.send(orders.encode(orders.Ping(order=0)))
        self._beat = self._loop.call_later(BEAT, self._on_beat)

    def _process_ended(self) -> None:
        self._close_pidfd()
        if self._child is not None:
            self._child.poll()
        else:
            starting.reap(self.pid)
        if not self._ended.done():
            self._ended.set_result(None)
        self._died()

    def _died(self) -> None:
        callback = self.on_death
        self.on_death = None
        self._disconnect("the router ended")
        if callback is not None:
            callback()

    def _close_pidfd(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _disconnect(self, why: str) -> None:
        if not self._line.open:
            return
        self._line.close()
        if self._beat is not None:
            self._beat.cancel()
        if not self._hello.done():
            self._hello.set_exception(Internal(why))
            self._hello.exception()  # whoever waits gets it; nobody waiting is no fault
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(Internal(why))

    def _kill(self) -> None:
        try:
            if self._pidfd >= 0:
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return

    async def _wait_gone(self) -> None:
        """Until the process ended."""
        if not self._ended.done() and self._pidfd >= 0:
            self._loop.add_reader(self._pidfd, self._process_ended)
            await asyncio.shield(self._ended)
