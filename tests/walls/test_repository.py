"""A linked git worktree as workspace, with real git: it works inside, and what git outside obeys stays as it is."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from sandboxd.launch.repository import Repository, mounts_of, repository_of
from tests.daemons import Daemon

IDENTITY = ("-c", "user.name=a", "-c", "user.email=a@b")


@pytest.fixture(autouse=True)
def _needs(require: Any) -> None:
    require("git", "userns", "unprivileged")


def git(where: Path, *args: str) -> str:
    """Git on the host."""
    done = subprocess.run(["git", *IDENTITY, *args], cwd=where, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def side(tmp_path: Path) -> Path:
    """A worktree, its repository `shop` beside it, and another worktree `other`."""
    (tmp_path / "shop").mkdir()
    git(tmp_path / "shop", "init", "-q", "-b", "main")
    (tmp_path / "shop" / "a.txt").write_text("one\n")
    git(tmp_path / "shop", "add", ".")
    git(tmp_path / "shop", "commit", "-q", "-m", "first")
    git(tmp_path / "shop", "worktree", "add", "-q", "-b", "fix", "../side")
    git(tmp_path / "shop", "worktree", "add", "-q", "-b", "other", "../other")
    return tmp_path / "side"


class Inside:
    """Commands in an env whose workspace is the worktree."""

    def __init__(self, daemon: Daemon, side: Path) -> None:
        self.daemon, self.side = daemon, side
        daemon.sandbox("run", "-d", "--name", "side", "--", "sleep", "600", cwd=side)

    def __call__(self, script: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.daemon.sandbox("exec", "side", "--", "sh", "-c", script, cwd=self.side, check=check)

    def git(self, *args: str) -> str:
        done = self.daemon.sandbox("exec", "side", "--", "git", *IDENTITY, *args, cwd=self.side)
        return done.stdout.strip()


@pytest.fixture
def inside(shared_daemon: Daemon, side: Path) -> Any:
    yield Inside(shared_daemon, side)
    shared_daemon.sandbox("rm", "-f", "side")


def test_git_works_inside_and_what_it_commits_is_seen_outside(inside: Inside, side: Path) -> None:
    assert inside.git("status", "--porcelain") == ""
    (side / "b.txt").write_text("two\n")
    assert inside.git("status", "--porcelain") == "?? b.txt"
    inside.git("add", ".")
    inside.git("commit", "-q", "-m", "second")
    assert git(side.parent / "shop", "log", "--format=%s", "fix") == "second\nfirst"
    assert git(side, "status", "--porcelain") == ""
    (side / "b.txt").write_text("three\n")
    inside.git("stash")
    inside.git("stash", "pop", "-q")
    inside.git("switch", "-q", "-c", "more")
    inside.git("commit", "-qam", "third")
    inside.git("rebase", "-q", "main")
    inside.git("reset", "-q", "--hard", "HEAD~1")
    assert git(side, "branch", "--show-current") == "more"
    git(side.parent / "shop", "fsck", "--strict")
    assert git(side.parent / "shop", "status", "--porcelain") == ""


@pytest.mark.parametrize(
    "write",
    [
        "echo x >> {shop}/.git/config",
        "echo x > {shop}/.git/hooks/pre-commit",
        "echo x > {shop}/.git/commondir",
        "echo x > {shop}/.git/config.worktree",
        "echo x > {shop}/.git/HEAD",
        "rm {shop}/.git/index",
        "echo x > {shop}/.git/worktrees/other/HEAD",
        "echo x > {shop}/.git/worktrees/side/commondir",
        "echo x > {shop}/.git/worktrees/side/gitdir",
        "rm {shop}/.git/worktrees/side/commondir",
        "mv {shop}/.git/worktrees/side {shop}/.git/worktrees/gone",
        "echo /etc > {shop}/.git/objects/info/alternates",
        "echo x > {side}/.git",
        "ls {shop}/a.txt",
        "git config core.fsmonitor evil",
    ],
)
def test_what_git_outside_obeys_stays_as_it_is(inside: Inside, side: Path, write: str) -> None:
    before = sorted((path, path.read_bytes()) for path in (side.parent / "shop/.git").rglob("*") if path.is_file())
    assert inside(write.format(shop=side.parent / "shop", side=side), check=False).returncode != 0
    after = sorted((path, path.read_bytes()) for path in (side.parent / "shop/.git").rglob("*") if path.is_file())
    assert after == before


def test_a_repository_that_does_not_name_the_workspace_back_is_not_shown(
    shared_daemon: Daemon, side: Path, tmp_path: Path
) -> None:
    """A file `.git` comes with any archive: it must not open a repository of its choice."""
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / ".git").write_text((side / ".git").read_text())
    look = f"ls {tmp_path}/shop/.git"
    done = shared_daemon.sandbox("run", "--rm", "--", "sh", "-c", look, cwd=foreign, check=False)
    assert "No such file or directory" in done.stderr
    assert repository_of(str(foreign), foreign.stat().st_uid) is None
    done = shared_daemon.sandbox("run", "--rm", "--", "sh", "-c", look, cwd=side)
    assert "objects" in done.stdout, "the neighbour: of the worktree itself it is"


def test_only_a_linked_worktree_of_the_same_user_counts(side: Path) -> None:
    uid = side.stat().st_uid
    shop = side.parent / "shop"
    assert repository_of(str(side), uid) == Repository(str(shop / ".git"), str(shop / ".git/worktrees/side"))
    assert repository_of(str(side), uid + 1) is None
    assert repository_of(str(shop), uid) is None
    assert repository_of(str(side.parent), uid) is None
    shown = mounts_of(Repository(str(shop / ".git"), str(shop / ".git/worktrees/side")))
    assert [Path(mount.target).name for mount in shown if mount.readonly] == [".git", "info"]
    assert {Path(mount.target).name for mount in shown if not mount.readonly} == {"objects", "refs", "logs", "side"}


@pytest.mark.parametrize("text", ["", "gitdir: ", "gitdir: /etc", "gitdir: ../nowhere", "ref: x"])
def test_a_file_that_names_nothing_is_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / ".git").write_text(text)
    assert repository_of(str(tmp_path), tmp_path.stat().st_uid) is None
