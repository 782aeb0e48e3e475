"""The one loop of pid 1: epoll for descriptors, a short list of timers, nothing else.

Runs inside every env, so it imports select, time and os only. Invariants: no call waits without an event or a timer to end
it, and an exception of one descriptor's action takes that descriptor out of the loop instead of ending pid 1 (and with it
the env). A descriptor must be forgotten before it is closed: epoll follows the open file, which a child that was forked a
moment ago may still share (epoll(7), Q6).
"""

from __future__ import annotations

import os
import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
BATCH = 64


class Timer:
    """Something to do at a time (of time.monotonic()); `cancel` it or let it come."""

    __slots__ = ("act", "at")

    def __init__(self, at: float, act: Callable[[], None]) -> None:
        self.at = at
        self.act: Callable[[], None] | None = act

    def cancel(self) -> None:
        """Never call the action; also after it was called."""
        self.act = None


class Loop:
    """Descriptors and timers of one process."""

    __slots__ = ("acts", "epoll", "timers")

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.acts: dict[int, Callable[[int], None]] = {}
        self.timers: list[Timer] = []

    def watch(self, fd: int, events: int, act: Callable[[int], None]) -> None:
        """Call act(events) whenever fd is ready (level-triggered); again with other events to change them."""
        if fd in self.acts:
            self.epoll.modify(fd, events)
        else:
            self.epoll.register(fd, events)
        self.acts[fd] = act

    def forget(self, fd: int) -> None:
        """Watch fd no longer; harmless when it was not watched."""
        if self.acts.pop(fd, None) is not None:
            try:
                self.epoll.unregister(fd)
            except OSError as error:
                complain(f"forgetting descriptor {fd}", error)

    def after(self, seconds: float, act: Callable[[], None]) -> Timer:
        """Call act once, that much later."""
        timer = Timer(time.monotonic() + seconds, act)
        self.timers.append(timer)
        return timer

    def turn(self, limit: float | None = None) -> None:
        """Wait for the next events or timer (at most `limit` seconds) and serve them."""
        now = time.monotonic()
        for at in [timer.at for timer in self.timers if timer.act is not None]:
            limit = max(0.0, at - now) if limit is None else max(0.0, min(limit, at - now))
        for fd, events in self.epoll.poll(limit, BATCH):
            act = self.acts.get(fd)
            if act is None:
                continue  # forgotten by an action of this batch
            try:
                act(events)
            except Exception as error:  # pid 1 outlives every fault of one descriptor
                complain(f"serving descriptor {fd}", error)
                self.forget(fd)
        if self.timers:
            self.ring()

    def ring(self) -> None:
        """Call what is due."""
        now = time.monotonic()
        due = [timer for timer in self.timers if timer.act is None or timer.at <= now]
        if due:
            self.timers = [timer for timer in self.timers if timer not in due]
        for timer in due:
            act, timer.act = timer.act, None
            if act is not None:
                try:
                    act()
                except Exception as error:
                    complain("serving a timer", error)

    def close(self) -> None:
        """Close the epoll descriptor; what was watched stays open."""
        self.epoll.close()


def complain(what: str, error: BaseException) -> None:
    """One line to stderr, which the launcher points at its log or at nothing; there is nobody else to tell."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "?"
    try:
        os.write(2, f"sandboxd-init: {what}: {error!r} at {where}\n".encode("utf-8", "replace"))
    except OSError:
        return
