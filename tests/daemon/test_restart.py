"""`sandbox daemon restart`: another program takes over in the same process; no request, connection or call is lost.

So of sandboxd.daemon.succession.
"""

import contextlib
import sqlite3
import threading

import pytest

from sandboxd.errors import StoreFailed
from sandboxd.protocol import messages as m
from sandboxd.store.journal import Journal
from tests.daemon.asking import inspect, remove
from tests.daemon.crash.story import Witness


def test_envs_connections_and_callers_see_no_gap(served):
    daemon, _, pid = served
    witness = Witness(daemon, "web", b"alive")
    witness.ask()
    with daemon.client() as client:
        before = client.call(m.Status())
    ended: list[str] = []

    def wait() -> None:
        with daemon.client() as client:
            ended.append(client.call(m.Wait(target="web", until="stopped", timeout=60.0)).env.state)

    waiting = threading.Thread(target=wait)
    waiting.start()
    try:
        for _ in range(2):
            said = daemon.sandbox("daemon", "restart").stderr
            assert f"pid {before.pid}" in said
            witness.ask()
            assert daemon.request("web") == (200, b"alive")
        with daemon.client() as client:
            after = client.call(m.Status())
            assert (after.pid, after.listen, after.router_pid) == (before.pid, before.listen, before.router_pid)
            assert after.started > before.started
            assert inspect(client, "web").pid == pid
    finally:
        with daemon.client() as client:
            client.call(m.Stop(target="web", timeout=1.0))
        waiting.join(60)
        witness.close()
    assert ended == ["stopped"], "who waits over a restart is answered by the next daemon"


def test_requests_and_calls_during_restarts_are_all_answered(served):
    daemon, _, _ = served
    over = threading.Event()
    failed: list[object] = []
    counts = {"requests": 0, "calls": 0}

    def request() -> None:
        while not over.is_set():
            try:
                assert daemon.request("web") == (200, b"alive")
                counts["requests"] += 1
            except (OSError, AssertionError) as error:
                failed.append(error)

    def call() -> None:
        with daemon.client() as client:
            while not over.is_set():
                try:
                    assert client.call(m.Inspect(target="web")).env.state == "ready"
                    counts["calls"] += 1
                except Exception as error:
                    failed.append(error)

    threads = [threading.Thread(target=work) for work in (request, request, call, call)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            daemon.sandbox("daemon", "restart")
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
    assert failed == []
    assert min(counts.values()) > 0


def test_a_successor_that_cannot_read_the_state_is_refused_and_nothing_changes(served):
    daemon, _, pid = served
    set_schema(daemon, "99")
    with daemon.client() as client:
        started = client.call(m.Status()).started
        with pytest.raises(StoreFailed, match="newer sandboxd"):
            client.call(m.Shutdown(again=True))
        assert client.call(m.Status()).started == started
        assert inspect(client, "web").pid == pid
    refused = daemon.sandbox("daemon", "restart", check=False)
    assert (refused.returncode, "newer sandboxd" in refused.stderr) == (125, True)
    with daemon.client() as client:
        remove(client, "web")
    set_schema(daemon, "1")


def test_a_record_of_a_newer_sandboxd_is_refused_and_kept(daemon):
    env_id = "0" * 32
    newer = b'{"version": 99, "id": "00000000000000000000000000000000"}'
    daemon.kill()
    with contextlib.closing(Journal(daemon.dir / "state.db")) as journal:
        journal.put(env_id, newer)
    with pytest.raises(AssertionError, match="newer sandboxd: the record of env 000000000000 has version 99"):
        daemon.start()
    with contextlib.closing(Journal(daemon.dir / "state.db")) as journal:
        assert journal.all() == [(env_id, newer)]
        journal.remove(env_id)
    daemon.start()


def set_schema(daemon, value):
    with sqlite3.connect(daemon.dir / "state.db") as database:
        database.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (value,))
    database.close()
