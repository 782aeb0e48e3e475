"""Bytes between the user's stdio and a session's descriptors, until the command has ended.

One thread polls stdin, the session's output and a pipe of signals; a second one waits for the session's last reply, since
that is a blocking read on the control socket. What we hold back:
* the session's stdin is written without blocking, since a command that does not read must not keep us from relaying what it
  writes (`yes | sandbox exec env head -1`); while it is full, our stdin is not read, so a big file needs no memory;
* our stdout is written blocking: a slow reader then slows the command, as a pipe would;
* the end is the last reply, not the end of output: a child in the background may hold the pipes for ever. Output that was
  written before is drained first: until every output has ended, `SILENCE` went by without a byte, or more came than pipes hold.
Invariant: descriptors of the session belong to the session; signal handlers are put back.
"""

import errno
import fcntl
import os
import select
import signal
import struct
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from sandboxd.cli.keys import DetachKeys
from sandboxd.cli.terminal import Size
from sandboxd.errors import SandboxdError
from sandboxd.protocol.messages import Reply

if TYPE_CHECKING:
    from sandboxd.client import Session

CHUNK = 1 << 16
SILENCE = 300  # ms; init writes the last output before it reports the end, so this is for scheduling, not for work
AFTER_END = 4 << 20  # bytes: several times what the pipes and init can still hold when the command has ended
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


class Plug(NamedTuple):
    """The user's side. stdin: read from there, or None. keys: detach keys, on a terminal."""

    stdin: int | None
    stdout: int
    stderr: int
    keys: DetachKeys | None = None
    size: Callable[[], Size] | None = None
    forward: Callable[[int], None] | None = None


class Ended(NamedTuple):
    """How it ended: the last reply, or by the detach keys."""

    reply: Reply | None
    detached: bool = False


@contextmanager
def signals(numbers: tuple[int, ...]) -> Iterator[int]:
    """A descriptor on which those signals' numbers arrive as bytes, instead of ending the process.

    Those that we were started to ignore stay ignored: a shell without job control says so for `sandbox run … &` (sh(1)).
    """
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda *_: None) for number in heeded}
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)


class Relay:
    """One session being relayed; `run()` returns how it ended and raises what the session's end raised."""

    def __init__(self, session: "Session", plug: Plug) -> None:
        self.session = session
        self.plug = plug
        fds = session.fds
        self.input: int | None = fds.get("pty", fds.get("stdin"))
        self.outputs: dict[int, int] = {}
        if "pty" in fds:
            self.outputs[fds["pty"]] = plug.stdout
        for name, own in (("stdout", plug.stdout), ("stderr", plug.stderr)):
            if name in fds:
                self.outputs[fds[name]] = own
        self.stdin = plug.stdin if self.input is not None else None
        self.pending = b""
        self.left = AFTER_END
        self.poll = select.poll()
        self.reply: Reply | None = None
        self.failure: BaseException | None = None
        self.over = threading.Event()

    def run(self) -> Ended:
        """Relay until the last reply has come and its output is out, or the user detaches."""
        caught = (*(FORWARDED if self.plug.forward else ()), *((signal.SIGWINCH,) if self.plug.size else ()))
        done, tell = os.pipe2(os.O_CLOEXEC)
        with signals(caught) as signalled:
            waiter = threading.Thread(target=self.wait_for_end, args=(tell,), daemon=True)
            waiter.start()
            try:
                detached = self.loop(signalled, done)
            finally:
                if not self.over.is_set():
                    self.session.close()
                waiter.join()
                os.close(done)
        if detached:
            return Ended(None, detached=True)
        if self.failure is not None:
            raise self.failure
        return Ended(self.reply)

    def wait_for_end(self, tell: int) -> None:
        """In a thread: the session's last reply, then one byte to the loop."""
        try:
            self.reply = self.session.wait()
        except BaseException as error:  # raised again by run()
            self.failure = error
        self.over.set()
        os.close(tell)

    def loop(self, signalled: int, done: int) -> bool:
        """Poll until the end; whether the user detached."""
        for descriptor in (signalled, done, *self.outputs):
            self.poll.register(descriptor, select.POLLIN)
        if "pty" in self.session.fds:
            self.resize()  # it may have changed since the session was asked for
        self.ready_input()
        if self.stdin is None and self.plug.stdin is None and "pty" not in self.session.fds:
            self.close_input()
        while True:
            ended = self.over.is_set()
            if ended and (not self.outputs or self.left <= 0):
                return False
            events = self.poll.poll(SILENCE if ended else None)
            if ended and not any(descriptor in self.outputs for descriptor, _ in events):
                return False
            for descriptor, what in events:
                if descriptor == signalled:
                    self.take_signals(signalled)
                elif descriptor == done:
                    self.poll.unregister(done)
                elif descriptor == self.stdin:
                    if self.take_input():
                        return True
                else:
                    self.serve(descriptor, what)

    def serve(self, descriptor: int, what: int) -> None:
        """A session's descriptor can be read, written, or has been closed at the other end."""
        if descriptor in self.outputs and what & (select.POLLIN | select.POLLHUP | select.POLLERR):
            self.take_output(descriptor)
        if descriptor == self.input:
            if what & select.POLLOUT:
                self.give_input()
            elif what & select.POLLERR and descriptor not in self.outputs:
                self.close_input()  # the command closed its stdin

    # -- the user's input

    def ready_input(self) -> None:
        """Begin to read stdin into the session's."""
        if self.input is None or self.stdin is None:
            return
        os.set_blocking(self.input, False)
        self.watch_stdin(True)
        if self.input not in self.outputs:
            self.poll.register(self.input, 0)  # POLLERR comes unasked: nobody reads any more

    def watch_stdin(self, on: bool) -> None:
        """Read our stdin, or leave what is there for later."""
        if self.stdin is None:
            return
        if on:
            self.poll.register(self.stdin, select.POLLIN)
        else:
            with suppress(KeyError):
                self.poll.unregister(self.stdin)

    def take_input(self) -> bool:
        """Something was typed, or stdin has ended; whether it was the detach keys."""
        assert self.stdin is not None
        try:
            data = os.read(self.stdin, CHUNK)
        except InterruptedError:
            return False
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return False
            data = b""
        if not data:
            self.watch_stdin(False)
            self.stdin = None
            if not self.pending:
                self.close_input()
            return False
        detach = False
        if self.plug.keys is not None:
            data, detach = self.plug.keys.feed(data)
        if detach:
            return True
        self.pending = data
        self.give_input()
        return False

    def give_input(self) -> None:
        """Write what is pending; while some is left, our stdin waits."""
        if self.input is None:
            return
        try:
            while self.pending:
                self.pending = self.pending[os.write(self.input, self.pending) :]
        except BlockingIOError:
            self.watch_stdin(False)
            self.want_write(True)
            return
        except OSError:  # EPIPE, EIO: the command reads no more
            self.close_input()
            return
        self.want_write(False)
        if self.stdin is None:
            self.close_input()
        else:
            self.watch_stdin(True)

    def want_write(self, on: bool) -> None:
        """Be told when the session's stdin has room."""
        assert self.input is not None
        events = (select.POLLIN if self.input in self.outputs else 0) | (select.POLLOUT if on else 0)
        self.poll.register(self.input, events)

    def close_input(self) -> None:
        """No more input: the command sees the end of its stdin (a pty has no such end; it is left open)."""
        self.pending = b""
        self.watch_stdin(False)
        self.stdin = None
        if self.input is None or self.input in self.outputs:
            return
        with suppress(KeyError):
            self.poll.unregister(self.input)
        self.session.fds.pop("stdin", None)
        os.close(self.input)
        self.input = None

    # -- the command's output

    def take_output(self, descriptor: int) -> None:
        """Pass on what was written; the end of an output is the end of watching it."""
        try:
            data = os.read(descriptor, CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            if error.errno != errno.EIO:  # a pty whose last user has gone
                raise
            data = b""
        if data:
            write_all(self.outputs[descriptor], data)
            self.left -= len(data) if self.over.is_set() else 0
            return
        del self.outputs[descriptor]
        self.poll.unregister(descriptor)

    # -- signals

    def take_signals(self, signalled: int) -> None:
        """Signals that came: window changes to the session, the others to its command."""
        with suppress(BlockingIOError):
            for number in dict.fromkeys(os.read(signalled, 512)):
                if number == signal.SIGWINCH:
                    self.resize()
                elif self.plug.forward is not None:
                    self.plug.forward(number)

    def resize(self) -> None:
        """Tell the session its window: on the pty itself where we hold it, else through the daemon."""
        if self.plug.size is None:
            return
        rows, cols = self.plug.size()
        try:
            fcntl.ioctl(self.session.fds.get("pty", -1), termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
        except (OSError, ValueError):  # we hold none: it is a pipe, or the terminal is on another machine
            with suppress(SandboxdError):  # it has just ended: its last reply says so
                self.session.resize(rows, cols)


def write_all(descriptor: int, data: bytes) -> None:
    """All of it, even where stdout was made non-blocking by somebody who shares it; raises BrokenPipeError."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
