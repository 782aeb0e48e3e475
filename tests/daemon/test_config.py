"""A real daemon and its config file: read at the start, again on SIGHUP, and never half. So of sandboxd.daemon.configuring."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxd.errors import SpecInvalid
from sandboxd.protocol import messages as m
from tests.conftest import run_daemon
from tests.daemon.asking import inspect, remove, run
from tests.daemons import PATIENCE, Daemon, cli

SLEEP = "sleep 1000"


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[socket.socket]:
    """Where the service manager would hear the daemon."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(PATIENCE)
        yield sock


def say(daemon: Daemon, text: str) -> Path:
    """Write its config file."""
    file = daemon.dir / "config.toml"
    file.write_text(text)
    file.chmod(0o600)
    return file


def settings(daemon: Daemon) -> dict[str, tuple[str, str]]:
    return {row["name"]: (row["value"], row["source"]) for row in daemon.json("daemon", "config")}


def test_a_reload_changes_what_it_can_and_a_bad_file_nothing(daemon: Daemon) -> None:
    assert settings(daemon)["max_envs"] == ("1000", "usual")
    file = say(daemon, 'max_envs = 1\nqueue = 0\nmetrics = false\n[limits]\nmemory = "256m"\npids = 200\n')
    done = daemon.sandbox("daemon", "reload").stdout.splitlines()
    assert "max_envs: 1000 -> 1, now" in done
    assert "metrics: true -> false, after `sandbox daemon restart`" in done
    assert settings(daemon)["max_envs"] == ("1", f"{file}:1")
    assert settings(daemon)["limits.pids"] == ("200", f"{file}:4")
    assert settings(daemon)["metrics"] == ("true", "usual")
    with daemon.client() as client:
        run(client, SLEEP, name="first")
        assert inspect(client, "first").limits["pids"] == 200
        refused = daemon.sandbox("run", "-d", "--name", "second", "--", "sleep", "1", check=False)
        assert "1 envs are alive" in refused.stderr or "1 env is alive" in refused.stderr, refused.stderr
        file.write_text("max_envs = 2\nmax_evns = 3\n")
        with pytest.raises(SpecInvalid, match=r"config.toml:2: unknown key") as wrong:
            client.call(m.Config(reload=True))
        assert wrong.value.details["line"] == 2
        assert settings(daemon)["max_envs"] == ("1", f"{file}:1")
        remove(client, "first")


def test_a_listener_comes_with_the_file(daemon: Daemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        del daemon.environ["SANDBOXD_LISTEN"]
        with daemon.client() as client:
            client.call(m.Shutdown(all=True))
        assert daemon.process is not None
        daemon.process.wait()
        say(daemon, 'listen = ["127.0.0.1:0"]\n')
        daemon.start()
        say(daemon, f'listen = ["127.0.0.1:{port}"]\nmax_envs = 3\n')
        refused = daemon.sandbox("daemon", "reload", check=False)
        assert refused.returncode != 0
        assert str(port) in refused.stderr
        assert settings(daemon)["max_envs"][0] == "1000"  # not half
        say(daemon, f'listen = ["127.0.0.1:0", "unix:{daemon.dir}/front"]\nmax_envs = 3\n')
        daemon.sandbox("daemon", "reload")
        with daemon.client() as client:
            assert f"unix:{daemon.dir}/front" in client.call(m.Status()).listen
        assert settings(daemon)["max_envs"][0] == "3"
    with socket.socket(socket.AF_UNIX) as front:
        front.settimeout(PATIENCE)
        front.connect(str(daemon.dir / "front"))
        front.sendall(b"GET / HTTP/1.1\r\nHost: nobody.localhost\r\n\r\n")
        assert front.recv(12) == b"HTTP/1.1 404"


def test_sighup_is_told_to_the_manager_and_keeps_what_was(ear: socket.socket, tmp_path: Path) -> None:
    for daemon in run_daemon(NOTIFY_SOCKET=str(tmp_path / "notify")):
        heard = [b""]
        while b"READY=1" not in heard[-1]:
            heard.append(ear.recv(4096))
        say(daemon, "max_envs = 7\n")
        for text, expected in (("max_envs = 7\n", "7"), ("max_envs = true\n", "7"), ("", "1000")):
            (daemon.dir / "config.toml").write_text(text)
            assert daemon.process is not None
            daemon.process.send_signal(signal.SIGHUP)
            lines = next(word for word in iter(lambda: ear.recv(4096), b"") if b"RELOADING=1" in word).splitlines()
            assert lines[1].startswith(b"MONOTONIC_USEC=")
            assert next(word for word in iter(lambda: ear.recv(4096), b"") if b"READY=1" in word)
            assert settings(daemon)["max_envs"][0] == expected
        assert "the settings stay as they were" in daemon.log()


def test_a_daemon_does_not_start_with_what_cannot_be_meant(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("pool = 1\npol = 2\n")
    (tmp_path / "config.toml").chmod(0o600)
    environ = {**os.environ, "SANDBOXD_DIR": str(tmp_path)}
    asked = subprocess.run(
        [cli().parent / "sandboxd", "--check-config"], env=environ, capture_output=True, text=True, check=False
    )
    assert asked.returncode == 2
    assert f"{tmp_path}/config.toml:2: unknown key" in asked.stderr
    assert "did you mean pool" in asked.stderr
    started = subprocess.run([cli(), "ps"], env=environ, capture_output=True, text=True, check=False)
    assert f"{tmp_path}/config.toml:2" in started.stderr
    (tmp_path / "config.toml").write_text("pool = 1\n")
    asked = subprocess.run(
        [cli().parent / "sandboxd", "--check-config"], env=environ, capture_output=True, text=True, check=True
    )
    assert f"{tmp_path}/config.toml:1" in asked.stdout
