"""Which project and branch a directory belongs to, where it is a linked git worktree: five of them must not share a name.

Reads git's own files (gitrepository-layout(5)), so that no git has to be there or started. Anything unexpected means: none.
"""

import os
from typing import NamedTuple

CAP = 4096


class Worktree(NamedTuple):
    """A linked worktree: its root, the branch (its own name when detached), the main checkout's directory name."""

    root: str
    branch: str
    project: str


def linked(directory: str) -> Worktree | None:
    """The linked worktree that contains the directory; None for a main checkout, or outside of git."""
    root = directory
    while not os.path.lexists(os.path.join(root, ".git")):
        parent = os.path.dirname(root)
        if parent == root:
            return None
        root = parent
    told = first_line(os.path.join(root, ".git"))
    if told is None or not told.startswith("gitdir: "):
        return None
    gitdir = os.path.normpath(os.path.join(root, told.removeprefix("gitdir: ")))
    parent, name = os.path.split(gitdir)
    if os.path.basename(parent) != "worktrees":  # a submodule has a .git file too
        return None
    head = first_line(os.path.join(gitdir, "HEAD")) or ""
    branch = head.removeprefix("ref: refs/heads/") if head.startswith("ref: refs/heads/") else name
    common = os.path.dirname(parent)
    main = os.path.dirname(common) if os.path.basename(common) == ".git" else common.removesuffix(".git")
    return Worktree(root, branch, os.path.basename(main))


def first_line(path: str) -> str | None:
    """A small file's first line; None when it cannot be read or is no file."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:  # a pipe, made inside
            return (file.read(CAP) or b"").split(b"\n", 1)[0].decode("utf-8", "replace").strip()
    except OSError:
        return None
