"""What the daemon keeps is damaged or in the way: said in words, set aside, made anew; no env that lives is lost.

So of sandboxd.store.copies.
"""

import os
import signal
import sqlite3
import time

import pytest

from sandboxd.protocol import messages as m
from sandboxd.spec import Lifecycle
from tests.daemon.asking import ended, inspect, remove, run
from tests.daemons import PATIENCE


def spoil(path):
    """Damage a database for good."""
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.write_bytes(b"no database" * 1000)


def test_a_damaged_database_is_set_aside_and_made_anew(daemon, tmp_path):
    with daemon.client() as client:
        run(client, "sleep 1000", name="lives", path=tmp_path, labels={"a": "b"})
        run(client, "sleep 1000", name="sleeps", path=tmp_path)
        client.call(m.Stop(target="sleeps", timeout=0.5))
        before = inspect(client, "lives")
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(PATIENCE) == 0
    spoil(daemon.dir / "state.db")
    daemon.start()
    with daemon.client() as client:
        after = inspect(client, "lives")
        assert (after.id, after.pid, after.labels, after.state) == (before.id, before.pid, before.labels, before.state)
        assert inspect(client, "sleeps").state == "stopped"
        client.call(m.Start(target="sleeps"))
        for name in ("lives", "sleeps"):
            assert remove(client, name).leaked == {}
    assert [path.read_bytes()[:11] for path in daemon.dir.glob("state.db.bad-*")] == [b"no database"]
    assert "set aside" in daemon.log()


def test_a_locked_database_is_not_taken_for_a_damaged_one(daemon, tmp_path):
    with daemon.client() as client:
        env = run(client, "sleep 1000", name="kept", path=tmp_path)
        pid = inspect(client, env.id).pid
    daemon.kill()
    database = sqlite3.connect(daemon.dir / "state.db", isolation_level=None)
    try:
        database.execute("BEGIN EXCLUSIVE")
        with pytest.raises(AssertionError, match="another process has it locked"):
            daemon.start()
    finally:
        database.close()
    daemon.start()
    with daemon.client() as client:
        assert inspect(client, "kept").pid == pid
        remove(client, "kept")


def test_a_state_directory_that_cannot_be_written_is_named(daemon, tmp_path):
    with daemon.client() as client:
        ended(client, run(client, "true", name="kept", path=tmp_path).id)
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(PATIENCE) == 0
    for path in daemon.dir.glob("state.db*"):
        path.chmod(0o400)
    with pytest.raises(AssertionError, match=r"StoreFailed.*writable"):
        daemon.start()
    for path in daemon.dir.glob("state.db*"):
        path.chmod(0o600)
    daemon.start()
    with daemon.client() as client:
        assert inspect(client, "kept").exit_code == 0


def test_after_a_reboot_what_is_always_to_run_comes_back(daemon, tmp_path):
    """A reboot as the daemon sees it: no init lives, and the kernel's boot id is another than that of the records."""
    with daemon.client() as client:
        run(client, "sleep 1000", name="always", path=tmp_path, lifecycle=Lifecycle(restart="always"))
        run(client, "sleep 1000", name="once", path=tmp_path)
        pids = [inspect(client, name).pid for name in ("always", "once")]
    daemon.kill()
    with sqlite3.connect(daemon.dir / "state.db") as database:
        for env_id, record in database.execute("SELECT id, record FROM envs").fetchall():
            boot = record.partition(b'"boot_id":"')[2][:36]
            database.execute("UPDATE envs SET record = ? WHERE id = ?", (record.replace(boot, b"0" * 36), env_id))
    database.close()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    daemon.start()
    with daemon.client() as client:
        deadline = time.monotonic() + PATIENCE
        while inspect(client, "always").state != "ready" and time.monotonic() < deadline:
            time.sleep(0.05)
        assert inspect(client, "always").state == "ready"
        once = ended(client, "once")
        assert once.state == "failed"
        assert "the host was restarted" in once.reason
        for name in ("always", "once"):
            remove(client, name)
