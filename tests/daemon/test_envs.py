"""An env's life through a real daemon, launcher, init and router.

So of sandboxd.daemon.envs, sandboxd.daemon.queries, sandboxd.daemon.supervisor, sandboxd.daemon.actor, sandboxd.daemon.body,
sandboxd.daemon.building, sandboxd.daemon.readiness, sandboxd.daemon.reach, sandboxd.daemon.watch, sandboxd.daemon.news and
sandboxd.daemon.receipts.
"""

import contextlib
import os
import time
from pathlib import Path

import pytest

from sandboxd.errors import InvalidState, NameTaken, NotFound, NotReady, TimedOut
from sandboxd.protocol import messages as m
from sandboxd.spec import Lifecycle, Limits, Network, Ready, Service
from tests.daemon.asking import ENVIRON, SERVER, ended, inspect, logged, remove, run, spec
from tests.daemons import PATIENCE


@pytest.fixture
def client(shared_daemon):
    with shared_daemon.client() as client:
        yield client


def gone(pid: int) -> bool:
    """It has ended; its parent may not have taken its status yet (a zombie: state Z, X while it goes; proc_pid_stat(5))."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def said(client, target, *words):
    """Wait for it to have said just that."""
    deadline = time.monotonic() + 20
    while logged(client, target).split() != list(words) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert logged(client, target).split() == list(words)


def test_a_job_runs_in_its_workspace_and_its_code_is_told(client, tmp_path):
    (tmp_path / "in.txt").write_text("hello")
    env = run(client, "cat in.txt; pwd; echo made > out.txt; echo oops >&2; exit 7", name="job", path=tmp_path)
    done = ended(client, env.id)
    assert (done.state, done.exit_code, done.services[0].exit_code) == ("failed", 7, 7)
    lines = client.call(m.Logs(target="job")).lines
    assert "".join(line.text for line in lines if line.stream == "stdout") == f"hello{tmp_path}"
    assert [line.text for line in lines if line.stream == "stderr"] == ["oops"]
    assert (tmp_path / "out.txt").read_text() == "made\n"
    assert (tmp_path / "out.txt").stat().st_uid == os.getuid()
    receipt = remove(client, "job")
    assert receipt.leaked == {}
    with pytest.raises(NotFound):
        inspect(client, "job")


def test_ready_when_it_listens_and_reached_by_name(client, shared_daemon, tmp_path):
    (tmp_path / "index.html").write_text("it is me")
    env = run(client, [*SERVER, "3000"], wait="ready", name="web", path=tmp_path, port=3000)
    assert (env.state, env.health, env.url) == ("ready", "healthy", f"http://web.localhost:{shared_daemon.port}")
    assert shared_daemon.request("web") == (200, b"it is me")
    assert shared_daemon.request(env.id) == (200, b"it is me")
    assert shared_daemon.request("main.web")[0] == 200
    assert shared_daemon.request("nobody")[0] == 404
    remove(client, "web")
    assert shared_daemon.request("web")[0] == 404


def test_a_request_right_after_the_reply_is_held_until_it_is_ready(client, shared_daemon, tmp_path):
    (tmp_path / "index.html").write_text("held")
    for number in range(5):
        slow = f"sleep 0.1; exec {' '.join(SERVER)} 3000"
        run(client, slow, name=f"held-{number}", path=tmp_path, port=3000, wait="created")
        assert shared_daemon.request(f"held-{number}") == (200, b"held")
        remove(client, f"held-{number}")


def test_the_port_is_found_out_by_itself(client, shared_daemon, tmp_path):
    env = run(client, [*SERVER, "5173"], name="found", path=tmp_path)
    assert shared_daemon.request("found")[0] == 200
    assert inspect(client, env.id).ports[0].port == 5173
    remove(client, env.id)


def test_ten_envs_of_one_project_all_own_port_3000(client, shared_daemon, tmp_path):
    for number in range(10):
        place = tmp_path / str(number)
        place.mkdir()
        (place / "index.html").write_text(f"env {number}")
        run(client, [*SERVER, "3000"], name=f"ten-{number}", path=place, port=3000)
    for number in range(10):
        assert shared_daemon.request(f"ten-{number}") == (200, f"env {number}".encode())
    for number in range(10):
        remove(client, f"ten-{number}")


def test_services_start_in_order_and_share_localhost(client, tmp_path):
    fetch = "python3 -c 'import urllib.request as u; print(u.urlopen(\"http://localhost:5432\").status)'; sleep 1000"
    services = {
        "web": Service(command=fetch, depends_on=["db"]),
        "db": Service(command=["sh", "-c", f"sleep 0.3; exec {' '.join(SERVER)} 5432"], port=5432, expose="tcp"),
    }
    env = run(client, name="pair", services=services, path=tmp_path, wait="ready")
    assert [service.state for service in env.services] == ["ready", "ready"]
    deadline = time.monotonic() + 20
    while "200" not in logged(client, "pair", service="web") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "200" in logged(client, "pair", service="web")
    remove(client, "pair")


def test_readiness_by_http_and_by_command(client, tmp_path):
    (tmp_path / "healthz").write_text("ok")
    http = Ready(http="/healthz")
    assert run(client, [*SERVER, "80"], name="byhttp", path=tmp_path, port=8080, wait="created").state != "ready"
    remove(client, "byhttp")
    env = run(client, [*SERVER, "8080"], name="byhttp", path=tmp_path, port=8080, ready=http, wait="ready")
    assert env.state == "ready"
    remove(client, "byhttp")
    command = Ready(command="test -e flag", interval=0.02)
    env = run(client, "sleep 0.2; touch flag; sleep 1000", name="bycmd", path=tmp_path, ready=command, wait="ready")
    assert (env.state, (tmp_path / "flag").exists()) == ("ready", True)
    remove(client, "bycmd")


def test_not_ready_in_time_is_told_with_its_reason_and_runs_on(client, tmp_path):
    with pytest.raises(NotReady, match="nothing listens on port 9999") as refused:
        run(client, "sleep 1000", name="late", path=tmp_path, port=9999, ready=Ready(timeout=0.3), wait="ready")
    assert "runs on" in refused.value.hint
    env = inspect(client, "late")
    assert (env.state, env.health) == ("starting", "unhealthy")
    remove(client, "late")


def test_stop_start_restart_keep_id_name_and_home(client, tmp_path):
    env = run(client, "n=$(cat ~/n 2>/dev/null); echo $((n + 1)) > ~/n; cat ~/n; exec sleep 1000", name="again", path=tmp_path)
    first = inspect(client, "again").pid
    said(client, "again", "1")
    stopped = client.call(m.Stop(target="again", timeout=1.0)).env
    assert (stopped.state, stopped.exit_code) == ("stopped", 143)
    assert gone(first)
    started = client.call(m.Start(target="again")).env
    assert (started.id, started.name) == (env.id, "again")
    said(client, "again", "1", "2")
    restarted = client.call(m.Restart(target="again", timeout=1.0)).env
    assert restarted.id == env.id
    assert inspect(client, "again").pid not in (None, first)
    said(client, "again", "1", "2", "3")
    remove(client, "again")


def test_a_deaf_tree_is_killed_whole_after_its_grace(client, tmp_path):
    deaf = "trap '' TERM; (trap '' TERM; setsid sleep 1000 & wait) & sleep 1000 & echo deaf; wait; wait"
    run(client, ["bash", "-c", deaf], name="deaf", path=tmp_path)
    said(client, "deaf", "deaf")
    pid = inspect(client, "deaf").pid
    stopped = client.call(m.Stop(target="deaf", timeout=0.2)).env
    assert (stopped.state, stopped.exit_code) == ("stopped", 137)
    assert gone(pid)
    receipt = remove(client, "deaf")
    assert receipt.leaked == {}


def test_kill_sends_any_signal(client, tmp_path):
    run(
        client, ["bash", "-c", "trap 'echo got; exit 3' USR1; echo up; while :; do sleep 0.05; done"], name="sig", path=tmp_path
    )
    deadline = time.monotonic() + 20
    while "up" not in logged(client, "sig") and time.monotonic() < deadline:
        time.sleep(0.02)
    client.call(m.Kill(target="sig", signal="USR1"))
    assert ended(client, "sig").exit_code == 3
    remove(client, "sig")
    run(client, "sleep 1000", name="sig", path=tmp_path)
    assert client.call(m.Kill(target="sig")).env.exit_code == 137
    with pytest.raises(InvalidState):
        client.call(m.Kill(target="sig"))
    remove(client, "sig")


def test_restart_policy_brings_it_back_and_counts(client, tmp_path):
    command = 'n=$(cat n 2>/dev/null || echo 0); echo $((n+1)) > n; test "$n" = 2 && exec sleep 1000; exit 1'
    run(client, command, name="flaky", path=tmp_path, lifecycle=Lifecycle(restart="on-failure:5"))
    deadline = time.monotonic() + 20
    while (env := inspect(client, "flaky")).state != "ready" or env.restarts < 2:
        assert time.monotonic() < deadline, (env.state, env.restarts)
        time.sleep(0.05)
    assert env.restarts == 2
    while (tmp_path / "n").read_text() != "3\n":
        assert time.monotonic() < deadline, (tmp_path / "n").read_text()
        time.sleep(0.05)
    remove(client, "flaky")


def test_ttl_ends_it_by_name(client, tmp_path):
    env = run(client, "sleep 1000", name="brief", path=tmp_path, lifecycle=Lifecycle(ttl=0.3))
    done = ended(client, env.id)
    assert (done.exit_code, done.reason) == (137, "ttl: its time to live of 0.3 s is over")
    remove(client, env.id)


def test_rm_by_itself_leaves_nothing(client, tmp_path):
    env = run(client, "true", name="once", path=tmp_path, lifecycle=Lifecycle(remove=True))
    with contextlib.suppress(NotFound):  # it may be gone already
        client.call(m.Wait(target=env.id, until="removed", timeout=20.0))
    assert env.id not in [e.id for e in client.call(m.List(all=True)).envs]


def test_memory_is_bounded_and_the_cause_is_named(client, tmp_path):
    hog = "import time\nx=[]\nwhile 1: x.append(bytearray(1<<20)); time.sleep(0.005)"
    env = run(client, ["python3", "-c", hog], name="hog", path=tmp_path, limits=Limits(memory=64 << 20))
    done = ended(client, env.id)
    assert done.exit_code == 137
    assert done.reason.startswith("memory: ")
    assert "64" in done.reason
    remove(client, env.id)


def test_the_number_of_processes_is_bounded(client, tmp_path):
    bomb = "import os,time\nn=0\ntry:\n  while 1:\n    if os.fork()==0: time.sleep(1000)\n    n+=1\n"
    bomb += "except OSError as e: print(n, e.errno)"
    env = run(client, ["python3", "-c", bomb], name="bomb", path=tmp_path, limits=Limits(pids=32))
    ended(client, env.id)
    count, number = logged(client, "bomb").split()
    assert int(number) == 11  # EAGAIN
    assert 20 <= int(count) <= 32
    remove(client, env.id)


def test_names_are_unique_and_free_again_after_removal(client, tmp_path):
    run(client, "sleep 1000", name="mine", path=tmp_path)
    with pytest.raises(NameTaken, match="the name mine is taken"):
        run(client, "sleep 1000", name="mine", path=tmp_path)
    remove(client, "mine")
    run(client, "true", name="mine", path=tmp_path)
    remove(client, "mine")


def test_up_takes_the_env_as_it_is_or_as_it_is_now_asked_for(client, tmp_path):
    first = run(client, "sleep 1000", name="up", path=tmp_path, exists="replace")
    same = client.call(m.Run(spec=spec("sleep 1000", name="up", path=tmp_path), environ=ENVIRON, exists="replace"))
    assert (same.env.id, same.changed) == (first.id, False)
    other = client.call(m.Run(spec=spec("sleep 2000", name="up", path=tmp_path), environ=ENVIRON, exists="replace"))
    assert (other.env.id, other.changed, other.env.command) == (first.id, True, "sleep 2000")
    with pytest.raises(InvalidState, match="another spec"):
        client.call(m.Run(spec=spec("sleep 3000", name="up", path=tmp_path), environ=ENVIRON, exists="reuse"))
    remove(client, "up")


def test_a_wait_runs_out(client, tmp_path):
    run(client, "sleep 1000", name="waits", path=tmp_path)
    with pytest.raises(TimedOut, match=r"still ready after 0\.1 s"):
        client.call(m.Wait(target="waits", until="stopped", timeout=0.1))
    remove(client, "waits")


def test_networks(client, shared_daemon, tmp_path):
    run(client, [*SERVER, "3000"], name="private", path=tmp_path, port=3000, wait="ready")
    look = "python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 3000), 2)'"
    for name, mode in (("other", "private"), ("noway", "none")):
        env = run(client, look, name=name, path=tmp_path, network=Network(mode=mode))
        assert ended(client, env.id).exit_code == 1
        assert "refused" in logged(client, name).lower()
        remove(client, name)
    serve = f'exec {" ".join(SERVER)} "$PORT"'
    run(client, serve, name="onhost", path=tmp_path, network=Network(mode="host"))
    assert shared_daemon.request("onhost")[0] == 200
    assert inspect(client, "onhost").ports[0].port != 3000
    remove(client, "onhost")
    remove(client, "private")


def test_prune_takes_only_what_ended(client, tmp_path):
    run(client, "sleep 1000", name="stays", path=tmp_path)
    env = run(client, "true", name="goes", path=tmp_path)
    ended(client, env.id)
    removed = client.call(m.Prune()).removed
    assert env.id in removed
    assert inspect(client, "stays").state == "ready"
    remove(client, "stays")


def test_stats_and_usage(client, tmp_path):
    run(client, ["python3", "-c", "x=bytearray(30<<20)\nwhile 1: pass"], name="busy", path=tmp_path)
    deadline = time.monotonic() + PATIENCE
    while True:  # until it has taken its memory and works
        (row,) = client.call(m.Stats(targets=["busy"])).stats
        if (row.memory_bytes > 30 << 20 and row.cpu_percent > 1) or time.monotonic() > deadline:
            break
        time.sleep(0.3)
    assert row.memory_bytes > 30 << 20
    assert row.cpu_percent > 1
    assert row.pids >= 1
    assert inspect(client, "busy").usage.memory_peak_bytes >= row.memory_bytes // 2
    remove(client, "busy")


def test_events_tell_the_whole_story(client, tmp_path):
    env = run(client, "exit 3", name="story", path=tmp_path)
    ended(client, env.id)
    remove(client, env.id)
    told = [event.event for event in client.call(m.Events(filters=[f"id={env.id}"])).events]
    assert told == ["created", "starting", "started", "ready", "exited", "failed", "removed"]


COUNTING = """import socket
server = socket.create_server(("127.0.0.1", 3000))
for number in range(1, 100):
    connection, _ = server.accept()
    connection.recv(65536)
    body = str(number)
    connection.sendall(f"HTTP/1.1 200 OK\\r\\nContent-Length: {len(body)}\\r\\nConnection: close\\r\\n\\r\\n{body}".encode())
    connection.close()
"""


# The pool is not for the second one: its child is another than was thought when its name was told.
@pytest.mark.parametrize("network", [Network(), Network(egress="none")], ids=["usual", "other"])
def test_who_is_told_of_an_env_may_ask_it_at_once_and_is_all_that_it_hears(client, shared_daemon, network):
    command = ["python3", "-I", "-S", "-c", COUNTING]
    env = run(client, command, port=3000, network=network, wait="created")
    answers = [shared_daemon.request(env.name) for _ in range(2)]
    remove(client, env.id)
    assert answers == [(200, b"1"), (200, b"2")]
