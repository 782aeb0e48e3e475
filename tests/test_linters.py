"""Ruff and mypy as tests, so that one command is the whole gate. Caches go to a directory of the test's."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MYPY_CACHE = ROOT / ".mypy_cache"


@pytest.mark.parametrize("command", [["check", "--no-cache"], ["format", "--check", "--no-cache"]], ids=["lint", "format"])
def test_ruff(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", "ruff", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy(tmp_path: Path) -> None:
    """Strict, of the package; with the tree's own cache where that may be written, since a cold run takes long."""
    cache = MYPY_CACHE if MYPY_CACHE.is_dir() else tmp_path
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(cache)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
