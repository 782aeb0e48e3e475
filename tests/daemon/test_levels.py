"""Isolation landlock through the daemon: reached by name, found again after the daemon's death, ended whole."""

import os
from pathlib import Path

import pytest

from sandboxd.launch.guard import TITLE, below
from sandboxd.protocol import messages as m
from sandboxd.spec import EnvSpec, Isolation, Service, Workspace
from tests.daemon.asking import inspect, living, remove, watched
from tests.require import require

SERVER = "import http.server as h, os; h.test(h.SimpleHTTPRequestHandler, port=int(os.environ['PORT']))"
STRAYS = "mkfifo up 2>/dev/null; (setsid sh -c 'setsid sleep 600 & echo >up; sleep 600' &); read _ <up"
SERVE = f'{STRAYS}; exec python3 -c "{SERVER}"'


@pytest.fixture(autouse=True)
def _landlock() -> None:
    require("landlock", "unprivileged")


@pytest.fixture(params=["landlock", "none"])
def served(request, daemon, tmp_path):
    (tmp_path / "index.html").write_text("alive")
    spec = EnvSpec(
        name="web",
        services={"web": Service(command=SERVE)},
        workspace=Workspace(path=str(tmp_path)),
        isolation=Isolation(level=request.param),
    )
    with daemon.client() as client:
        env = client.call(m.Run(spec=spec, environ=dict(os.environ), wait="ready")).env
    return daemon, env


def tree_of(env):
    """Init and all below it, and its guard."""
    guard = int(Path(f"/proc/{env.pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert Path(f"/proc/{guard}/comm").read_text().strip() == TITLE
    return [guard, env.pid, *below(env.pid)]


def test_it_is_reached_found_again_and_leaves_nothing(served):
    daemon, env = served
    level = "landlock" if env.walls["landlock"].demanded else "none"
    assert {wall for wall, info in env.walls.items() if info.enforced} == {
        "landlock": {"no_new_privs", "landlock", "seccomp"},
        "none": {"no_new_privs"},
    }[level]
    assert all(info.reason for wall, info in env.walls.items() if not info.enforced)
    assert daemon.request("web") == (200, b"alive")
    tree = tree_of(env)
    assert len(tree) >= 5
    daemon.kill()
    daemon.start()
    with daemon.client() as client:
        found = inspect(client, "web")
        assert (found.id, found.pid, found.state) == (env.id, env.pid, "ready")
    assert daemon.request("web") == (200, b"alive")
    done = daemon.sandbox(
        "exec", "web", "--", "sh", "-c", "echo $HOME; test -t 0 || echo pipe; ls / >/dev/null && echo root || true"
    )
    home, pipe, *root = done.stdout.split()
    assert home.endswith("/home")
    assert env.id in home
    assert pipe == "pipe"
    assert root == ([] if level == "landlock" else ["root"])
    with daemon.client() as client, watched(tree) as processes:
        assert client.call(m.Stop(target="web", timeout=1.0)).env.state == "stopped"
        assert remove(client, "web").leaked == {}
        assert living(processes) == []


def test_a_kill_and_a_new_start(served):
    daemon, env = served
    with daemon.client() as client, watched(tree_of(env)) as processes:
        client.call(m.Kill(target="web"))
        daemon.sandbox("wait", "web", "--for", "stopped", "--timeout", "30s")
        assert living(processes) == []
    assert daemon.sandbox("start", "web").returncode == 0
    daemon.sandbox("wait", "web", "--for", "ready", "--timeout", "30s")
    assert daemon.request("web") == (200, b"alive")
    assert daemon.sandbox("suspend", "web").returncode == 0
    assert daemon.sandbox("resume", "web").returncode == 0
    assert daemon.request("web") == (200, b"alive")


def test_run_says_what_is_lacking(daemon, tmp_path):
    done = daemon.sandbox(
        "run", "--isolation", "landlock", "-w", str(tmp_path), "--", "sh", "-c", "ls ~/../.. || cat /etc/hostname"
    )
    assert "sandbox: isolation landlock: own files and ports only" in done.stderr
    assert "Permission denied" in done.stderr, "the daemon's own directory"
    assert daemon.sandbox("run", "-w", str(tmp_path), "--", "true").stderr == ""
