"""The daemon's start as a unit, with stand-ins for the manager's programs and for the daemon."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxd.client import Client, autostart, unit
from sandboxd.errors import DaemonUnreachable, PortTaken
from sandboxd.protocol import messages as m
from sandboxd.settings import Settings
from tests.require import require
from tests.unit.manager import manager

__all__ = ["manager"]
FAKE = Path(__file__).with_name("fake_daemon.py")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The state directory of a default daemon."""
    require("unprivileged")
    for name in ("SANDBOXD_DIR", "SANDBOXD_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(autostart, "COMMAND", (sys.executable, str(FAKE)))
    (tmp_path / "run/sandboxd").mkdir(mode=0o700)  # the stand-in makes none
    yield tmp_path / "state/sandboxd"
    try:
        with Client(autostart=False) as client:
            client.call(m.Shutdown())
    except DaemonUnreachable:
        pass


def test_a_directory_of_its_own_is_nobodys_unit(manager: Path, tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path / "run")}
    assert unit.manager(environ, 1000) == ["--user"]
    assert unit.manager({**environ, "SANDBOXD_DIR": "/x"}, 1000) is None
    assert unit.manager({"XDG_RUNTIME_DIR": str(tmp_path)}, 1000) is None


def test_its_refusal_comes_over_the_fifo(manager: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOXD_FAKE", "refuse")
    with pytest.raises(PortTaken, match="7070 is taken"), Client() as client:
        client.call(m.Status())
    calls = manager.read_text().splitlines()
    assert calls[0] == "systemctl --user start sandboxd.service"
    assert "--service-type=notify" in calls[1]
    assert len((home / "starts").read_text().splitlines()) == 1, "a daemon that said why is not started in another way"
    assert not (home / "starting").exists()
    assert (home / "daemon.log").stat().st_mode & 0o777 == 0o600


def test_a_manager_that_cannot_is_done_without(manager: Path, home: Path) -> None:
    Path(f"{manager}.broken").touch()
    with Client() as client:
        assert client.call(m.Status()).version == "fake"
    assert not (home / "starting").exists()


def test_values_never_stand_in_a_command_line(tmp_path: Path) -> None:
    environ = {"SANDBOXD_LISTEN": "127.0.0.1:1", "SECRET": "hunter2", "PYTHONPATH": "/x", "HOME": "/h", "XDG_SESSION_ID": "3"}
    settings = Settings.from_environ({"SANDBOXD_DIR": str(tmp_path)}, 1000)
    words = unit.transient(settings, ["--user"], ["python3", "-m", "sandboxd"], environ)
    assert [word for word in words if word.startswith("--setenv")] == ["--setenv=SANDBOXD_LISTEN", "--setenv=PYTHONPATH"]
    assert words[-4:] == ["--", "python3", "-m", "sandboxd"]
    assert f"StandardError=append:{tmp_path}/daemon.log" in words


INSTALLED = """#!/bin/bash
[ "$2" = show ] && echo "$SHOWN"
exit 0
"""


@pytest.mark.parametrize(
    ("shown", "hint"),
    [
        ("LoadState=loaded\nStandardError=inherit", "see journalctl --user -u sandboxd.service"),
        ("LoadState=loaded\nStandardError=append:/x/daemon.log", "daemon.log"),
        ("LoadState=not-found\nStandardError=inherit", "daemon.log"),
    ],
)
def test_what_went_wrong_is_to_be_read_where_it_was_written(
    manager: Path, home: Path, monkeypatch: pytest.MonkeyPatch, shown: str, hint: str
) -> None:
    (manager.parent / "bin/systemctl").write_text(INSTALLED)
    monkeypatch.setenv("SHOWN", shown)
    assert hint in unit.log_hint(Settings.from_environ({"XDG_STATE_HOME": str(home.parent)}, 1000))
