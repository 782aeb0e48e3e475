"""`sandbox why` against a real daemon: what waits, what ended, what was refused, in words."""

import os
from pathlib import Path

import pytest

from sandboxd.limits.openfiles import descriptors
from sandboxd.protocol.messages import Events, Remove, Run
from sandboxd.spec import EnvSpec, Service, Workspace
from tests.daemons import Daemon

WAITING = """
name = "{name}"
[services.db]
command = ["sleep", "1000"]
port = 5432
expose = "tcp"
[services.web]
command = ["sleep", "1000"]
port = 3000
depends_on = ["db"]
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A workspace."""
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def test_what_waits_for_a_dependency_says_which_and_the_last_answer_of_its_probe(shared_daemon: Daemon, place: Path) -> None:
    (place / "sandbox.toml").write_text(WAITING.format(name="waits"))
    shared_daemon.sandbox("up", "--no-wait", cwd=place)
    told = shared_daemon.sandbox("why", "waits").stdout
    assert "web waits for db, which is running (nothing listens on port 5432)" in told
    assert "db runs but is not ready: nothing listens on port 5432" in told
    assert f"{place} is writable" in told
    (found,) = shared_daemon.json("why", "waits")
    assert [answer["topic"] for answer in found["answers"]] == ["ready", "ready"]
    shared_daemon.sandbox("rm", "-f", "waits")


def test_a_limit_that_was_met_stays_known(shared_daemon: Daemon, place: Path) -> None:
    hungry = "x = b'x' * 150_000_000; import time; time.sleep(60)"
    made = shared_daemon.sandbox("run", "-d", "--name", "hungry", "-m", "64m", "--", "python3", "-c", hungry, cwd=place)
    assert made.stdout
    shared_daemon.sandbox("wait", "hungry")
    (found,) = shared_daemon.json("why", "hungry")
    assert "memory limit" in found["answers"][0]["text"]
    hit = found["limits"][-1]
    assert (hit["limit"], hit["value"]) == ("memory", 64 << 20)
    assert hit["peak"] > 64 << 20
    assert "-m" in hit["advice"]
    assert shared_daemon.json("why", "hungry", "--since", "0s")[0]["limits"] == []
    told = shared_daemon.sandbox("why", "hungry").stdout
    assert "Exited (137)" in told
    shared_daemon.sandbox("rm", "hungry")


FULL = "import os, time; f = []\ntry:\n  while True: f.append(os.open('/dev/null', 0))\nexcept OSError: time.sleep(600)"


def test_a_process_with_all_the_descriptors_it_may_have_is_told(shared_daemon: Daemon, place: Path) -> None:
    if not descriptors(os.getpid()):
        pytest.skip("this kernel does not tell how many descriptors a process has (Linux 6.2)")
    with shared_daemon.client() as client:
        events = client.stream(Events(follow=True))
        shared_daemon.sandbox("run", "-d", "--name", "full", "--ulimit", "nofile=64", "--", "python3", "-c", FULL, cwd=place)
        met = next(event for reply in events for event in reply.events if (event.event, event.name) == ("limit", "full"))
        assert met.detail["limit"] == "nofile"
        events.close()
    (found,) = shared_daemon.json("why", "full")
    assert [(hit["limit"], hit["value"], hit["peak"]) for hit in found["limits"]] == [("nofile", 64, 64)]
    assert "--ulimit nofile=128" in found["limits"][0]["advice"]
    assert any("for a moment (EMFILE)" in line for line in found["unknown"])
    shared_daemon.sandbox("rm", "-f", "full")


def test_what_ended_or_never_started_says_so(shared_daemon: Daemon, place: Path) -> None:
    shared_daemon.sandbox("run", "--name", "seven", "--", "sh", "-c", "exit 7", cwd=place, check=False)
    assert "main ended with exit code 7" in shared_daemon.sandbox("why", "seven").stdout
    shared_daemon.sandbox("run", "--name", "nope", "--", "sh", "-c", "no-such-command-at-all", cwd=place, check=False)
    assert "was not found" in shared_daemon.sandbox("why", "nope").stdout
    shared_daemon.sandbox("rm", "seven", "nope")


def test_an_env_without_url_says_why(shared_daemon: Daemon, place: Path) -> None:
    shared_daemon.sandbox("run", "-d", "--name", "mute", "--network", "none", "--", "sleep", "1000", cwd=place)
    assert "--network none" in shared_daemon.sandbox("why", "mute").stdout
    shared_daemon.sandbox("rm", "-f", "mute")
    gone = shared_daemon.sandbox("why", "mute", check=False)
    assert gone.returncode == 1
    assert "mute" in gone.stderr


def test_a_start_tells_of_each_service_as_it_comes(shared_daemon: Daemon, place: Path) -> None:
    server = ["python3", "-m", "http.server", "--bind", "127.0.0.1"]
    services = {
        "db": Service(command=[*server, "5432"], port=5432),
        "web": Service(command=[*server, "3000"], port=3000, depends_on=["db"]),
    }
    spec = EnvSpec(name="told", services=services, workspace=Workspace(path=str(place)))
    with shared_daemon.client() as client:
        seen = [
            [service.state for service in reply.env.services]
            for reply in client.stream(Run(spec=spec, wait="ready", timeout=60))
        ]
        client.call(Remove(target="told", force=True))
    assert seen[-1] == ["ready", "ready"]
    assert any(db == "ready" and web != "ready" for db, web in seen), seen
