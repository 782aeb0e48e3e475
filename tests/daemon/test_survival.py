"""A daemon that is stopped or killed leaves its envs running, and the next one finds them again.

So of sandboxd.daemon.adopt and sandboxd.daemon.main.
"""

import os
import signal
import socket
import time

import pytest

from sandboxd.errors import WorkspaceInvalid
from sandboxd.protocol import messages as m
from sandboxd.spec import Lifecycle, Network, Publish
from tests.conftest import run_daemon
from tests.daemon.asking import SERVER, ended, inspect, living, logged, remove, run, watched
from tests.daemons import PATIENCE


def listing(daemon):
    with daemon.client() as client:
        return {env.name: env for env in client.call(m.List(all=True)).envs}


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_envs_outlive_the_daemon_and_are_found_again(served, how):
    daemon, env, pid = served
    if how == "kill":
        daemon.kill()
    else:
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait() == 0
    assert daemon.request("web") == (200, b"alive")
    daemon.start()
    with daemon.client() as client:
        found = inspect(client, "web")
        assert (found.id, found.pid, found.state) == (env.id, pid, "ready")
    assert daemon.request("web") == (200, b"alive")
    with daemon.client() as client, watched([pid]) as processes:
        assert client.call(m.Stop(target="web", timeout=1.0)).env.state == "stopped"
        assert remove(client, "web").leaked == {}
        assert living(processes) == []


def test_an_open_connection_survives_the_daemon(served):
    daemon, _, _ = served
    with socket.create_connection(("127.0.0.1", daemon.port), PATIENCE) as sock:
        ask = f"GET / HTTP/1.1\r\nHost: web.localhost:{daemon.port}\r\n\r\n".encode()
        sock.sendall(ask)
        assert b"200" in sock.recv(4096)
        daemon.kill()
        daemon.start()
        sock.settimeout(PATIENCE)
        while True:
            sock.sendall(ask)
            head = sock.recv(65536)
            assert head, "the connection was closed"
            if b"HTTP/1.0 200" in head or b"HTTP/1.1 200" in head:
                break


def test_what_ended_meanwhile_is_told_with_its_code(daemon, tmp_path):
    with daemon.client() as client:
        env = run(client, "while ! test -e go; do sleep 0.02; done; echo last words; exit 9", name="job", path=tmp_path)
    daemon.kill()
    (tmp_path / "go").touch()
    exits = daemon.dir / "envs" / env.id / "exits"
    deadline = time.monotonic() + PATIENCE
    while not exits.read_bytes().strip() and time.monotonic() < deadline:
        time.sleep(0.02)
    daemon.start()
    with daemon.client() as client:
        done = ended(client, env.id)
        assert (done.state, done.exit_code) == ("failed", 9)
        assert "last words" in logged(client, "job")


def test_an_env_killed_meanwhile_is_a_failure_with_its_reason(served):
    daemon, env, pid = served
    daemon.kill()
    os.kill(pid, signal.SIGKILL)
    daemon.start()
    with daemon.client() as client:
        done = ended(client, env.id)
        assert (done.state, done.exit_code) == ("failed", 137)
        assert "while no daemon ran" in done.reason


def test_a_killed_init_is_restarted_by_its_policy(daemon, tmp_path):
    with daemon.client() as client:
        run(client, "sleep 1000", name="back", path=tmp_path, lifecycle=Lifecycle(restart="always"))
        first = inspect(client, "back").pid
        os.kill(first, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while inspect(client, "back").pid in (None, first) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert inspect(client, "back").pid not in (None, first)
        assert inspect(client, "back").restarts == 1
        remove(client, "back")


@pytest.mark.parametrize("which", ["launcher_pid", "router_pid"])
def test_a_killed_launcher_or_router_is_replaced(served, which):
    daemon, _, _ = served
    with daemon.client() as client:
        first = getattr(client.call(m.Status()), which)
        os.kill(first, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while getattr(client.call(m.Status()), which) == first and time.monotonic() < deadline:
            time.sleep(0.05)
        assert daemon.request("web") == (200, b"alive")  # on the port that it had
        assert ended(client, run(client, "true", name="after").id).exit_code == 0
        remove(client, "after")


def test_the_port_that_the_kernel_chose_stays_when_router_and_daemon_are_killed(served):
    daemon, _, _ = served
    with daemon.client() as client:
        router = client.call(m.Status()).router_pid
    port = daemon.port
    daemon.kill()
    os.kill(router, signal.SIGKILL)
    daemon.start()  # asks for port 0, as the first one did
    assert daemon.port == port
    assert daemon.request("web") == (200, b"alive")


def test_a_launch_outlives_its_launcher(tmp_path):
    """What the launcher was asked for when it died is asked of the next one."""
    for daemon in run_daemon(SANDBOXD_POOL="0"):
        with daemon.client() as client:
            launcher = client.call(m.Status()).launcher_pid
            os.kill(launcher, signal.SIGSTOP)
            env = run(client, "sleep 1000", name="late", path=tmp_path, wait="created")
            assert inspect(client, env.id).state == "starting"
            os.kill(launcher, signal.SIGKILL)
            assert client.call(m.Wait(target="late", until="ready", timeout=PATIENCE)).env.state == "ready"
            remove(client, "late")


@pytest.mark.parametrize("which", ["router", "router, launcher and init"])
def test_a_published_port_is_there_again_behind_a_new_router(daemon, tmp_path, which):
    (tmp_path / "index.html").write_text("raw")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with daemon.client() as client:
        published = Network(publish=[Publish(host_port=port, port=3000)])
        parts = {"network": published, "lifecycle": Lifecycle(restart="always")}
        pid = run(client, [*SERVER, "3000"], name="raw", path=tmp_path, port=3000, wait="ready", **parts).pid
        status = client.call(m.Status())
        first = status.router_pid
        for victim in [first] if which == "router" else [pid, status.launcher_pid, first]:
            os.kill(victim, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while client.call(m.Status()).router_pid == first and time.monotonic() < deadline:
            time.sleep(0.05)  # its workers serve on until then
        answer = b""
        while b"raw" not in answer and time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
                    sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    answer = b"".join(iter(lambda: sock.recv(4096), b""))
            except OSError:
                time.sleep(0.05)
        assert answer.endswith(b"raw")
        assert client.call(m.Status()).router_pid != first
        remove(client, "raw")


def test_what_was_forwarded_ends_with_its_daemon_and_what_is_published_stays(daemon, tmp_path):
    """Of `sandboxd.daemon.forwarding`: the router listens on until the next daemon, which knows of nobody who asked."""
    (tmp_path / "index.html").write_text("raw")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with daemon.client() as client:
        published = Network(publish=[Publish(host_port=port, port=3000)])
        run(client, [*SERVER, "3000"], name="fwd", path=tmp_path, port=3000, network=published, wait="ready")
        forward = client.stream(m.Forward(target="fwd", port=3000))
        other = int(next(forward).env.ports[0].address.rpartition(":")[2])
        assert other != port
        assert answers(port)
        assert answers(other)
        daemon.kill()
        assert answers(other)
    daemon.start()
    deadline = time.monotonic() + PATIENCE
    while answers(other):
        assert time.monotonic() < deadline, "nobody has it closed"
        time.sleep(0.05)
    assert answers(port)
    with daemon.client() as client:
        remove(client, "fwd")


def answers(port):
    """Whether a server is to be had there."""
    try:
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
            sock.settimeout(PATIENCE)
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return b"".join(iter(lambda: sock.recv(4096), b"")).endswith(b"raw")
    except (ConnectionRefusedError, ConnectionResetError):
        return False


def test_restart_of_what_cannot_start_says_so(daemon, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    with daemon.client() as client:
        env = run(client, "true", name="moved", path=place)
        ended(client, env.id)
        place.rename(tmp_path / "elsewhere")
        for ask in (m.Restart(target="moved"), m.Start(target="moved")):
            with pytest.raises(WorkspaceInvalid, match="place"):
                client.call(ask)
        assert inspect(client, "moved").state == "failed"
        (tmp_path / "elsewhere").rename(place)
        client.call(m.Start(target="moved"))
        assert ended(client, env.id).exit_code == 0


def test_a_ttl_goes_on_counting_over_a_restart(daemon, tmp_path):
    with daemon.client() as client:
        env = run(client, "sleep 1000", name="brief", path=tmp_path, lifecycle=Lifecycle(ttl=1.0))
    daemon.kill()
    daemon.start()
    with daemon.client() as client:
        assert ended(client, env.id).reason.startswith("ttl")


def test_a_directory_without_a_record_is_swept(daemon):
    stray = daemon.dir / "envs" / ("f" * 32)
    daemon.kill()
    (stray / "home" / "deep").mkdir(parents=True)
    daemon.start()
    assert not stray.exists()
