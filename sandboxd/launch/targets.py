"""Where in an env's own tree something is to be mounted: found there, or made.

Imports the standard library and `kernel`. Every name is resolved beneath the new root and through no link, since an
env's home keeps what the env put there, and a link in it would lead to where it wants.
"""

import os

from sandboxd.kernel import mounts

STRICT = mounts.RESOLVE_BENEATH | mounts.RESOLVE_NO_MAGICLINKS | mounts.RESOLVE_NO_SYMLINKS


def find(root: int, target: str, *, make_file: bool) -> int:
    """A descriptor of the place to mount on, made where it is missing."""
    path = target.lstrip("/") or "."
    place = mounts.look(root, path, os.O_PATH, STRICT)
    if place >= 0:
        return place
    make(root, path, make_file=make_file)
    return mounts.openat2(root, path, os.O_PATH, STRICT)


def make(root: int, path: str, *, make_file: bool) -> None:
    """Make what is missing of `path`, one name at a time, each below a descriptor that was resolved inside the new root."""
    names = path.split("/")
    there, parent = existing(root, names)
    try:
        for name in names[there:-1]:
            os.mkdir(name, 0o755, dir_fd=parent)
            below = mounts.openat2(parent, name, os.O_PATH | os.O_DIRECTORY, STRICT)
            os.close(parent)
            parent = below
        if make_file:
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(names[-1], flags, 0o644, dir_fd=parent))
        else:
            os.mkdir(names[-1], 0o755, dir_fd=parent)
    finally:
        os.close(parent)


def existing(root: int, names: list[str]) -> tuple[int, int]:
    """How many of the directories on the way are there, and a descriptor of the last of them; mostly it is all."""
    for there in range(len(names) - 1, 0, -1):
        parent = mounts.look(root, "/".join(names[:there]), os.O_PATH | os.O_DIRECTORY, STRICT)
        if parent >= 0:
            return there, parent
    return 0, mounts.openat2(root, ".", os.O_PATH | os.O_DIRECTORY, STRICT)
