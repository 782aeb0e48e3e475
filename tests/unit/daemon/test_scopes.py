"""Who gets a scope of its own, and what happens where none can be had."""

import asyncio
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from sandboxd.daemon import scopes
from sandboxd.errors import LaunchFailed
from sandboxd.launch.client import Launcher
from tests.require import require
from tests.unit.manager import manager

__all__ = ["manager"]


def test_without_a_manager_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    require("unprivileged")
    assert scopes.scope("envs", scopes.ENVS) == []
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert scopes.scope("envs", scopes.ENVS) == []


def test_each_scope_has_a_name_of_its_own(manager: Path) -> None:
    require("unprivileged")
    first, second = (scopes.scope("envs", scopes.ENVS) for _ in range(2))
    names = [word for words in (first, second) for word in words if word.startswith("--unit=")]
    assert all(re.fullmatch(r"--unit=sandboxd-envs-[0-9a-f]{8}\.scope", name) for name in names)
    assert len(set(names)) == 2
    assert {"--user", "--scope", "Delegate=yes", "--slice=sandboxd-envs.slice"} <= set(first)
    assert "Delegate=yes" not in scopes.scope("router", scopes.ROUTER)
    assert "Before=sandboxd.service" in first
    transient = Path(os.environ["XDG_RUNTIME_DIR"], "systemd", "transient", "sandboxd.service")
    transient.parent.mkdir(exist_ok=True)
    transient.touch()
    assert "Before=sandboxd.service" not in scopes.scope("envs", scopes.ENVS)
    transient.unlink()


def environ_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes().strip(b"\0")


def test_the_launcher_starts_in_it_and_has_no_environment(manager: Path, tmp_path: Path) -> None:
    require("unprivileged", "userns")

    async def main() -> bytes:
        launcher = await scopes.outliving(
            "envs", scopes.ENVS, lambda prefix: Launcher.start(pool=0, log=tmp_path / "log", prefix=prefix)
        )
        try:
            return environ_of(launcher.pid)
        finally:
            launcher.close()

    assert asyncio.run(main()) == b""
    assert "--scope" in manager.read_text()


def test_one_that_cannot_be_had_is_done_without(manager: Path, caplog: pytest.LogCaptureFixture) -> None:
    require("unprivileged")
    tried: list[Sequence[str]] = []

    async def start(prefix: Sequence[str]) -> str:
        tried.append(prefix)
        if prefix:
            raise LaunchFailed("no such luck", step="launcher")
        return "started"

    assert asyncio.run(scopes.outliving("envs", scopes.ENVS, start)) == "started"
    assert [bool(prefix) for prefix in tried] == [True, False]
    assert "no scope for the envs" in caplog.text
    assert os.path.basename(tried[0][0]) == "systemd-run"
