"""`sandbox daemon restart`: another program takes over in the same process; no request, connection or call is lost.

So of sandboxd.daemon.succession and sandboxd.daemon.parting.
"""

import contextlib
import os
import sqlite3
import threading
import time

import pytest

from sandboxd.errors import StoreFailed
from sandboxd.protocol import messages as m
from sandboxd.spec import Ready, Service
from sandboxd.store.journal import Journal
from tests.daemon.asking import ENVIRON, inspect, remove, run, spec
from tests.daemon.crash.story import Witness
from tests.daemons import PATIENCE, cli, read_line


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


SLOW = "until test -e go; do sleep 0.05; done; exec python3 -m http.server --bind 127.0.0.1 3000"
LONG = Ready(timeout=4 * PATIENCE)


def until(holds, what):
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.05)


def test_a_run_that_waits_for_longer_than_a_restart_is_answered(shared_daemon, tmp_path):
    """Its env was made by one daemon and turns ready under the next but one."""
    answered: list[object] = []

    def ask() -> None:
        with shared_daemon.client() as client:
            answered.append(run(client, SLOW, name="slow", path=tmp_path, port=3000, ready=LONG, wait="ready"))

    def is_starting() -> bool:
        with shared_daemon.client() as client:
            return any(inspect(client, env.id).pid for env in client.call(m.List()).envs)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        until(is_starting, "it starts")
        with shared_daemon.client() as client:
            before = inspect(client, "slow")
        for _ in range(2):
            shared_daemon.sandbox("daemon", "restart")
            assert answered == []
    finally:
        (tmp_path / "go").touch()
        asking.join(60)
    assert [(env.id, env.state) for env in answered] == [(before.id, "ready")]  # type: ignore[attr-defined]
    with shared_daemon.client() as client:
        assert inspect(client, "slow").pid == before.pid
        remove(client, "slow")


def test_progress_of_a_run_goes_on_with_the_next_daemon(shared_daemon, tmp_path):
    """A streamed Run, of whose answer some has come."""
    services = {"soon": Service(command="sleep 1000"), "late": Service(command=SLOW, port=3000, ready=LONG)}
    asked = m.Run(spec=spec(services=services, name="slow", path=tmp_path), environ=ENVIRON, wait="ready")
    with shared_daemon.client() as client:
        replies = client.stream(asked)
        first = next(replies)
        assert not first.done
        shared_daemon.sandbox("daemon", "restart")
        (tmp_path / "go").touch()
        *_, last = replies
        assert (last.done, last.env.id, last.env.state) == (True, first.env.id, "ready")
        remove(client, "slow")


@pytest.mark.parametrize("removes", [False, True])
def test_an_attached_run_goes_on_and_tells_its_code(shared_daemon, tmp_path, removes):
    """Its pipes lead to the env, not to the daemon; the next one is asked how it ended."""
    script = "echo one; read word; echo got $word; exit 5"
    argv = [cli(), "run", *(["--rm"] if removes else []), "--name", "talks", "-i", "-w", tmp_path, "--", "sh", "-c", script]
    given, feed = os.pipe()
    out, written = os.pipe()
    try:
        with open(tmp_path / "errors", "wb") as errors:
            process = shared_daemon.keeper.spawn(argv, shared_daemon.environ, [given, written, errors.fileno()])
        os.close(given)
        os.close(written)
        given = written = -1
        assert read_line(out, PATIENCE) == "one"
        for _ in range(2):
            shared_daemon.sandbox("daemon", "restart")
        os.write(feed, b"two\n")
        assert read_line(out, PATIENCE) == "got two"
        assert process.wait() == 5, (tmp_path / "errors").read_text()
        process.close()
    finally:
        for fd in (given, feed, out, written):
            if fd >= 0:
                os.close(fd)
    with shared_daemon.client() as client:
        left = [env.name for env in client.call(m.List(all=True)).envs]
        assert left == ([] if removes else ["talks"])
        if left:
            assert inspect(client, "talks").exit_code == 5
            remove(client, "talks")


def test_an_attached_run_that_is_detached_after_a_restart_leaves_it_running(shared_daemon, tmp_path):
    """Its client is killed: the env is nobody's session, and runs on."""
    out, written = os.pipe()
    try:
        argv = [cli(), "run", "--name", "stays", "-w", tmp_path, "--", "sh", "-c", "echo one; sleep 1000"]
        with open(os.devnull, "r+b") as nothing:
            process = shared_daemon.keeper.spawn(argv, shared_daemon.environ, [nothing.fileno(), written, nothing.fileno()])
        os.close(written)
        written = -1
        assert read_line(out, PATIENCE) == "one"
        shared_daemon.sandbox("daemon", "restart")
        process.send_signal(9)
        process.wait()
        process.close()
    finally:
        for fd in (out, written):
            if fd >= 0:
                os.close(fd)
    with shared_daemon.client() as client:
        assert inspect(client, "stays").state == "ready"
        remove(client, "stays")


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
