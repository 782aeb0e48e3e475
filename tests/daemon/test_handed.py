"""Sockets from the service manager: a real daemon that is given them as a unit is (sd_listen_fds(3)), and loses no client."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxd.client import Client
from sandboxd.daemon import handed
from sandboxd.protocol.messages import Shutdown, Status
from tests.daemons import ROOT
from tests.require import require

# A unit's descriptors begin at 3, and LISTEN_PID is its own.
AS_A_UNIT = 'for fd in $GIVEN; do eval "exec $n<&$fd"; n=$((n + 1)); done; LISTEN_PID=$$ exec "$@"'


class Unit:
    """A manager's part in a daemon's life: it makes the sockets, keeps them, and hears what it is told."""

    def __init__(self, directory: Path) -> None:
        self.dir = directory
        self.control = socket.socket(socket.AF_UNIX)
        self.control.bind(str(directory / "control.sock"))
        self.control.listen()
        self.router = socket.create_server(("127.0.0.1", 0))
        self.ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ear.bind(str(directory / "notify"))
        self.ear.settimeout(30)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the daemon, and wait until it is ready."""
        sockets = [os.dup(sock.fileno()) for sock in (self.control, self.router)]
        spare = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]  # so that none of ours has a number that is wanted
        high = [os.dup(fd) for fd in sockets]
        environ = {
            **os.environ, "SANDBOXD_DIR": str(self.dir), "PYTHONPATH": str(ROOT), "NOTIFY_SOCKET": str(self.dir / "notify"),
            "LISTEN_FDS": "2", "LISTEN_FDNAMES": "control:router", "GIVEN": " ".join(map(str, high)), "n": "3",
        }  # fmt: skip
        environ.pop("SANDBOXD_LISTEN", None)
        command = ["/bin/bash", "-c", AS_A_UNIT, "bash", sys.executable, "-m", "sandboxd"]
        with open(self.dir / "daemon.log", "ab") as log:
            self.process = subprocess.Popen(command, env=environ, pass_fds=high, stdin=subprocess.DEVNULL, stderr=log)
        for fd in (*sockets, *spare, *high):
            os.close(fd)
        while b"READY=1" not in self.ear.recv(4096):
            continue

    def stored(self) -> socket.socket:
        """The listener that the daemon asked us to keep; the caller closes it."""
        while True:
            message, fds, _, _ = socket.recv_fds(self.ear, 4096, 4)
            if b"FDSTORE=1" in message:
                assert b"FDNAME=control" in message
                return socket.socket(fileno=fds[0])

    def close(self) -> None:
        """End it all."""
        with contextlib.suppress(OSError), Client(self.dir / "control.sock", autostart=False) as client:
            client.call(Shutdown(all=True))
        if self.process is not None:
            self.process.wait(30)
        for sock in (self.control, self.router, self.ear):
            sock.close()


@pytest.fixture
def unit(tmp_path: Path) -> Iterator[Unit]:
    require("unprivileged", "userns")
    tmp_path.chmod(0o700)
    made = Unit(tmp_path)
    try:
        yield made
    finally:
        made.close()


def test_it_serves_on_what_it_was_given_and_a_crash_loses_no_client(unit: Unit) -> None:
    address = "{}:{}".format(*unit.router.getsockname())
    unit.start()
    with Client(unit.dir / "control.sock", autostart=False) as client:
        first = client.call(Status())
    assert unit.process is not None
    assert (first.pid, list(first.listen)) == (unit.process.pid, [address])
    with unit.stored() as kept:
        assert os.path.sameopenfile(kept.fileno(), unit.control.fileno())

    unit.process.send_signal(signal.SIGKILL)
    unit.process.wait()
    with Client(unit.dir / "control.sock", autostart=False) as later:
        with socket.socket(socket.AF_UNIX) as early:
            early.connect(str(unit.dir / "control.sock"))  # nobody is there, and nobody refuses
            early.sendall(b'{"method":"io.sandboxd.Control.Status"}\0')
            unit.start()
            early.settimeout(30)
            assert b'"pid"' in early.recv(65536)
        second = later.call(Status())
    assert second.pid == unit.process.pid != first.pid
    assert second.router_pid == first.router_pid
    assert list(second.listen) == [address]


def test_an_orderly_end_leaves_the_name_that_leads_to_what_is_kept(unit: Unit) -> None:
    unit.start()
    with Client(unit.dir / "control.sock", autostart=False) as client:
        client.call(Shutdown(all=True))
    assert unit.process is not None
    assert unit.process.wait(30) == 0
    with socket.socket(socket.AF_UNIX) as early:
        early.connect(str(unit.dir / "control.sock"))
        unit.start()


def test_one_that_the_name_does_not_lead_to_is_not_used(unit: Unit) -> None:
    """Somebody has replaced it: who connects would wait for ever."""
    (unit.dir / "control.sock").unlink()
    unit.start()
    with Client(unit.dir / "control.sock", autostart=False) as client:
        assert client.call(Status()).pid == (unit.process.pid if unit.process else 0)


def test_what_is_for_another_process_is_not_taken() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "control", "PATH": "/bin"}
    assert handed.take(environ) == {}
    assert environ == {"PATH": "/bin"}
