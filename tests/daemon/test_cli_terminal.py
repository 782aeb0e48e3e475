"""`sandbox` on a terminal of its own: job control, window size, ctrl-C, full-screen programs, detaching, progress."""

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemons import Daemon, cli

PATIENCE = 30.0
# The keeper ignores SIGINT, which its children inherit; a terminal becomes the controlling one of a session leader by ioctl.
OWN_TERMINAL = """import fcntl, os, signal, sys, termios
signal.signal(signal.SIGINT, signal.SIG_DFL)
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])"""
BUSY = "sh -c 'echo busy; exec sleep 1000'"  # it speaks once it is in the foreground: what is typed before reaches the shell
NOISE = re.compile(r"\r|\x1b\[\?2004[hl]")  # bracketed paste, switched at each prompt


class Screen:
    """A program that leads a session on a pty of ours, and somebody who types and reads there."""

    def __init__(self, daemon: Daemon, argv: list[str | Path], *, cwd: Path, rows: int = 24, cols: int = 80) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(rows, cols)
        self.before = termios.tcgetattr(self.slave)
        self.seen = ""
        environ = daemon.environ | {"TERM": "xterm", "PS1": "$ ", "SHELL": "/bin/bash"}
        environ.pop("CI", None)
        stdio = [self.slave, self.slave, self.slave]
        self.process = daemon.keeper.spawn([sys.executable, "-c", OWN_TERMINAL, *argv], environ, stdio, cwd=cwd)

    def resize(self, rows: int, cols: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def until(self, wanted: str) -> re.Match[str]:
        """Read until a pattern is seen; what is before and in it is taken off."""
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(wanted, NOISE.sub("", self.seen))):
            if not select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"{wanted!r} never came; seen: {self.seen!r}")
            self.seen += os.read(self.master, 65536).decode(errors="replace")
        self.seen = NOISE.sub("", self.seen)[found.end() :]
        return found

    def insist(self, key: str, wanted: str) -> None:
        """Type a key until it has had its effect: `fg` says the job's name before the terminal is the job's."""
        deadline = time.monotonic() + PATIENCE
        while not re.search(wanted, NOISE.sub("", self.seen)):
            assert time.monotonic() < deadline, f"{wanted!r} never came; seen: {self.seen!r}"
            self.type(key)
            while select.select([self.master], [], [], 0.3)[0]:
                self.seen += os.read(self.master, 65536).decode(errors="replace")
        self.seen = ""

    def ask(self, command: str, wanted: str) -> tuple[str | None, ...]:
        """Type a command; the groups of what it printed, behind its echo."""
        self.type(command + "\r")
        self.until(re.escape(command))
        return self.until(wanted).groups()

    def wait(self) -> int:
        """Read what is left until the program has ended; its exit code."""
        deadline = time.monotonic() + PATIENCE
        while self.process.alive:
            assert time.monotonic() < deadline, f"it did not end; seen: {self.seen!r}"
            if select.select([self.master], [], [], 0.05)[0]:
                self.seen += os.read(self.master, 65536).decode(errors="replace")
        return self.process.wait()

    def close(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.close()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def screen(shared_daemon: Daemon, tmp_path: Path) -> Iterator[Callable[..., Screen]]:
    """`screen(*args)`: `sandbox ARGS` on a terminal."""
    made: list[Screen] = []

    def start(*args: str, **given: int) -> Screen:
        made.append(Screen(shared_daemon, [cli(), *args], cwd=tmp_path, **given))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture(scope="module")
def box(shared_daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    place = tmp_path_factory.mktemp("box")
    shared_daemon.sandbox("run", "-d", "--name", "box", "--", "sleep", "1000", cwd=place)
    yield "box"
    shared_daemon.sandbox("rm", "-f", "box")


def bash(screen: Callable[..., Screen], box: str, **given: int) -> Screen:
    one = screen("exec", "-it", box, "bash", "--norc", **given)
    one.type("PS1='> '\r")
    one.until("\n> ")
    return one


def test_a_shell_is_on_a_terminal_of_its_own(screen, box) -> None:
    one = bash(screen, box, rows=33, cols=101)
    told = one.ask("tty; echo $TERM; stty size", r"\n(.+)\n(.+)\n(.+)\n> ")
    assert told == ("/dev/pts/0", "xterm", "33 101")
    one.ask("id -un > /dev/tty; echo done", r"\ndone\n")
    one.type("exit 7\r")
    assert one.wait() == 7
    assert termios.tcgetattr(one.slave) == one.before


def test_the_window_follows(screen, box) -> None:
    one = bash(screen, box)
    one.resize(11, 55)
    one.ask("while [ \"$(stty size)\" != '11 55' ]; do sleep 0.1; done; echo now", "now\n")
    one.type("exit\r")
    assert one.wait() == 0


def test_ctrl_c_is_the_commands(screen, box) -> None:
    one = bash(screen, box)
    one.ask(BUSY, "\nbusy\n")
    one.type("\x03")
    one.until("> ")
    one.ask("echo code $?", r"\ncode 130\n> ")
    one.type("\x04")
    assert one.wait() == 0


def test_job_control(screen, box) -> None:
    one = bash(screen, box)
    one.ask(BUSY, "\nbusy\n")
    one.type("\x1a")
    one.until(r"Stopped +sh -c")
    one.ask("bg; jobs", r"Running +sh -c")
    one.ask("fg", "\nsh -c")
    one.insist("\x03", "> ")
    one.type("exit 3\r")
    assert one.wait() == 3


def test_full_screen_programs(screen, box) -> None:
    if shutil.which("vim") is None or shutil.which("top") is None:
        pytest.skip("vim or top is not installed")
    one = bash(screen, box, cols=120)
    one.type("vim -u NONE -i NONE /tmp/note\r")
    one.until("note")
    one.type("ihello from vim\x1b:wq\r")
    one.until("> ")
    one.ask("cat /tmp/note", r"\nhello from vim\n")
    one.type("top\r")
    one.until("sandboxd-init")
    one.type("q")
    one.until("> ")
    one.type("exit\r")
    assert one.wait() == 0


def test_shell_is_a_terminal_too(screen, box) -> None:
    one = screen("shell", box)
    one.type("tty; exit 6\r")
    one.until("/dev/pts/")
    assert one.wait() == 6


def test_a_killed_terminal_takes_the_session_along(screen, box, shared_daemon) -> None:
    """The window is closed: nobody is left who could type, so the shell inside gets its hang-up."""
    one = bash(screen, box)
    one.ask("echo $$ > /tmp/pid; echo ok", "\nok\n")
    one.process.send_signal(signal.SIGKILL)
    script = "for i in $(seq 300); do kill -0 $(cat /tmp/pid) 2>/dev/null || exit 0; sleep 0.1; done; exit 1"
    assert shared_daemon.sandbox("exec", box, "--", "sh", "-c", script).returncode == 0


def test_run_on_a_terminal(screen, shared_daemon) -> None:
    one = screen("run", "--rm", "-it", "--name", "tty", "--", "bash", "--norc", rows=30, cols=90)
    one.type("PS1='> '\r")
    one.until("\n> ")
    one.ask("stty size; hostname", r"\n30 90\ntty\n")
    one.resize(20, 60)
    one.ask("while [ \"$(stty size)\" != '20 60' ]; do sleep 0.1; done; echo now", "now\n")
    one.ask(BUSY, "\nbusy\n")
    one.type("\x03")
    one.ask("echo code $?", r"\ncode 130\n")
    one.type("exit 9\r")
    assert one.wait() == 9
    assert termios.tcgetattr(one.slave) == one.before
    assert shared_daemon.sandbox("inspect", "tty", check=False).returncode == 1


def test_attach_detaches_and_comes_back(screen, shared_daemon, tmp_path) -> None:
    shared_daemon.sandbox("run", "-d", "-it", "--name", "att", "--", "bash", "--norc", cwd=tmp_path)
    one = screen("attach", "att")
    one.ask("PS1='> '; X=kept; echo $X", "\nkept\n> ")
    one.type("\x10\x11")
    one.until("detached; att runs on")
    assert one.wait() == 0
    assert termios.tcgetattr(one.slave) == one.before
    again = screen("attach", "att")
    again.ask("echo $X", r"\nkept\n")
    again.type("exit 4\r")
    assert again.wait() == 4
    shared_daemon.sandbox("rm", "att")


def test_run_detaches_and_goes_on(screen, shared_daemon) -> None:
    one = screen("run", "-it", "--name", "det", "--", "bash", "--norc")
    one.ask("PS1='> '; X=kept; echo $X", "\nkept\n> ")
    one.type("\x10\x11")
    one.until("detached; det runs on")
    assert one.wait() == 0
    assert shared_daemon.sandbox("wait", "--timeout", "1s", "det", check=False).returncode == 124, "it has ended"
    again = screen("attach", "det")
    again.ask("echo $X", r"\nkept\n")
    again.type("exit\r")
    assert again.wait() == 0
    shared_daemon.sandbox("rm", "-f", "det")


def test_ctrl_c_without_a_pty_inside(screen) -> None:
    """`sandbox run -- CMD` typed at a terminal: the kernel signals us, we signal the command, it decides."""
    one = screen("run", "--rm", "--", "sh", "-c", "trap 'echo got; exit 5' INT; echo up; while :; do sleep 0.1; done")
    one.until("up\n")
    one.type("\x03")
    one.until("got")
    assert one.wait() == 5
    one = screen("run", "--rm", "--", "sh", "-c", "echo up; exec sleep 1000")
    one.until("up\n")
    one.type("\x03")
    one.until(r"\^C\n")  # the next prompt begins a line
    assert one.wait() == 130


def test_a_third_ctrl_c_leaves(screen, shared_daemon) -> None:
    one = screen("run", "--name", "deaf", "--", "sh", "-c", "trap '' INT; echo up; while :; do sleep 0.1; done")
    one.until("up\n")
    for _ in range(3):
        one.type("\x03")
        one.until(r"\^C")
        time.sleep(0.2)  # two that come at once are one signal
    assert one.wait() == 130
    shared_daemon.sandbox("rm", "-f", "deaf")


def test_progress_comes_and_goes(screen, tmp_path, shared_daemon) -> None:
    (tmp_path / "sandbox.toml").write_text(
        'name = "slow"\n[services.web]\ncommand = "sleep 1.5; exec python3 -m http.server 3000"\nport = 3000\n'
    )
    one = screen("up")
    one.until(r". [^\r\n]*slow[^\r\n]* \d+\.\ds")
    one.until(r"\x1b\[K")
    one.until(r"slow   ready in \d+\.\d\d s")
    assert one.wait() == 0
    shared_daemon.sandbox("down", cwd=tmp_path)


def test_prune_asks_on_a_terminal(screen, shared_daemon, tmp_path) -> None:
    shared_daemon.sandbox("run", "--name", "ended", "-l", "prune", "--", "true", cwd=tmp_path)
    one = screen("prune", "--filter", "label=prune")
    one.until(r"This removes 1 envs.*ended")
    one.type("n\r")
    assert one.wait() == 0
    shared_daemon.sandbox("inspect", "ended")
    one = screen("prune", "--filter", "label=prune")
    one.until(r"\[y/N\]")
    one.type("y\r")
    one.until("[0-9a-f]{32}")
    assert one.wait() == 0
    assert shared_daemon.sandbox("inspect", "ended", check=False).returncode == 1


def test_live_stats_leave_the_screen_as_it_was(screen, box) -> None:
    one = screen("stats", "box")
    one.until(r"\x1b\[\?1049h")
    one.until("MEM USAGE")
    one.type("\x03")
    one.until(r"\x1b\[\?25h\x1b\[\?1049l")
    assert one.wait() == 130
