"""Linked worktrees, read from git's own files, and checked against git itself where it is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from sandboxd.cli.worktree import Worktree, linked


def worktree(root: Path, gitdir: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / ".git").write_text(f"gitdir: {gitdir}\n")


def test_no_git_is_none(tmp_path: Path) -> None:
    assert linked(str(tmp_path)) is None


def test_a_main_checkout_is_none(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    assert linked(str(tmp_path)) is None


def test_a_submodule_is_none(tmp_path: Path) -> None:
    worktree(tmp_path, "../.git/modules/x")
    assert linked(str(tmp_path)) is None


@pytest.mark.parametrize("text", [b"", b"garbage", b"gitdir: ", b"\xff\xfe", b"gitdir: /nonexistent/x"])
def test_a_broken_file_is_none(tmp_path: Path, text: bytes) -> None:
    (tmp_path / ".git").write_bytes(text)
    assert linked(str(tmp_path)) is None


def test_detached_is_named_by_the_worktree(tmp_path: Path) -> None:
    git = tmp_path / "shop" / ".git" / "worktrees" / "wt"
    git.mkdir(parents=True)
    (git / "HEAD").write_text("0123456789012345678901234567890123456789\n")
    worktree(tmp_path / "side", "../shop/.git/worktrees/wt")
    assert linked(str(tmp_path / "side")) == Worktree(str(tmp_path / "side"), "wt", "shop")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_as_git_makes_them(tmp_path: Path) -> None:
    def git(*args: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *args], cwd=tmp_path / "shop", check=True, capture_output=True)

    (tmp_path / "shop").mkdir()
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "x")
    git("worktree", "add", "-q", "-b", "fix/ui", "../side")
    (tmp_path / "side" / "src").mkdir()
    assert linked(str(tmp_path / "shop")) is None
    assert linked(str(tmp_path / "side" / "src")) == Worktree(str(tmp_path / "side"), "fix/ui", "shop")
