"""The relay between real descriptors and real local processes: bytes whole, ends seen, nothing left behind."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from sandboxd.cli.keys import DEFAULT, DetachKeys, parse_keys
from sandboxd.cli.relay import AFTER_END, Ended, Plug, Relay
from sandboxd.cli.terminal import Size, raw, size_of
from sandboxd.errors import UsageError
from sandboxd.protocol.messages import SessionReply

PATIENCE = 30


class LocalSession:
    """What the client hands out, but of a process here: its descriptors, its last reply, its close."""

    def __init__(self, argv: list[str], *, terminal: bool = False, stdin: bool = True) -> None:
        self.terminal = terminal
        self.resized: list[tuple[int, int]] = []
        if terminal:
            master, slave = pty.openpty()
            self.process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
            os.close(slave)
            self.fds = {"pty": master}
            return
        mine: dict[str, int] = {}
        theirs: dict[str, int] = {}
        for name in ("stdin", "stdout", "stderr") if stdin else ("stdout", "stderr"):
            reading, writing = os.pipe()
            mine[name], theirs[name] = (writing, reading) if name == "stdin" else (reading, writing)
        given: Any = {name: theirs[name] for name in theirs}
        self.process = subprocess.Popen(argv, **{"stdin": subprocess.DEVNULL, **given}, start_new_session=True)
        for fd in theirs.values():
            os.close(fd)
        self.fds = mine

    def wait(self) -> SessionReply:
        code = self.process.wait()
        return SessionReply(session="x", exit_code=code if code >= 0 else 128 - code)

    def resize(self, rows: int, cols: int) -> None:
        self.resized.append((rows, cols))

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def end(self) -> None:
        self.close()
        self.process.wait()
        for fd in self.fds.values():
            os.close(fd)


@contextmanager
def session(argv: list[str], **given: bool) -> Iterator[LocalSession]:
    made = LocalSession(argv, **given)
    try:
        yield made
    finally:
        made.end()


class Feeder:
    """The user's side: pipes whose far ends a thread feeds and drains."""

    def __init__(self, data: bytes | None, *, hold: bool = False) -> None:
        self.seen = {1: b"", 2: b""}
        self.stdin, self._feed = os.pipe()
        out, self.stdout = os.pipe()
        err, self.stderr = os.pipe()
        self._ends = {out: 1, err: 2}
        self._drain = threading.Thread(target=self._read)
        self._drain.start()
        self._write = threading.Thread(target=self._give, args=(data, hold))
        self._write.start()

    def _give(self, data: bytes | None, hold: bool) -> None:
        view = memoryview(data or b"")
        with suppress(BrokenPipeError):
            while view:
                view = view[os.write(self._feed, view[: 1 << 16]) :]
        if not hold:
            os.close(self._feed)
            self._feed = -1

    def _read(self) -> None:
        poll = select.poll()
        for fd in self._ends:
            poll.register(fd, select.POLLIN)
        left = dict(self._ends)
        while left:
            for fd, _ in poll.poll():
                data = os.read(fd, 1 << 16)
                self.seen[left[fd]] += data
                if not data:
                    poll.unregister(fd)
                    os.close(fd)
                    del left[fd]

    def type(self, data: bytes) -> None:
        os.write(self._feed, data)

    def end(self) -> dict[int, bytes]:
        for fd in (self.stdin, self.stdout, self.stderr):
            os.close(fd)
        self._write.join(PATIENCE)
        self._drain.join(PATIENCE)
        if self._feed >= 0:
            os.close(self._feed)
        return self.seen


def relay(argv: list[str], data: bytes | None = b"", **given: Any) -> tuple[Ended, bytes, bytes]:
    feeder = Feeder(data)
    with session(argv, stdin=data is not None) as made:
        plug = Plug(stdin=feeder.stdin if data is not None else None, stdout=feeder.stdout, stderr=feeder.stderr, **given)
        try:
            ended = Relay(made, plug).run()  # type: ignore[arg-type]
        finally:
            seen = feeder.end()
    return ended, seen[1], seen[2]


def code(ended: Ended) -> int | None:
    assert isinstance(ended.reply, SessionReply)
    return ended.reply.exit_code


def sh(script: str) -> list[str]:
    return ["/bin/sh", "-c", script]


def test_streams_stay_apart_and_the_code_comes_through() -> None:
    ended, out, err = relay(sh("echo out; echo err >&2; exit 3"), None)
    assert (code(ended), out, err) == (3, b"out\n", b"err\n")
    assert not ended.detached


def test_big_binary_data_goes_round_whole() -> None:
    data = os.urandom(1 << 20) * 5 + b"\x10\x11\x04\x03tail"
    ended, out, _ = relay(["cat"], data)
    assert code(ended) == 0
    assert out == data


def test_the_end_of_stdin_is_passed_on() -> None:
    assert relay(["wc", "-c"], b"abc")[1].strip() == b"3"
    assert relay(["wc", "-c"], b"")[1].strip() == b"0"


def test_a_command_that_reads_only_a_little() -> None:
    """`yes | sandbox exec env head -1`: writes into a full pipe must not keep us from what comes out."""
    ended, out, _ = relay(["head", "-c", "5"], b"y\n" * (1 << 22))
    assert (code(ended), out) == (0, b"y\ny\ny")


def test_a_command_that_never_reads() -> None:
    ended, out, _ = relay(sh("echo hi; exit 7"), b"x" * (1 << 22))
    assert (code(ended), out) == (7, b"hi\n")


def test_a_command_that_closes_its_stdin_and_goes_on() -> None:
    ended, out, _ = relay(sh("exec <&-; sleep 0.2; echo on"), b"x" * (1 << 20))
    assert (code(ended), out) == (0, b"on\n")


def test_output_after_its_own_streams_were_closed_is_waited_for() -> None:
    assert code(relay(sh("exec >&- 2>&-; sleep 0.2; exit 5"), None)[0]) == 5


def test_a_child_in_the_background_does_not_hold_us() -> None:
    """It keeps the pipes open after the command has ended, for ever."""
    ended, out, _ = relay(sh("sleep 1000 & echo started"), None)
    assert (code(ended), out) == (0, b"started\n")


def test_a_child_that_writes_for_ever_does_not_hold_us() -> None:
    ended, out, _ = relay(sh("yes & exit 0"), None)
    assert code(ended) == 0
    assert len(out) < 4 * AFTER_END


def test_nobody_reads_our_stdout() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with session(["yes"], stdin=False) as made, pytest.raises(BrokenPipeError):
            Relay(made, Plug(stdin=None, stdout=writing, stderr=2)).run()  # type: ignore[arg-type]
        assert made.process.returncode == -signal.SIGKILL
    finally:
        os.close(writing)


def test_a_full_stdout_that_was_made_nonblocking() -> None:
    """Somebody else who shares the terminal or pipe may have set O_NONBLOCK on it."""
    feeder = Feeder(None)
    os.set_blocking(feeder.stdout, False)
    with session(sh("head -c 3000000 /dev/zero"), stdin=False) as made:
        Relay(made, Plug(stdin=None, stdout=feeder.stdout, stderr=feeder.stderr)).run()  # type: ignore[arg-type]
    assert len(feeder.end()[1]) == 3_000_000


def test_signals_are_passed_on_and_handlers_put_back() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with session(sh("trap 'exit 42' INT; echo up; while :; do sleep 0.05; done"), stdin=False) as made:
        got: list[int] = []

        def forward(number: int) -> None:
            got.append(number)
            os.kill(made.process.pid, number)

        feeder = Feeder(None)

        def interrupt() -> None:
            while not feeder.seen[1]:
                select.select([], [], [], 0.01)
            os.kill(os.getpid(), signal.SIGINT)

        sender = threading.Thread(target=interrupt)
        sender.start()
        ended = Relay(made, Plug(stdin=None, stdout=feeder.stdout, stderr=feeder.stderr, forward=forward)).run()  # type: ignore[arg-type]
        sender.join()
        feeder.end()
    assert (code(ended), got) == (42, [signal.SIGINT])
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_third_interrupt_may_end_it() -> None:
    def forward(_: int) -> None:
        raise KeyboardInterrupt

    with session(["sleep", "1000"], stdin=False) as made:
        sender = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        sender.start()
        with pytest.raises(KeyboardInterrupt):
            Relay(made, Plug(stdin=None, stdout=1, stderr=2, forward=forward)).run()  # type: ignore[arg-type]
        sender.join()
    assert made.process.returncode == -signal.SIGKILL


# -- terminals


def test_a_pty_echoes_resizes_and_ends() -> None:
    feeder = Feeder(b"", hold=True)
    now = [Size(11, 22)]
    with session(sh("read line; stty size; read line; stty size; echo got $line; exit 9"), terminal=True) as made:

        def act() -> None:
            feeder.type(b"\r")
            while b"11 22" not in feeder.seen[1]:
                select.select([], [], [], 0.01)
            now[0] = Size(33, 44)
            os.kill(os.getpid(), signal.SIGWINCH)
            while struct.unpack("HHHH", fcntl.ioctl(made.fds["pty"], termios.TIOCGWINSZ, b"\0" * 8))[:2] != (33, 44):
                select.select([], [], [], 0.01)
            feeder.type(b"hello\r")

        user = threading.Thread(target=act)
        user.start()
        plug = Plug(stdin=feeder.stdin, stdout=feeder.stdout, stderr=feeder.stderr, size=lambda: now[0])
        ended = Relay(made, plug).run()  # type: ignore[arg-type]
        user.join()
    out = feeder.end()[1]
    assert code(ended) == 9
    assert b"33 44\r\ngot hello\r\n" in out


def test_detach_keys_leave_and_close_the_session() -> None:
    feeder = Feeder(b"abc\x10\x11never", hold=True)
    with session(["cat"]) as made:
        plug = Plug(stdin=feeder.stdin, stdout=feeder.stdout, stderr=feeder.stderr, keys=DetachKeys(parse_keys(DEFAULT)))
        ended = Relay(made, plug).run()  # type: ignore[arg-type]
    feeder.end()
    assert ended == Ended(None, detached=True)


def test_sizes_go_through_the_session_where_there_is_no_pty() -> None:
    with session(["sleep", "0.3"], stdin=False) as made:
        sender = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGWINCH))
        sender.start()
        Relay(made, Plug(stdin=None, stdout=1, stderr=2, size=lambda: Size(5, 6))).run()  # type: ignore[arg-type]
        sender.join()
    assert made.resized == [(5, 6)]


def test_a_failed_end_is_raised() -> None:
    class Failing(LocalSession):
        def wait(self) -> SessionReply:
            self.process.wait()
            raise UsageError("the daemon said no")

    made = Failing(["true"], stdin=False)
    try:
        with pytest.raises(UsageError, match="said no"):
            Relay(made, Plug(stdin=None, stdout=1, stderr=2)).run()  # type: ignore[arg-type]
    finally:
        made.end()


def test_raw_mode_is_put_back_whatever_happens() -> None:
    master, slave = pty.openpty()
    try:
        before = termios.tcgetattr(slave)
        with suppress(ZeroDivisionError), raw(slave):
            assert termios.tcgetattr(slave) != before
            raise ZeroDivisionError
        assert termios.tcgetattr(slave) == before
    finally:
        os.close(master)
        os.close(slave)


def test_sizes() -> None:
    master, slave = pty.openpty()
    try:
        assert size_of(slave) == Size(24, 80)  # a new pty is 0 x 0
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 132, 0, 0))
        assert size_of(-1, slave) == Size(50, 132)
        assert size_of() == Size(24, 80)
    finally:
        os.close(master)
        os.close(slave)
