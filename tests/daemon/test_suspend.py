"""Suspend and resume with real processes: nothing runs, nothing is lost, and what others stopped stays stopped.

So of sandboxd.daemon.freezing.
"""

import contextlib
import os
import secrets
import signal
import time
from pathlib import Path

import pytest

from sandboxd.daemon.freezing import look
from sandboxd.errors import InvalidState
from sandboxd.protocol import messages as m
from sandboxd.spec import Isolation, Lifecycle
from tests.daemon.asking import SERVER, ended, inspect, logged, remove, run, until
from tests.daemons import PATIENCE
from tests.require import require

# Every generation forks the next and ends: whoever walks the tree is always too late for it.
RUNAWAY = """
import os, time
if os.fork():
    open("going", "w").close()
    time.sleep(1000)
while True:
    if os.fork(): os._exit(0)
"""
FORKING = """
import os, sys, time
def child():
    while True:
        pid = os.fork()
        if not pid: os._exit(0)
        os.waitpid(pid, 0)
for _ in range(4):
    if not os.fork(): child()
open("going", "w").close()
while True: time.sleep(1)
"""
THREADS = """
import threading, time
def spin():
    while True: time.sleep(0.001)
for _ in range(8): threading.Thread(target=spin, daemon=True).start()
open("going", "w").close()
spin()
"""


def suspend(client, target):
    return client.call(m.Suspend(target=target)).env


def resume(client, target):
    return client.call(m.Resume(target=target)).env


def running(client, target):
    return [process for process in look(inspect(client, target).pid) if process.runs]


def executed(client, target):
    """Nanoseconds that each thread has been on a core (/proc/PID/task/TID/schedstat, sched-stats.rst)."""
    found = {}
    for process in look(inspect(client, target).pid):
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{process.pid}/task").iterdir():
                found[process.pid, thread.name] = int((thread / "schedstat").read_text().split()[0])
    return found


def is_still(client, target):
    """Whether nothing of it was on a core for a while; all of these wake every millisecond, or never rest. A thread is stopped
    before it is off its core, and on a busy machine that may take it another turn: so this may be asked again."""
    first = executed(client, target)
    time.sleep(0.05)
    return first and executed(client, target) == first


@pytest.fixture
def client(shared_daemon):
    with shared_daemon.client() as client:
        yield client


@pytest.mark.parametrize(
    ("program", "level"),
    [(FORKING, "full"), (FORKING, "landlock"), (THREADS, "full")],
    ids=["forks", "forks without namespaces", "threads"],
)
def test_nothing_runs_while_it_is_suspended_and_all_of_it_after(client, tmp_path, program, level):
    if level == "landlock":
        require("landlock")
    tree = f"tree-{secrets.token_hex(4)}"  # where it is tried again, the first may still be there
    env = run(client, ["python3", "-c", program], name=tree, path=tmp_path, isolation=Isolation(level=level))
    until((tmp_path / "going").exists)
    for _ in range(5):
        assert suspend(client, tree).state == "suspended"
        until(lambda: is_still(client, tree), "a moment in which nothing runs")
        assert not running(client, tree)
        first = executed(client, tree)
        assert resume(client, tree).state == "ready"
        until(lambda: running(client, tree))
    until(lambda: executed(client, tree) != first)
    assert inspect(client, tree).id == env.id
    assert remove(client, tree).leaked == {}


@pytest.mark.parametrize("level", ["full", "landlock"])
def test_what_forks_and_ends_for_ever_is_stopped_too(client, tmp_path, level):
    if level == "landlock":
        require("landlock")
    run(client, ["python3", "-c", RUNAWAY], name="runaway", path=tmp_path, isolation=Isolation(level=level))
    until((tmp_path / "going").exists)
    for _ in range(3):
        suspend(client, "runaway")
        until(lambda: is_still(client, "runaway"), "a moment in which nobody comes and nobody runs")
        resume(client, "runaway")
    assert remove(client, "runaway").leaked == {}


def test_a_job_that_was_stopped_before_is_not_woken(client, tmp_path):
    run(client, "sleep 1000 & echo $! > job; kill -STOP $!; touch going; exec sleep 1000", name="job", path=tmp_path)
    until((tmp_path / "going").exists)
    init = inspect(client, "job").pid
    # Who is to stop does so when it next gets a core, and `touch` may be there still.
    until(lambda: sorted(process.stopped for process in look(init)) == [False, True], "the job is stopped")
    before = {process.pid: process.stopped for process in look(init)}
    for _ in range(2):
        suspend(client, "job")
        assert all(process.stopped for process in look(init))
        resume(client, "job")
        until(lambda: {process.pid: process.stopped for process in look(init)} == before)
    client.call(m.Kill(target="job"))
    remove(client, "job")


def test_a_parent_in_vfork_counts_as_stopped(client, tmp_path):
    run(client, ["python3", "-c", VFORK], name="vfork", path=tmp_path)
    until((tmp_path / "f").exists)  # the start of a service is two processes for a moment, too
    until(lambda: len(look(inspect(client, "vfork").pid)) == 2, "the child")
    suspend(client, "vfork")
    assert not running(client, "vfork")
    resume(client, "vfork")
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    os.close(fd)
    assert ended(client, "vfork").exit_code == 0
    remove(client, "vfork")


def test_it_is_shown_as_paused_and_refuses_commands(shared_daemon, client, tmp_path):
    run(client, "sleep 1000", name="shown", path=tmp_path)
    assert shared_daemon.sandbox("pause", "shown").stdout == "shown\n"
    assert "(Paused)" in shared_daemon.sandbox("ps").stdout
    assert [env["name"] for env in shared_daemon.json("ps", "--filter", "status=paused")] == ["shown"]
    refused = shared_daemon.sandbox("exec", "shown", "--", "true", check=False)
    assert refused.returncode == 125
    assert "suspended" in refused.stderr
    assert "sandbox resume shown" in refused.stderr
    (row,) = shared_daemon.json("stats", "--no-stream", "shown")
    assert row["pids"] == 2
    assert row["cpu_percent"] == 0
    assert shared_daemon.sandbox("unpause", "shown").stdout == "shown\n"
    assert shared_daemon.sandbox("exec", "shown", "--", "echo", "again").stdout == "again\n"
    told = [event.event for event in client.call(m.Events(filters=["name=shown"])).events]
    assert told.index("suspended") < told.index("resumed")
    remove(client, "shown")


def test_what_has_ended_cannot_be_suspended_or_resumed(client, tmp_path):
    run(client, "true", name="over", path=tmp_path)
    ended(client, "over")
    for ask in (suspend, resume):
        with pytest.raises(InvalidState, match="it is stopped"):
            ask(client, "over")
    remove(client, "over")


def test_suspended_twice_and_resumed_twice_is_no_error(client, tmp_path):
    run(client, "sleep 1000", name="twice", path=tmp_path)
    assert [suspend(client, "twice").state, suspend(client, "twice").state] == ["suspended"] * 2
    assert [resume(client, "twice").state, resume(client, "twice").state] == ["ready"] * 2
    remove(client, "twice")


# The parent waits in the kernel until its child has executed, and a FIFO without a reader keeps it from that.
VFORK = """
import os
os.mkfifo("f")
os.posix_spawn("/bin/true", ["true"], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 1, "f", os.O_WRONLY, 0)])
"""
TRAPS = "trap 'echo goodbye; exit 7' TERM; touch going; while :; do sleep 0.05; done"


@pytest.mark.parametrize("how", ["stop", "restart", "kill", "rm", "term"])
def test_a_suspended_env_can_be_ended(client, tmp_path, how):
    run(client, TRAPS, name="last", path=tmp_path)
    until((tmp_path / "going").exists)
    suspend(client, "last")
    if how == "stop":
        assert client.call(m.Stop(target="last", timeout=PATIENCE)).env.exit_code == 7
        assert "goodbye" in logged(client, "last")
    elif how == "term":
        client.call(m.Kill(target="last", signal="TERM"))
        assert ended(client, "last").exit_code == 7
    elif how == "restart":
        assert client.call(m.Restart(target="last", timeout=PATIENCE)).env.state in {"starting", "ready"}
        assert "goodbye" in logged(client, "last")
    elif how == "kill":
        assert client.call(m.Kill(target="last")).env.exit_code == 137
    assert remove(client, "last").leaked == {}


def test_start_wakes_it(client, tmp_path):
    run(client, "sleep 1000", name="start", path=tmp_path)
    suspend(client, "start")
    reply = client.call(m.Start(target="start"))
    assert (reply.env.state, reply.changed) == ("ready", True)
    remove(client, "start")


def test_ttl_goes_on_while_it_is_suspended(client, tmp_path):
    run(client, "sleep 1000", name="brief", path=tmp_path, lifecycle=Lifecycle(ttl=0.7))
    suspend(client, "brief")
    assert ended(client, "brief").reason.startswith("ttl")
    remove(client, "brief")


def test_readiness_waits_for_the_resume(client, tmp_path):
    run(client, "touch going; while ! test -e go; do sleep 0.02; done; exec python3 -m http.server 3000",
        name="unready", path=tmp_path, port=3000)  # fmt: skip
    until((tmp_path / "going").exists)
    suspend(client, "unready")
    (tmp_path / "go").touch()
    time.sleep(0.1)
    assert inspect(client, "unready").state == "suspended"
    resume(client, "unready")
    assert client.call(m.Wait(target="unready", until="ready", timeout=PATIENCE)).env.state == "ready"
    remove(client, "unready")


def test_another_daemon_finds_it_suspended_and_can_wake_it(daemon, tmp_path):
    (tmp_path / "index.html").write_text("alive")
    with daemon.client() as client:
        run(client, [*SERVER, "3000"], name="web", path=tmp_path, port=3000, wait="ready")
        suspend(client, "web")
        (process,) = look(inspect(client, "web").pid)
    daemon.kill()
    os.kill(process.pid, signal.SIGCONT)  # as if the daemon had died before it was through
    daemon.start()
    with daemon.client() as client:
        until(lambda: inspect(client, "web").state == "suspended" and not running(client, "web"))
        assert resume(client, "web").state == "ready"
        assert daemon.request("web") == (200, b"alive")
        assert remove(client, "web").leaked == {}


def test_a_request_wakes_it_and_is_not_lost(shared_daemon, client, tmp_path):
    (tmp_path / "index.html").write_text("alive")
    run(client, [*SERVER, "3000"], name="woken", path=tmp_path, port=3000, wait="ready")
    for _ in range(3):
        suspend(client, "woken")
        assert shared_daemon.request("woken") == (200, b"alive")
        assert inspect(client, "woken").state == "ready"
    told = client.call(m.Events(filters=["name=woken", "event=resumed"])).events
    assert [event.detail["by"] for event in told] == ["request"] * 3
    client.call(m.Stop(target="woken"))
    status, page = shared_daemon.request("woken")
    assert status == 503
    assert b"Its owner stopped it" in page
    assert inspect(client, "woken").state == "stopped"
    remove(client, "woken")
