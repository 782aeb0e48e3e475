"""Copies of the examples, each with what its own head says has to be done once."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemons import ROOT
from tests.require import unmet

Project = Callable[[str], Path]


def set_up(fact: str, directory: Path, *commands: list[str]) -> None:
    """Run an example's set-up steps, which fetch packages: without the registry the test cannot run."""
    for command in commands:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        if done.returncode:
            unmet(fact, f"{' '.join(command)} failed: {(done.stdout + done.stderr)[-600:]}")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """`project(name)`: a copy of examples/NAME whose files a test may change."""

    def copy(name: str) -> Path:
        target = tmp_path_factory.mktemp(name) / name
        shutil.copytree(ROOT / "examples" / name, target, ignore=shutil.ignore_patterns(".venv", "node_modules", ".vite"))
        if name == "flask-redis":
            pip = [".venv/bin/pip", "install", "--quiet", "--disable-pip-version-check", "-r", "requirements.txt"]
            set_up("pypi", target, [sys.executable, "-m", "venv", ".venv"], pip)
        elif name == "vite":
            set_up("npm-registry", target, ["npm", "install", "--no-audit", "--no-fund"])
        return target

    return copy
