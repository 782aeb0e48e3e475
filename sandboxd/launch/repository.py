"""The repository of a linked git worktree: it lies elsewhere, and without it no git works in the workspace.

Imports the standard library and `isolation.facts`. The workspace's file `.git` names it (gitrepository-layout(5)), and a file
comes with any archive; so it counts only if the repository names the workspace back, as `git worktree add` wrote it, and both
are the same user's. Shown read-only at its own path, and writable where a commit writes: objects, refs, logs, and
this worktree's own part. Hooks, config, other worktrees and the main checkout's index are read-only: git outside obeys them.
"""

import os
from typing import NamedTuple

from sandboxd.isolation.facts import MountFact

# git(1) 2.39: what add, commit, branch, stash, merge and rebase write besides the worktree's own directory.
WRITTEN = ("objects", "refs", "logs", "reftable")
# Where objects are looked for besides; no commit writes it.
KEPT = ("objects/info",)
CAP = 4096


class Repository(NamedTuple):
    """common: what all worktrees share, `.git` of the main checkout. mine: this worktree's part of it."""

    common: str
    mine: str


def repository_of(workspace: str, uid: int) -> Repository | None:
    """The repository of a workspace (resolved) that is a linked worktree of this user's; None for anything else."""
    link = os.path.join(workspace, ".git")
    named = first_line(link)
    if not named.startswith("gitdir: ") or os.path.islink(link):
        return None
    mine = os.path.realpath(os.path.join(workspace, named.removeprefix("gitdir: ")))
    common = os.path.realpath(os.path.join(mine, first_line(os.path.join(mine, "commondir")) or "."))
    back = first_line(os.path.join(mine, "gitdir"))
    if os.path.dirname(mine) != os.path.join(common, "worktrees") or not back:
        return None
    if os.path.realpath(os.path.join(mine, back)) != link or not are_owned([link, mine, common], uid):
        return None
    return Repository(common, mine)


def mounts_of(found: Repository) -> list[MountFact]:
    """What is shown of it: all read-only, then what is writable."""
    writable = [os.path.join(found.common, name) for name in WRITTEN]
    kept = [os.path.join(found.common, name) for name in KEPT]
    wanted = [(found.common, True), *[(path, False) for path in [*writable, found.mine]], *[(path, True) for path in kept]]
    return [
        MountFact(source=path, target=path, readonly=readonly, file=False)
        for path, readonly in wanted
        if os.path.isdir(path) and os.path.realpath(path) == path
    ]


def are_owned(paths: list[str], uid: int) -> bool:
    """Whether all of them are that user's."""
    try:
        return all(os.lstat(path).st_uid == uid for path in paths)
    except OSError:
        return False


def first_line(path: str) -> str:
    """A small file's first line; empty when it cannot be read."""
    try:
        # Not waiting: whoever can write the workspace can make this a pipe that nobody writes to.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY)) as file:
            return os.fsdecode((file.read(CAP) or b"").split(b"\n", 1)[0].strip())
    except OSError:
        return ""
