"""The router's event loop: epoll, level-triggered, one handler per descriptor, a few timers.

Why not uvloop's add_reader: libuv disarms a poll handle on EPOLLERR and says so to nobody, so every callback would have to
read on to EAGAIN (one more recv and one exception per message: measured 15 to 20 % of a request's CPU time) or re-arm (two
epoll_ctl). A level-triggered epoll of our own reports until the cause is gone and costs the same per event as uvloop does.
It also says *what* happened (EPOLLHUP, EPOLLERR), which a relay that has stopped reading needs to know.

A handler may take what it is told as a hint only: its descriptor may be a new one under an old number. A handler that fails
loses its connection and nothing else. An interval timer breaks a call that blocks against all asking (see `kernel.splice`).
Imports nothing of ours; no asyncio.
"""

import heapq
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
LOST = select.EPOLLERR | select.EPOLLHUP
MOST_EVENTS = 256
STALL = 1.0  # seconds between looks; a call is broken after one to two of them

log = logging.getLogger("sandboxd.router")


class StalledError(BaseException):
    """Raised into a call that does not return. Not an Exception: no `except OSError` on the way may swallow it."""


class Watcher(Protocol):
    """Who is told about a descriptor."""

    def on_event(self, mask: int) -> None:
        """Something happened, perhaps."""

    def abort(self, *, stalled: bool = False) -> None:
        """Give up everything held, at once; called after on_event failed, or `stalled`."""


class Hopeful(Watcher, Protocol):
    """Who may get by without being told."""

    def look(self) -> None:
        """See whether what is waited for has come; if not, watch."""


class Timer:
    """One call to come; `cancel` forgets it."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Never call back."""
        self.callback = None

    def __lt__(self, other: "Timer") -> bool:
        return self.when < other.when


class Loop:
    """`now` is the monotonic time at which the current batch of events was read, `batch` its number."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watchers: dict[int, Watcher] = {}
        self._timers: list[Timer] = []
        self._running = False
        self._hopeful: list[Hopeful] = []
        self.batch = 0
        self._seen_batch = -1
        self._waiting = True
        self.now = time.monotonic()
        self._armed = False
        self._guarded = False
        self._busy = self._looked = 0.0
        self.foreign = 0  # sockets held that somebody else may hold, too: only they can stall us

    def watch(self, fd: int, watcher: Watcher, mask: int) -> None:
        """Tell `watcher` of what is in `mask`, and always of LOST."""
        self._epoll.register(fd, mask)
        self._watchers[fd] = watcher

    def change(self, fd: int, mask: int) -> None:
        """Tell of other things from now on."""
        self._epoll.modify(fd, mask)

    def forget(self, fd: int) -> None:
        """Tell no more. Always before close(2): a duplicate kept elsewhere would keep the registration alive (epoll(7))."""
        if self._watchers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def drop(self, fd: int) -> None:
        """The same for a descriptor that is about to be closed and that nobody else has: close(2) takes it out of the epoll."""
        self._watchers.pop(fd, None)

    def after_batch(self, hopeful: Hopeful) -> None:
        """Have it look once the events at hand are done with, which takes as long as many an answer; that spares two calls."""
        self._hopeful.append(hopeful)

    def at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call back once, at or after a monotonic time."""
        timer = Timer(when, callback)
        heapq.heappush(self._timers, timer)
        return timer

    def stop(self) -> None:
        """Return from `run` after this batch."""
        self._running = False

    def run(self) -> None:
        """Serve until `stop`."""
        self._running = True
        poll, watchers, clock = self._epoll.poll, self._watchers, time.monotonic
        while self._running:
            timeout = self._run_timers()
            self._waiting = True
            events = poll(timeout, MOST_EVENTS)
            self._waiting = False
            self.batch += 1
            self.now = clock()
            for fd, mask in events:
                watcher = watchers.get(fd)
                if watcher is None:
                    continue
                try:
                    watcher.on_event(mask)
                except Exception:
                    log.exception("a handler failed; its connection is given up")
                    self._give_up(watcher, stalled=False)
                except StalledError:
                    log.error("a call on descriptor %d did not return; its connection is given up", fd)
                    self._give_up(watcher, stalled=True)
            if self._hopeful:
                hopeful, self._hopeful = self._hopeful, []
                for one in hopeful:
                    self.on_behalf(one, one.look)

    def on_behalf(self, watcher: Watcher, call: Callable[[], None]) -> None:
        """Do what another's event, or a timer, brought about for `watcher`; where it fails, that one loses its connection."""
        try:
            call()
        except Exception:
            log.exception("a handler failed; its connection is given up")
            self._give_up(watcher, stalled=False)
        except StalledError:
            log.error("a call for a connection did not return; it is given up")
            self._give_up(watcher, stalled=True)

    def close(self) -> None:
        """Release the descriptors of the loop itself."""
        self._epoll.close()

    def _give_up(self, watcher: Watcher, *, stalled: bool) -> None:
        try:
            watcher.abort(stalled=stalled)
        except Exception:
            log.exception("giving up failed as well")

    def _run_timers(self) -> float:
        """Call what is due; returns how long epoll may wait, -1 for ever."""
        timers = self._timers
        while timers:
            timer = timers[0]
            if timer.callback is None:
                heapq.heappop(timers)
                continue
            self.now = time.monotonic()
            if timer.when > self.now:
                return timer.when - self.now
            heapq.heappop(timers)
            try:
                timer.callback()
            except Exception:
                log.exception("a timer failed")
        return -1.0

    def hold_foreign(self) -> None:
        """One more socket from elsewhere; the watch over stalls runs while there is one."""
        self.foreign += 1
        if not self._armed:
            self.guard()

    def guard(self) -> None:
        """A call that could stall is about to be made: the watch runs for a while."""
        self._guarded = True
        if not self._armed:
            self._armed = True
            signal.setitimer(signal.ITIMER_REAL, STALL, STALL)

    def _worked(self) -> float:
        """Seconds that this process has run, or would have, had there been a CPU (sched-stats.rst, where it is kept)."""
        with suppress(OSError, ValueError), open("/proc/self/schedstat", "rb") as file:
            ran, waited, _ = file.read().split()
            return max(time.process_time(), (int(ran) + int(waited)) / 1e9)  # zeros where it keeps none
        return time.process_time()

    def drop_foreign(self) -> None:
        """One less."""
        self.foreign -= 1

    def on_alarm(self, _signal: int, _frame: object) -> None:
        """SIGALRM, every STALL seconds: the same batch as at the last look, and no work done in between, is a stuck call.

        To wait for a CPU is work: on a machine that is overrun the others have it, and the call is as good as any."""
        now = time.monotonic()
        passed = now - self._looked
        if passed < STALL / 2:
            return  # the look before was late itself, for want of a CPU: too little has passed since to tell anything
        busy = self._worked()
        idle = busy - self._busy < passed / 2
        self._busy, self._looked = busy, now
        guarded, self._guarded = self._guarded, self._guarded and not self._waiting  # it may be the call we are in
        if not self.foreign and not guarded:
            self._armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        elif not self._waiting and self.batch == self._seen_batch and idle:
            self._seen_batch = -1
            raise StalledError
        self._seen_batch = self.batch


class Signals:
    """Signals as events: the wake-up pipe, watched; `on_stop` for SIGTERM and SIGINT."""

    def __init__(self, loop: Loop, on_stop: Callable[[], None]) -> None:
        self._loop = loop
        self._on_stop = on_stop
        self._wanted = False
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        loop.watch(self._read.fileno(), self, READ)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)
        signal.signal(signal.SIGALRM, loop.on_alarm)
        signal.siginterrupt(signal.SIGALRM, True)

    def _note(self, _signal: int, _frame: object) -> None:
        self._wanted = True

    def on_event(self, mask: int) -> None:
        """Some signal came."""
        try:
            os.read(self._read.fileno(), 4096)
        except BlockingIOError:
            return
        if self._wanted:
            self._on_stop()

    def abort(self, *, stalled: bool = False) -> None:
        """Nothing is held that could be given up."""

    def close(self) -> None:
        """Put the process's signals back."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.set_wakeup_fd(-1)
        self._loop.forget(self._read.fileno())
        self._read.close()
        self._write.close()
