"""SIGTERM from a service manager that is going down: the envs are stopped in order, and the next daemon goes by their policy.

So of sandboxd.daemon.farewell. The manager is a socket, and programs that answer as systemd's do; tests/vm reboots a real one.
"""

import os
import signal
import socket
import tempfile
from pathlib import Path

import pytest

from sandboxd.protocol import messages as m
from sandboxd.spec import Lifecycle
from tests.daemon.asking import inspect, remove, run
from tests.daemons import PATIENCE, Daemon

SCOPE = '#!/bin/sh\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n'
TIDY = "trap 'echo tidied up; exit 0' TERM; while :; do sleep 1000 & wait; done"


@pytest.mark.skipif(os.geteuid() == 0, reason="root's manager has one place, which may be taken")
def test_envs_of_a_host_that_ends_are_stopped_and_come_back(tmp_path):
    with tempfile.TemporaryDirectory(prefix="manager-") as run_dir, socket.socket(socket.AF_UNIX) as manager:
        private = Path(run_dir, "systemd/private")
        private.parent.mkdir()
        manager.bind(str(private))
        answering(tmp_path, "running")
        daemon = Daemon(XDG_RUNTIME_DIR=run_dir, PATH=f"{tmp_path}:{os.environ['PATH']}")
        try:
            daemon.start()
            with daemon.client() as client:
                always = run(client, TIDY, name="always", path=tmp_path, lifecycle=Lifecycle(restart="always"))
                run(client, TIDY, name="once", path=tmp_path)
                client.call(m.Wait(target="once", until="ready", timeout=PATIENCE))
                pid = inspect(client, "always").pid

            leave(daemon)  # the manager goes on, and so do they
            daemon.start()
            with daemon.client() as client:
                assert inspect(client, "always").pid == pid

            answering(tmp_path, "stopping")
            leave(daemon)
            answering(tmp_path, "running")
            daemon.start()
            with daemon.client() as client:
                once = inspect(client, "once")
                assert (once.state, once.exit_code) == ("stopped", 0)
                assert "by a logout, or with the host" in once.reason
                client.call(m.Wait(target="always", until="ready", timeout=PATIENCE))
                again = inspect(client, "always")
                assert again.pid != pid
                assert again.id == always.id
                assert "tidied up" in daemon.sandbox("logs", "always").stdout
                why = daemon.sandbox("why", "once").stdout
                assert "nothing starts it again" in why
                for name in ("always", "once"):
                    assert remove(client, name).leaked == {}
        finally:
            daemon.close()


def leave(daemon: Daemon) -> None:
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(2 * PATIENCE) == 0, daemon.log()


def answering(place: Path, state: str) -> None:
    """The manager's programs: one that makes no scope, one that tells its state."""
    for name, text in (("systemd-run", SCOPE), ("systemctl", f"#!/bin/sh\necho {state}\n")):
        (place / name).write_text(text)
        (place / name).chmod(0o755)
