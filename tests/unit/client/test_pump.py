"""A session to its end over real pipes and a real terminal, with a stand-in for the connection."""

import os
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from sandboxd.client import Completed
from sandboxd.client.pump import run_to_end
from sandboxd.errors import TimedOut
from sandboxd.protocol.messages import SessionReply


class Command:
    """A command whose outer ends are `fds`; `fileno` becomes readable when it has ended, as a session's does."""

    def __init__(self, argv: list[str], *, terminal: bool = False) -> None:
        self.last: Any = None
        self.fds: dict[str, int] = {}
        if terminal:
            self.fds["pty"], inner = os.openpty()
            stdio: dict[str, int] = dict.fromkeys(("stdin", "stdout", "stderr"), inner)
        else:
            stdio = {}
            for name in ("stdin", "stdout", "stderr"):
                read, write = os.pipe()
                self.fds[name], stdio[name] = (write, read) if name == "stdin" else (read, write)
        self.process = subprocess.Popen(argv, **stdio, start_new_session=True)  # type: ignore[call-overload]
        for fd in set(stdio.values()):
            os.close(fd)
        self._ended, self._tell = os.pipe()
        self._waiter = threading.Thread(target=self._wait)
        self._waiter.start()

    def _wait(self) -> None:
        code = self.process.wait()
        self.last = SessionReply(session="s", exit_code=code, reason="")
        os.close(self._tell)

    def fileno(self) -> int:
        return self._ended

    def wait(self) -> Any:
        self._waiter.join()
        return self.last

    def close(self) -> None:
        self.process.kill()
        self._waiter.join()
        os.close(self._ended)
        for fd in self.fds.values():
            os.close(fd)


@pytest.fixture
def commands() -> Iterator[list[Command]]:
    started: list[Command] = []
    yield started
    for command in started:
        command.close()


def ran(commands: list[Command], argv: list[str], *, terminal: bool = False, **given: Any) -> Completed:
    command = Command(argv, terminal=terminal)
    commands.append(command)
    return run_to_end(command, given.get("input"), given.get("timeout"))  # type: ignore[arg-type]


def test_output_and_exit_code(commands: list[Command]) -> None:
    assert ran(commands, ["sh", "-c", "echo out; echo err >&2; exit 3"]) == Completed(3, b"out\n", b"err\n")


def test_both_ways_at_once(commands: list[Command]) -> None:
    """More than any pipe holds: who only wrote first and read later would stand for ever."""
    data = os.urandom(1 << 20)
    assert ran(commands, ["cat"], input=data).stdout == data


def test_without_input_it_is_at_its_end(commands: list[Command]) -> None:
    assert ran(commands, ["cat"]).stdout == b""


def test_a_command_that_does_not_read(commands: list[Command]) -> None:
    assert ran(commands, ["true"], input=bytes(1 << 20)).exit_code == 0
    assert ran(commands, ["sh", "-c", "exec <&-; echo deaf"], input=bytes(1 << 20)).text == "deaf\n"


def test_a_child_in_the_background_holds_nobody_up(commands: list[Command]) -> None:
    done = ran(commands, ["sh", "-c", "sleep 60 & echo $!"])
    os.kill(int(done.text), 9)
    assert done.exit_code == 0


def test_a_command_that_takes_too_long(commands: list[Command]) -> None:
    with pytest.raises(TimedOut, match="still ran after"):
        ran(commands, ["sleep", "60"], timeout=0.05)


def test_a_terminal_ends_with_an_error(commands: list[Command]) -> None:
    """pty(7): reading the master gives EIO once nobody has the other side."""
    assert ran(commands, ["echo", "hello"], terminal=True) == Completed(0, b"hello\r\n", b"")
