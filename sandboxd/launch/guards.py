"""What in a writable tree somebody outside obeys, and so must not be written from inside: specs, direnv, git's own orders.

Imports the standard library and `kernel`. `guard` finds what is to be shown read-only at a start. A bind mount holds an inode,
so two things stay open: what is not there yet cannot be guarded, and what is renamed over on the host (as `git config` does)
sheds its guard, since the kernel then detaches the mount. `unguarded` asks the kernel which of them there are now: it compares
what lies in the tree with the mount table of pid 1, and needs no memory of the start.

Git obeys more than `config` and `hooks`: a file `commondir` sends it to another repository's config (gitrepository-layout(5);
tried: a command in core.fsmonitor then runs at the next `git status`), and submodules and linked worktrees have their own.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from sandboxd.kernel.mounts import mount_points

SPECS = ("sandbox.toml", ".envrc")
ORDERS = ("hooks", "config", "config.worktree", "commondir")
TEXT_LIMIT = 64 << 10
LOOKED_AT = 512  # directories below .git/modules and .git/worktrees


class Guard(NamedTuple):
    """protect: (path, is it a file), to be shown read-only. pins: directories on the way, which must not be renamed.
    blank: directories to be made, empty and read-only, before somebody inside makes them."""

    protect: list[tuple[str, bool]]
    pins: list[str]
    blank: list[str]


def guard(trees: Iterable[str], code: Iterable[str]) -> Guard:
    """What to guard in these trees. code: our own, wherever it lies. All of them are resolved paths."""
    protect: dict[str, bool] = {}
    pins: dict[str, None] = {}
    blank: list[str] = []
    for tree in trees:
        wanted = dict.fromkeys(path for path in obeyed(tree) if os.path.lexists(path))
        wanted |= dict.fromkeys(path for path in code if path.startswith(f"{tree}/"))
        git = f"{tree}/.git"
        hooks = f"{git}/hooks"
        if os.path.isdir(git) and os.access(git, os.W_OK) and not os.path.lexists(hooks):
            blank.append(hooks)
            wanted[hooks] = None
        for path in wanted:
            real = path if path in blank else os.path.realpath(path)
            if not real.startswith(f"{tree}/") or not (path in blank or os.path.exists(real)):
                continue
            if path not in blank:
                protect[real] = not os.path.isdir(real)
            between = os.path.dirname(real)
            while between != tree:
                pins[between] = None
                between = os.path.dirname(between)
    return Guard(list(protect.items()), sorted(pins), blank)


def obeyed(tree: str) -> Iterator[str]:
    """Every path in a tree that somebody outside takes orders from, whether it is there or not."""
    yield from (f"{tree}/{name}" for name in SPECS)
    git = f"{tree}/.git"
    if os.path.isfile(f"{tree}/commondir"):  # a linked worktree's part of a repository, shown by itself
        yield from (os.path.join(tree, name) for name in (*ORDERS, "gitdir"))
        return
    if not os.path.isdir(git):
        yield git  # a linked worktree's names the repository whose hooks git runs; one that appears is a repository
        return
    yield from (os.path.join(git, name) for name in ORDERS)
    for path in submodules(small_text(os.path.join(tree, ".gitmodules"))):
        yield os.path.join(tree, path, ".git")  # git status asks each, by the repository that this file names
    left = LOOKED_AT
    waiting = [os.path.join(git, "modules"), os.path.join(git, "worktrees")]
    while waiting and left:
        left -= 1
        directory = waiting.pop()
        if os.path.lexists(os.path.join(directory, "HEAD")):  # a submodule's repository, or a linked worktree's part of ours
            yield from (os.path.join(directory, name) for name in (*ORDERS, "gitdir"))
            waiting.append(os.path.join(directory, "modules"))
        else:
            waiting += directories_in(directory, left)


def submodules(text: str) -> Iterator[str]:
    """Where a .gitmodules has its submodules, none of them outside of the tree."""
    for line in text.splitlines()[:LOOKED_AT]:
        key, _, value = line.partition("=")
        path = os.path.normpath(value.strip().strip('"'))
        if key.strip() == "path" and path.isprintable() and not path.startswith(("/", "..")):
            yield path


def small_text(path: str) -> str:
    """The beginning of a text file, or "" where there is none. An env can put a pipe or a device in the place of a file of its
    workspace: opening one as usual would wait for its other end, and all of the daemon with it."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK | os.O_NOCTTY)) as file:
            is_file = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
            return file.read(TEXT_LIMIT).decode("utf-8", "replace") if is_file else ""
    except OSError:
        return ""


def directories_in(directory: str, most: int) -> list[str]:
    """The first directories in one, as long as their paths are text; nothing where it is none itself. A link is not one: what
    it leads to is not git's. An env may have put any number of entries there, so not all are looked at."""
    if os.path.islink(directory):
        return []
    try:
        with os.scandir(directory) as entries:
            return [os.path.join(directory, entry.name) for entry in islice(entries, most) if is_plain(entry)]
    except OSError:
        return []


def is_plain(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a directory whose name can be told."""
    return entry.is_dir(follow_symlinks=False) and entry.name.isprintable()


def unguarded(pid: int, trees: Iterable[tuple[str, str]]) -> list[str]:
    """What is there, is obeyed, and can be written from inside; trees as (on the host, inside). Raises OSError when pid 1 is
    gone."""
    held = mount_points(pid)
    found = []
    for source, target in trees:
        for path in obeyed(source):
            inside = target + path[len(source) :]
            if os.path.lexists(path) and inside not in held:
                found.append(path)
    return found
