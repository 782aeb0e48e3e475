"""Output of services into bounded logs and to whoever is attached; input the other way.

Runs inside pid 1 of an env; imports os, time, the loop and the log. Invariants: a service waits for nobody but a reader that
was let in as "wait", or for its turn where it writes more than SHARE can take; memory is bounded by one chunk and one
unfinished line per stream and DROP_LIMIT per reader; a descriptor is forgotten by the loop before it is closed.
"""

from __future__ import annotations

import os
import time

from sandboxd.launch.logfile import LogFiles, Stamp, spread
from sandboxd.launch.loop import READ, WRITE, Loop, Timer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = LINE_LIMIT = 16384
# Seconds: so much of each WINDOW one stream's output may take. Who writes without end would have a core, and pid 1 another: on
# a machine of two, a neighbour's request took 8 times as long (p99, measured).
WINDOW, SHARE = 0.002, 0.0005
FLUSH_AFTER = 0.25  # seconds that an unfinished line (a prompt) may stay unwritten
DROP_LIMIT = 1 << 18  # bytes that a reader let in as "drop" may lag behind its full pipe
DRAIN_TURNS = 66  # of CHUNK: more than the largest pipe (pipe-max-size is 1 MiB) holds


class Sink:
    """A descriptor that takes a copy of some output: kept or closed, slow or not, it never blocks pid 1."""

    __slots__ = ("drained", "ended", "fd", "finishing", "loop", "pending", "waits")

    def __init__(self, loop: Loop, fd: int, *, waits: bool, ended: Callable[[str], None]) -> None:
        self.loop = loop
        self.fd = fd
        self.waits = waits
        self.ended = ended  # called once with "ended", "gone" or "lagging"; the descriptor is closed then
        self.drained: Callable[[], None] | None = None
        self.pending = bytearray()
        self.finishing = False
        os.set_blocking(fd, False)
        self.watch(0)  # EPOLLERR comes unasked when the last reader closes

    def watch(self, events: int) -> None:
        """Listen for these events; a regular file has none (EPERM, epoll_ctl(2)) and never makes anyone wait."""
        try:
            self.loop.watch(self.fd, events, self.ready)
        except PermissionError:
            return

    def write(self, data: bytes) -> None:
        """Pass on, or keep what does not fit now."""
        if self.fd < 0:
            return
        if not self.pending:
            try:
                data = data[os.write(self.fd, data) :]
            except BlockingIOError:
                pass
            except OSError:
                self.close("gone")
                return
            if not data:
                return
            self.watch(WRITE)
        self.pending += data
        if not self.waits and len(self.pending) > DROP_LIMIT:
            self.close("lagging")

    def ready(self, events: int) -> None:
        """There is room, or nobody reads any more."""
        if not self.pending or not events & WRITE:
            if events & ~WRITE:
                self.close("gone")
            return
        try:
            del self.pending[: os.write(self.fd, self.pending)]
        except BlockingIOError:
            return
        except OSError:
            self.close("gone")
            return
        if not self.pending:
            self.watch(0)
            if self.drained is not None:
                self.drained()
            if self.finishing:
                self.close("ended")

    def finish(self) -> None:
        """No more output follows: close once all is passed on."""
        self.finishing = True
        if not self.pending:
            self.close("ended")

    def close(self, reason: str) -> None:
        """Close now."""
        if self.fd < 0:
            return
        self.loop.forget(self.fd)
        os.close(self.fd)
        self.fd = -1
        self.pending.clear()
        if self.drained is not None:
            self.drained()
        self.ended(reason)


class Output:
    """One stream of a service: read, passed to the sinks, cut into records, written to the log."""

    __slots__ = (
        "began", "fd", "flush", "log", "loop", "open_line", "paused", "rest", "sinks", "stamp", "stream", "tail", "took",
    )  # fmt: skip

    def __init__(self, loop: Loop, fd: int, stream: str, log: LogFiles | None) -> None:
        self.loop = loop
        self.fd = fd
        self.stream = stream
        self.log = log
        self.sinks: list[Sink] = []
        self.tail = b""
        self.open_line = False  # the last record was P
        self.paused = False
        self.flush: Timer | None = None
        self.rest: Timer | None = None
        self.began = self.took = 0.0  # when the window did, and what it took since
        self.stamp = Stamp()
        os.set_blocking(fd, False)
        loop.watch(fd, READ, self.ready)

    def tee(self, sink: Sink) -> None:
        """Pass all that comes from now on to this sink too."""
        sink.drained = self.resume
        self.sinks.append(sink)

    def release(self) -> list[Sink]:
        """Pass nothing on any more; the sinks are the caller's to finish."""
        sinks, self.sinks = self.sinks, []
        for sink in sinks:
            sink.drained = None
        self.resume()
        return sinks

    def ready(self, _events: int) -> None:
        """There is output, or its end."""
        begun = time.monotonic()
        self.pull()
        if self.fd < 0:
            return
        if self.is_held():
            self.paused = True
            self.loop.forget(self.fd)  # a mask of 0 would still report EPOLLHUP, over and over
        elif not self.sinks:  # who reads along sets the pace
            self.spend(begun, time.monotonic())

    def spend(self, begun: float, ended: float) -> None:
        """Account for a read; past its share it rests until the window is over."""
        if begun - self.began >= WINDOW:
            self.began, self.took = begun, 0.0
        self.took += ended - begun
        if self.took >= SHARE:
            self.loop.forget(self.fd)
            self.rest = self.loop.after(max(0.0, self.began + WINDOW - ended), self.rested)

    def rested(self) -> None:
        """The window is over."""
        self.rest = None
        self.loop.watch(self.fd, READ, self.ready)

    def is_held(self) -> bool:
        """Whether a reader that must not miss anything lags."""
        return any(sink.waits and sink.pending for sink in self.sinks)

    def resume(self) -> None:
        """A sink caught up or went."""
        self.sinks = [sink for sink in self.sinks if sink.fd >= 0]
        if self.paused and self.fd >= 0 and not self.is_held():
            self.paused = False
            self.loop.watch(self.fd, READ, self.ready)

    def pull(self) -> bool:
        """Read once; False when there was nothing to read."""
        try:
            data = os.read(self.fd, CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # EIO: the last process closed the terminal (pty(7) and n_tty.c)
            data = b""
        if not data:
            self.end()
            return False
        for sink in list(self.sinks):
            sink.write(data)
        if self.log is not None:
            self.keep(self.log, data)
        return True

    def drain(self) -> None:
        """Take what is there now, held or not: the service has ended, so this is bounded by what a pipe holds."""
        for _ in range(DRAIN_TURNS):
            if self.fd < 0 or not self.pull():
                break
        if self.tail:
            self.write_tail(b"P")

    def keep(self, log: LogFiles, data: bytes) -> None:
        """Cut into lines; what has no newline yet waits for it, LINE_LIMIT bytes at most."""
        stamp = f"{self.stamp.at(time.time_ns())} {self.stream} ".encode()
        data = self.tail + data
        # The tail and a chunk are at most LINE_LIMIT each, so only the first line can be over it, and only once.
        first = data.find(b"\n")
        if (first if first >= 0 else len(data)) > LINE_LIMIT:
            log.write(stamp + b"P " + data[:LINE_LIMIT] + b"\n")
            self.open_line = True
            data = data[LINE_LIMIT:]
        cut = data.rfind(b"\n") + 1
        if cut:
            self.open_line = False
            spread(log, stamp + b"F ", data[:cut])
        self.tail = data[cut:]
        if self.tail and self.flush is None:
            self.flush = self.loop.after(FLUSH_AFTER, self.flush_tail)

    def flush_tail(self) -> None:
        """The newline did not come: show what there is."""
        self.flush = None
        if self.tail:
            self.write_tail(b"P")

    def write_tail(self, tag: bytes) -> None:
        """Write the unfinished line as a record."""
        if self.log is not None:
            stamp = f"{self.stamp.at(time.time_ns())} {self.stream} ".encode()
            self.log.write(stamp + tag + b" " + self.tail + b"\n")
        self.tail = b""
        self.open_line = tag == b"P"

    def end(self) -> None:
        """Nobody holds the other end any more."""
        self.loop.forget(self.fd)
        os.close(self.fd)
        self.fd = -1
        for timer in (self.flush, self.rest):
            if timer is not None:
                timer.cancel()
        if self.tail or self.open_line:
            self.write_tail(b"F")
        for sink in self.release():
            sink.finish()


class Input:
    """A service's stdin: what attached writers send, one chunk in flight."""

    __slots__ = ("ending", "fd", "is_terminal", "loop", "pending", "sources")

    def __init__(self, loop: Loop, fd: int, *, is_terminal: bool) -> None:
        self.loop = loop
        self.fd = fd
        self.is_terminal = is_terminal
        self.pending = b""
        self.ending = False
        self.sources: dict[int, bool] = {}
        os.set_blocking(fd, False)
        loop.watch(fd, 0, self.ready)  # EPOLLERR: the service closed its end

    def add(self, source: int, *, once: bool) -> None:
        """Copy from this descriptor until it ends; `once`: its end is the end of the service's stdin."""
        os.set_blocking(source, False)
        self.sources[source] = once
        if not self.pending:
            self.listen(source)

    def listen(self, source: int) -> None:
        """Hear of what a writer sends."""
        self.loop.watch(source, READ, lambda _events: self.pull(source))

    def remove(self, source: int) -> None:
        """Read it no more and close it; as at its end."""
        once = self.sources.pop(source, None)
        if once is None:
            return
        self.loop.forget(source)
        os.close(source)
        if once and self.is_terminal:
            self.push(b"\x04")  # VEOF: a terminal has no other end of input (termios(3))
        elif once:
            self.ending = True
            self.push(b"")

    def pull(self, source: int) -> None:
        """Copy one chunk."""
        try:
            data = os.read(source, CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.push(data)
        else:
            self.remove(source)

    def push(self, data: bytes) -> None:
        """Hand over; what does not fit holds the writers back until there is room."""
        if self.fd < 0:
            return
        held = bool(self.pending)
        self.pending += data
        if not held:
            self.offer()
            if self.pending:
                for source in self.sources:
                    self.loop.forget(source)
                self.loop.watch(self.fd, WRITE, self.ready)

    def offer(self) -> None:
        """Write what the kernel takes now."""
        try:
            if self.pending:
                self.pending = self.pending[os.write(self.fd, self.pending) :]
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if self.ending and not self.pending:
            self.close()

    def ready(self, events: int) -> None:
        """There is room, or the service reads no more."""
        if not self.pending or not events & WRITE:
            if events & ~WRITE:
                self.close()
            return
        self.offer()
        if not self.pending and self.fd >= 0:
            self.loop.watch(self.fd, 0, self.ready)
            for source in self.sources:
                self.listen(source)

    def close(self) -> None:
        """Close the service's stdin and every writer."""
        if self.fd < 0:
            return
        self.loop.forget(self.fd)
        os.close(self.fd)
        self.fd = -1
        self.pending = b""
        sources, self.sources = self.sources, {}
        for source in sources:
            self.loop.forget(source)
            os.close(source)
