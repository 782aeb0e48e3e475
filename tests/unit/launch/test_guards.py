"""What a tree holds that somebody outside obeys: git's own orders in all their places, found and told."""

import os
import subprocess
from pathlib import Path

import pytest

import sandboxd
from sandboxd.kernel.mounts import unescaped
from sandboxd.launch.guards import guard, small_text, unguarded
from tests.require import require


def lay(tree: Path, *names: str) -> None:
    """Files, and directories where a name ends in a slash."""
    for name in names:
        path = tree / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.touch()


def of(tree: Path) -> dict[str, bool]:
    """What is protected, by path below the tree."""
    return {path.removeprefix(f"{tree}/"): is_file for path, is_file in guard([str(tree)], []).protect}


def test_git_takes_orders_in_more_than_one_place(tmp_path: Path) -> None:
    lay(tmp_path, ".git/config", ".git/hooks/", ".git/HEAD", ".git/config.worktree", ".git/objects/", "src/config")
    lay(tmp_path, *(f".git/modules/lib/deep/{name}" for name in ("HEAD", "config", "hooks/", "modules/inner/HEAD")))
    lay(tmp_path, ".git/modules/lib/deep/modules/inner/config")
    lay(tmp_path, *(f".git/worktrees/topic/{name}" for name in ("HEAD", "commondir", "gitdir", "index")))
    assert of(tmp_path) == {
        ".git/config": True, ".git/hooks": False, ".git/config.worktree": True,
        ".git/modules/lib/deep/config": True, ".git/modules/lib/deep/hooks": False,
        ".git/modules/lib/deep/modules/inner/config": True,
        ".git/worktrees/topic/commondir": True, ".git/worktrees/topic/gitdir": True,
    }  # fmt: skip
    assert str(tmp_path / ".git/modules/lib") in guard([str(tmp_path)], []).pins


def test_hooks_that_are_not_there_are_made_before_somebody_inside_makes_them(tmp_path: Path) -> None:
    lay(tmp_path, ".git/config")
    found = guard([str(tmp_path)], [])
    assert found.blank == [str(tmp_path / ".git/hooks")]
    assert found.pins == [str(tmp_path / ".git")]
    assert not (tmp_path / ".git/hooks").exists(), "looking makes nothing"
    (tmp_path / ".git/hooks").symlink_to("/nowhere")
    assert not guard([str(tmp_path)], []).blank


def test_a_submodules_own_pointer_is_one_of_them(tmp_path: Path) -> None:
    lay(tmp_path, ".git/config", ".git/hooks/", "lib/one/.git", "two/.git", "three/.git")
    (tmp_path / ".gitmodules").write_text(
        '[submodule "x"]\n\tpath = lib/one\n path="two"\npath = ../out\npath = /etc\nurl = three\n'
    )
    assert {name for name in of(tmp_path) if not name.startswith(".git/")} == {"lib/one/.git", "two/.git"}


@pytest.mark.parametrize("plant", ["mkfifo", "ln -s /dev/zero", "ln -s /dev/tty", "mkdir"])
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, plant: str) -> None:
    subprocess.run([*plant.split(), str(tmp_path / "it")], check=True)
    assert small_text(str(tmp_path / "it")) == ""


def test_a_link_in_gits_place_is_not_walked(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    lay(tmp_path / "shop", ".git/config", ".git/hooks/")
    lay(tmp_path, "big/HEAD", "big/config")
    (tmp_path / "shop/.git/modules").symlink_to(tmp_path / "big")
    assert set(of(tmp_path / "shop")) == {".git/config", ".git/hooks"}


def test_our_own_code_in_a_workspace_is_protected() -> None:
    package = os.path.dirname(os.path.realpath(sandboxd.__file__))
    found = guard([os.path.dirname(os.path.dirname(package))], [package])
    assert (package, False) in found.protect
    assert os.path.dirname(package) in found.pins


def test_what_no_mount_guards_is_told(tmp_path: Path) -> None:
    lay(tmp_path, ".git/config", ".envrc", "main.py")
    told = unguarded(os.getpid(), [(str(tmp_path), str(tmp_path))])
    assert sorted(told) == [str(tmp_path / ".envrc"), str(tmp_path / ".git/config")]
    assert unguarded(os.getpid(), [("/", "/")]) == []
    with pytest.raises(OSError, match="mountinfo"):
        unguarded(1 << 30, [("/", "/")])


def test_blanks_in_a_mount_table_are_read() -> None:
    assert unescaped(r"/a\040b\134040c\011\012") == "/a b\\040c\t\n"


def test_a_commondir_would_run_what_it_likes(tmp_path: Path) -> None:
    """Why it is on the list: with it, git obeys another config than the one that is guarded."""
    require("git")
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x", "-c", "init.defaultBranch=main"]
    for name in ("shop", "evil"):
        subprocess.run([*git, "init", "-q", str(tmp_path / name)], check=True)
    mark = tmp_path / "mark"
    subprocess.run([*git, "-C", str(tmp_path / "evil"), "config", "core.fsmonitor", f"touch {mark}; false"], check=True)
    (tmp_path / "shop/.git/commondir").write_text("../../evil/.git\n")
    subprocess.run([*git, "-C", str(tmp_path / "shop"), "status"], capture_output=True, check=False)
    assert mark.exists()


def test_a_linked_worktree_has_no_hooks_of_its_own_to_make(tmp_path: Path) -> None:
    (tmp_path / ".git").write_text("gitdir: /elsewhere/.git/worktrees/x\n")
    found = guard([str(tmp_path)], [])
    assert (found.blank, found.protect) == ([], [(str(tmp_path / ".git"), True)])


def test_a_worktrees_part_of_a_repository_is_guarded_by_itself(tmp_path: Path) -> None:
    for name in ("HEAD", "commondir", "gitdir", "index"):
        (tmp_path / name).write_text("x\n")
    assert sorted(path for path, _ in guard([str(tmp_path)], []).protect) == [
        str(tmp_path / "commondir"),
        str(tmp_path / "gitdir"),
    ]
