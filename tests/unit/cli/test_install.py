"""`daemon install` with a stand-in for systemctl: what is written, what is asked of the manager, what a refusal says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sandboxd.cli import install, linger
from tests.daemons import ROOT, cli
from tests.require import require

CTL = '#!/bin/sh\necho "$*" >>"$LOG"\n[ ! -e "$LOG.broken" ] || { echo "Failed to connect to bus" >&2; exit 1; }\n'


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    require("unprivileged")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/systemctl").write_text(CTL)
    (tmp_path / "bin/systemctl").chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "LOG": str(tmp_path / "calls"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "SANDBOXD_DIR": str(tmp_path / "state"),
        "PYTHONPATH": str(ROOT),
    }


def sandbox(environ: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([cli(), "daemon", *words], env=environ, capture_output=True, text=True, check=False)


def test_units_are_written_for_this_interpreter_enabled_and_removed(environ: dict[str, str], tmp_path: Path) -> None:
    done = sandbox(environ, "install")
    assert done.returncode == 0, done.stderr
    service = tmp_path / "config/systemd/user/sandboxd.service"
    assert str(service) in done.stdout
    text = service.read_text()
    assert f"ExecStart={Path(sys.executable).parent}/python" in text
    assert "@" not in "".join(line for line in text.splitlines() if line[:1] != "#" and "~@" not in line)
    assert "NoNewPrivileges=yes" in text
    assert f"PYTHONPATH={ROOT}" in text
    calls = (tmp_path / "calls").read_text().splitlines()[1:]
    assert calls == ["--user daemon-reload", "--user enable --now sandboxd.socket sandboxd.service"]

    settings = tmp_path / "config/sandboxd/env"
    settings.write_text("SANDBOXD_POOL=2\n")
    assert sandbox(environ, "install").returncode == 0
    assert settings.read_text() == "SANDBOXD_POOL=2\n", "what its owner wrote stays"

    assert sandbox(environ, "uninstall").returncode == 0
    assert not service.exists()
    assert settings.exists()
    assert "--user disable --now sandboxd.socket sandboxd.service" in (tmp_path / "calls").read_text()
    assert "nothing of ours" in sandbox(environ, "uninstall").stderr


def test_a_manager_that_refuses_is_quoted(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "calls.broken").touch()
    done = sandbox(environ, "install")
    assert done.returncode != 0
    assert "Failed to connect to bus" in done.stderr


def test_the_systems_units_are_roots_to_install(environ: dict[str, str], tmp_path: Path) -> None:
    done = sandbox(environ, "install", "--system")
    assert done.returncode != 0
    assert "sudo sandbox daemon install --system" in done.stderr
    assert not (tmp_path / "calls").exists()


@pytest.mark.parametrize("system", [False, True])
def test_every_file_of_ours_is_installed_from_somewhere(system: bool) -> None:
    for name, path in install.places(system=system).items():
        assert install.text_of(name).startswith(install.MARK)
        assert path.name in ("env", Path(name).name)


def test_a_linger_file_is_what_counts(tmp_path: Path) -> None:
    """Where no manager of ours runs, none would end our processes."""
    uid = os.geteuid()
    if uid == 0 or not Path(f"/run/user/{uid}/systemd").exists():
        assert linger.lingers(str(tmp_path))
    else:
        assert not linger.lingers(str(tmp_path))
