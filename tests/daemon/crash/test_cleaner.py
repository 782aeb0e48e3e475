"""Somebody sweeps the control socket's directory away, and clients find the daemon again. So of sandboxd.daemon.doorstep."""

import os
import shutil
import time

import pytest

from sandboxd.client import Client
from sandboxd.errors import DaemonUnreachable
from sandboxd.protocol import messages as m
from tests.daemon.asking import inspect, remove, run
from tests.daemons import PATIENCE, Daemon
from tests.require import require


@pytest.fixture
def swept(tmp_path_factory):
    """A daemon whose runtime directory is not where its state is, as with XDG_RUNTIME_DIR."""
    require("userns", "unprivileged")
    base = tmp_path_factory.mktemp("run")
    daemon = Daemon()
    del daemon.environ["SANDBOXD_DIR"]
    daemon.environ |= {"XDG_RUNTIME_DIR": str(base), "XDG_STATE_HOME": str(daemon.dir / "state")}
    (daemon.dir / "control.sock").symlink_to(base / "sandboxd" / "control.sock")
    try:
        daemon.start()
    except BaseException:
        daemon.abandon()
        raise
    try:
        yield daemon, base / "sandboxd"
    finally:
        daemon.close()


def status_of(place):
    """Who answers there, once somebody does."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            client = Client(place / "control.sock", autostart=False)
            try:
                return client.call(m.Status())
            finally:
                client.close()
        except (DaemonUnreachable, OSError):
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.mark.parametrize("what", ["socket", "directory", "moved"])
def test_clients_find_the_daemon_again(swept, tmp_path, what):
    daemon, place = swept
    with daemon.client() as connected:
        run(connected, "sleep 1000", name="kept", path=tmp_path)
        before = connected.call(m.Status())
        for _ in range(2):
            if what == "socket":
                (place / "control.sock").unlink()
            elif what == "directory":
                shutil.rmtree(place)
            else:
                os.rename(place, place.with_name(f"elsewhere-{time.monotonic_ns()}"))
            after = status_of(place)
            assert (after.pid, after.started) == (before.pid, before.started)
            assert place.stat().st_mode & 0o777 == 0o700
        assert inspect(connected, "kept").state == "ready", "who was connected stays so"
    with daemon.client() as client:
        remove(client, "kept")
