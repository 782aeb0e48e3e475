"""`sandbox doctor` for real: as an ordinary user, where something was taken away, and where no daemon can start."""

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.daemons import INHERITED, ROOT, Daemon, cli

# In a user and mount namespace of its own something is taken away, and then the real command runs.
LACKING = """
import os, sys
sys.path.insert(0, {root!r})
from sandboxd.kernel import mounts, namespaces
uid, gid = os.getuid(), os.getgid()
namespaces.unshare(namespaces.NEWUSER | namespaces.NEWNS)
namespaces.write_proc("/proc/self/setgroups", b"deny")
namespaces.write_proc("/proc/self/uid_map", b"%d %d 1" % (uid, uid))
namespaces.write_proc("/proc/self/gid_map", b"%d %d 1" % (gid, gid))
mounts.mount(None, "/", mounts.MS_REC | mounts.MS_PRIVATE)
{code}
os.execv(sys.argv[1], sys.argv[1:])
"""
NO_USERNS = 'namespaces.write_proc("/proc/sys/user/max_user_namespaces", b"0")'
NO_NETNS = 'namespaces.write_proc("/proc/sys/user/max_net_namespaces", b"0")'
MASKED = 'mounts.mount("tmpfs", "/proc/sys", 0, "size=4k"); mounts.mount("tmpfs", "/proc/irq", 0, "size=4k")'


@pytest.fixture(autouse=True)
def _needs(require: Any) -> None:
    require("userns", "unprivileged")


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A daemon's directory that nobody has used, and an address that is free."""
    given = {name: os.environ[name] for name in INHERITED if name in os.environ}
    given |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "SANDBOXD_DIR": str(tmp_path / "state")}
    return given | {"SANDBOXD_LISTEN": "127.0.0.1:0"}


def doctor(environ: Mapping[str, str], *args: str, code: int | None = 0, without: str = "") -> Any:
    """The JSON that `sandbox doctor` prints. without: what to take away before."""
    command = [str(cli()), "doctor", *args, "--format", "json"]
    if without:
        command = [sys.executable, "-c", LACKING.format(root=str(ROOT), code=without), *command]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert code in (None, done.returncode), done.stdout + done.stderr
    (line,) = done.stdout.splitlines()
    return json.loads(line)


def check(report: Any, id: str) -> Any:
    (found,) = [one for one in report["checks"] if one["id"] == id]
    return found


def test_an_ordinary_user_is_told_what_this_machine_gives(environ: dict[str, str], tmp_path: Path) -> None:
    report = doctor(environ, code=None)
    assert check(report, "wall.user")["offered"] is True
    assert report["tier"] in ("T0", "T2")
    assert check(report, "limit.cgroup")["offered"] is (report["tier"] == "T0")
    assert check(report, "limit.memory")["offered"] is True
    assert check(report, "feature.overlay")["group"] == "features"
    assert [tier["id"] for tier in report["tiers"]] == ["T0", "T1", "T2", "T3"]
    assert {"id", "group", "name", "status", "offered", "reason", "fix", "fixable"} == set(report["checks"][0])
    assert check(report, "names.getaddrinfo")["status"] in ("ok", "warn")
    assert check(report, "daemon.socket")["name"].startswith("no daemon runs")
    assert not (tmp_path / "state").exists(), "a look makes nothing and starts nothing"


def test_the_table_is_for_people(environ: dict[str, str]) -> None:
    done = subprocess.run([cli(), "doctor"], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.startswith("sandboxd ")
    assert "\nWalls\n" in done.stdout
    assert "user namespace" in done.stdout
    assert "\x1b" not in done.stdout, "colours are for terminals"
    assert "isolation level 'full'" in done.stdout.splitlines()[-1]


def test_without_user_namespaces_it_is_t1_with_the_sysctl(environ: dict[str, str]) -> None:
    report = doctor(environ, code=1, without=NO_USERNS)
    assert (report["tier"], report["well"]) == ("T1", False)
    found = check(report, "wall.user")
    assert (found["status"], found["offered"]) == ("fail", False)
    assert found["reason"] == "user.max_user_namespaces is 0"
    assert found["fix"].endswith("sudo sysctl -w user.max_user_namespaces=10000")
    assert doctor(environ, "--isolation", "none", code=0, without=NO_USERNS)["well"]


def test_a_single_wall_that_is_missing_is_the_one_that_is_named(environ: dict[str, str]) -> None:
    report = doctor(environ, code=1, without=NO_NETNS)
    missing = [one["id"] for one in report["checks"] if one["group"] == "walls" and one["status"] == "fail"]
    assert missing == ["wall.net"]


def test_a_masked_proc_gives_a_container_away(environ: dict[str, str]) -> None:
    report = doctor(environ, code=1, without=MASKED)
    assert report["tier"] == "T3"
    found = check(report, "wall.proc")
    assert "masks parts of /proc" in found["reason"]
    assert "outside the container" in found["fix"]


def test_a_fix_that_needs_root_is_listed_and_not_tried_without(environ: dict[str, str]) -> None:
    report = doctor(environ, "--fix", code=1, without=NO_USERNS)
    (fix,) = [fix for fix in report["fixes"] if fix["kind"] == "sysctl"]
    assert (fix["done"], fix["error"], fix["before"]) == (False, "needs root", "0")


# -- where no daemon can start


def test_a_state_directory_that_cannot_be_made_is_named(environ: dict[str, str]) -> None:
    nowhere = environ | {"SANDBOXD_DIR": "/proc/nowhere"}
    report = doctor(nowhere, code=1)
    assert "cannot" in check(report, "daemon.state")["reason"]
    done = subprocess.run([cli(), "ps"], env=nowhere, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 125, "nor does a daemon start there"


def test_a_port_that_somebody_has_is_named_with_who(environ: dict[str, str], tmp_path: Path) -> None:
    """The config file says which port, and the environment nothing."""
    del environ["SANDBOXD_LISTEN"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        (tmp_path / "state").mkdir(0o700)
        (tmp_path / "state" / "config.toml").write_text(f'listen = ["{address}"]')
        found = check(doctor(environ, code=1), f"daemon.port.{address}")
        assert f"(pid {os.getpid()}) has it" in found["reason"]
        assert "SANDBOXD_LISTEN" in found["fix"]


def test_settings_that_cannot_be_meant_do_not_hide_the_rest(environ: dict[str, str]) -> None:
    report = doctor(environ | {"SANDBOXD_POOL": "many"}, code=None)
    assert "SANDBOXD_POOL" in check(report, "look.settings")["reason"]
    assert check(report, "wall.user")["offered"] is True


# -- with a daemon, and what one leaves


def test_a_daemon_that_lives_is_asked(shared_daemon: Daemon) -> None:
    listen = {"SANDBOXD_LISTEN": f"127.0.0.1:{shared_daemon.port}"}
    report = doctor(shared_daemon.environ | listen, code=None)
    assert "the daemon runs" in check(report, "daemon.socket")["name"]
    assert check(report, f"daemon.port.127.0.0.1:{shared_daemon.port}")["status"] == "ok"
    assert not [one for one in report["checks"] if one["id"] in ("daemon.version", "daemon.strays")]


def test_what_a_killed_daemon_leaves_is_seen_and_only_the_socket_is_removed(daemon: Daemon, tmp_path: Path) -> None:
    daemon.sandbox("run", "-d", "--name", "left", "--", "sleep", "1000", cwd=tmp_path)
    (daemon.dir / "envs" / ("0" * 32)).mkdir()
    daemon.kill()
    report = doctor(daemon.environ, code=None)
    assert check(report, "daemon.socket")["reason"].startswith("a daemon that was killed")
    assert "0" * 32 in check(report, "daemon.strays")["reason"]
    assert check(report, "daemon.orphans")["reason"].startswith("left: ")
    planned = doctor(daemon.environ, "--fix", "--dry-run", code=None)
    assert [fix["done"] for fix in planned["fixes"] if fix["kind"] == "socket"] == [False]
    assert (daemon.dir / "control.sock").exists()
    fixed = doctor(daemon.environ, "--fix", code=None)
    (fix,) = [fix for fix in fixed["fixes"] if fix["kind"] == "socket"]
    assert (fix["done"], fix["after"]) == (True, "removed")
    assert not (daemon.dir / "control.sock").exists()
    assert (daemon.dir / "envs" / ("0" * 32)).exists(), "never more than what was listed"
    daemon.start()
    assert [env["name"] for env in daemon.json("ps")] == ["left"]


def test_a_directory_that_others_get_into_is_closed(environ: dict[str, str], tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(0o755)
    assert check(doctor(environ, code=None), "daemon.state")["fixable"] == "user"
    doctor(environ, "--fix", "--dry-run", code=None)
    assert stat.S_IMODE(state.stat().st_mode) == 0o755
    report = doctor(environ, "--fix", code=None)
    (fix,) = [fix for fix in report["fixes"] if fix["kind"] == "mode"]
    assert (fix["before"], fix["after"], fix["done"]) == ("0755", "0700", True)
    assert check(report, "daemon.state")["status"] == "ok", "it looked again"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700


@pytest.mark.parametrize("words", [("--dry-run",), ("--format", "{{.Tier}}")])
def test_what_cannot_be_meant_is_a_usage_error(environ: dict[str, str], words: tuple[str, ...]) -> None:
    done = subprocess.run([cli(), "doctor", *words], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "hint:" in done.stderr
