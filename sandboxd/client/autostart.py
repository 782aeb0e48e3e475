"""Start a daemon when none answers, and wait until it is ready.

It runs `python -m sandboxd` as a unit of the service manager where there is one (`unit`), else in a session of its own, as
nobody's child, with its output in S/daemon.log. How its start went comes over a FIFO or an inherited pipe (SANDBOXD_READY_FD):
`ok`, or its error, which is raised here as that class. Of several clients that find none at the same time one starts it, under
a lock; the others wait for it and connect.
"""

import fcntl
import json
import os
import select
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import sandboxd
from sandboxd.client import unit
from sandboxd.client.dial import connect
from sandboxd.errors import DaemonRunning, DaemonUnreachable, StoreFailed
from sandboxd.protocol.envelopes import error_of
from sandboxd.settings import Settings

READY_SECONDS = 180.0  # what the unit has, too: a machine that is overrun is slow, and no error
MOMENT = 50  # ms
WORD_CAP = 64 << 10
COMMAND = (sys.executable, "-m", "sandboxd")
# Forked once more, so that the daemon is nobody's child here (no zombie in a program that lives long) and never gets a
# controlling terminal: it does not lead its session (setsid(2)).
DETACH = "import os, sys\nif os.fork(): os._exit(0)\nos.execv(sys.argv[1], sys.argv[1:])"


def start(settings: Settings) -> socket.socket:
    """A socket connected to a daemon that may just have been started; raises what its start ended with."""
    path = str(settings.socket)
    deadline = time.monotonic() + READY_SECONDS
    state = own_directory(settings.state_dir)
    try:
        lock = os.open("autostart.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=state)
        try:
            while (sock := connect(path)) is None:
                pidfd = holder(state)
                try:
                    if pidfd is None and locked(lock):
                        sock = start_alone(settings, state, deadline)
                        fcntl.flock(lock, fcntl.LOCK_UN)
                        if sock is not None:
                            return sock
                    if time.monotonic() > deadline:
                        raise DaemonUnreachable(
                            f"a daemon holds {settings.state_dir}, but none answers on {path} after {READY_SECONDS:g} seconds",
                            hint=unit.log_hint(settings),
                        )
                    wait(pidfd)
                finally:
                    if pidfd is not None:
                        os.close(pidfd)
            return sock
        finally:
            os.close(lock)
    finally:
        os.close(state)


def holder(state: int) -> int | None:
    """A pidfd of the daemon that holds the directory, starting or leaving; None: none does. The caller closes it."""
    try:
        lock = os.open("lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=state)
    except OSError:
        return None
    try:
        pidfd = os.pidfd_open(int(os.read(lock, 20)))
        # Only where that pid lives is the lock tried, for a moment: a daemon that starts just then would find it taken.
        if not locked(lock):
            return pidfd
        os.close(pidfd)
    except (OSError, ValueError):
        return None
    finally:
        os.close(lock)
    return None


def wait(pidfd: int | None) -> None:
    """A moment, or until that daemon ends: it makes way for ours.

    Nothing wakes us when another client gives up its lock or a socket is bound, and the wait is bounded.
    """
    poll = select.poll()
    if pidfd is not None:
        poll.register(pidfd, select.POLLIN)
    poll.poll(MOMENT)


def locked(lock: int) -> bool:
    """Whether it is we who start the daemon."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def start_alone(settings: Settings, state: int, deadline: float) -> socket.socket | None:
    """Start a daemon unless one has come meanwhile; None: another one holds the directory, and will answer soon or end."""
    path = str(settings.socket)
    if (sock := connect(path)) is not None:
        return sock
    environ = environment()
    os.close(open_log(state))  # made here, so that it is ours alone
    word = unit.start(settings, state, COMMAND, environ, deadline) or start_detached(state, environ, deadline)
    if word == b"ok":
        return connect(path)
    if not word:
        raise DaemonUnreachable(f"the daemon ended while it started{last_words(state)}", hint=unit.log_hint(settings))
    try:
        said = json.loads(word)
        error = error_of(str(said["error"]), str(said["message"]), str(said.get("hint", "")), {})
    except (ValueError, KeyError, TypeError):
        raise DaemonUnreachable(f"the daemon's start ended with {word[:200]!r}", hint=unit.log_hint(settings)) from None
    if isinstance(error, DaemonRunning):
        return None
    raise error


def environment() -> dict[str, str]:
    """What the daemon is started with."""
    environ = dict(os.environ)
    root = str(Path(sandboxd.__file__).parent.parent)
    if not root.endswith("-packages"):  # a checkout that is not installed; where it is, the path has it anyway
        environ["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return environ


def open_log(state: int) -> int:
    """daemon.log, to append to."""
    return os.open("daemon.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=state)


def start_detached(state: int, environ: dict[str, str], deadline: float) -> bytes:
    """`python -m sandboxd`, detached; what it said of its start."""
    ready, write = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            launch(state, write, {**environ, "SANDBOXD_READY_FD": str(write)})
        finally:
            os.close(write)
        return read_line(ready, deadline)
    finally:
        os.close(ready)


def launch(state: int, ready: int, environ: dict[str, str]) -> None:
    """Start it; how that went is told on `ready`."""
    log = open_log(state)
    try:
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", DETACH, *COMMAND],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", env=environ, pass_fds=[ready], start_new_session=True,
            check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError) as error:
        raise DaemonUnreachable(f"the daemon cannot be started: {error}", hint=f"run {' '.join(COMMAND)}") from error
    finally:
        os.close(log)


def read_line(ready: int, deadline: float) -> bytes:
    """What the daemon says of its start; empty when it ended without a word; raises DaemonUnreachable past the deadline."""
    poll = select.poll()
    poll.register(ready, select.POLLIN)
    said = b""
    while b"\n" not in said and len(said) < WORD_CAP:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise DaemonUnreachable(
                f"the daemon was started, but is not ready after {READY_SECONDS:g} seconds", hint="see its daemon.log"
            )
        data = os.read(ready, 4096)
        if not data:
            break
        said += data
    return said.partition(b"\n")[0]


def last_words(state: int) -> str:
    """The last line of the daemon's log, as `: LINE`."""
    try:
        log = os.open("daemon.log", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=state)
    except OSError:
        return ""
    try:
        os.lseek(log, max(0, os.fstat(log).st_size - 4096), os.SEEK_SET)
        lines = os.read(log, 4096).decode(errors="replace").strip().splitlines()
    finally:
        os.close(log)
    return f": {lines[-1]}" if lines else ""


def own_directory(path: Path) -> int:
    """The state directory, made if need be and ours alone, open; raises StoreFailed."""
    try:
        os.makedirs(path, 0o700, exist_ok=True)
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        hint = "set XDG_STATE_HOME or SANDBOXD_DIR to a directory that you can write"
        raise StoreFailed(f"cannot make the state directory {path}: {error.strerror}", hint=hint) from error
    found = os.fstat(directory)
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        os.close(directory)
        raise StoreFailed(f"{path} is not ours alone", hint=f"give it back: chown {os.geteuid()} {path}; chmod 700 {path}")
    return directory
