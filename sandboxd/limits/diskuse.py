"""What an env has written to disk: one bounded walk over directories of ours that it writes into.

Touches the file system, one open directory at a time. What is inside was made by the env, so nothing is followed: every path is
resolved beneath the directory it starts from, without links, on its own file system. Counted is what is allocated (st_blocks,
as du does it): a hard link once, a sparse file as far as it was written. Blocking; call it in a thread.
"""

import errno
import os
import stat
from collections.abc import Iterable
from typing import NamedTuple

from sandboxd.errors import KernelError
from sandboxd.kernel import mounts

BLOCK = 512  # of st_blocks, whatever the file system's own is (stat(3type))
STRICT = mounts.RESOLVE_BENEATH | mounts.RESOLVE_NO_MAGICLINKS | mounts.RESOLVE_NO_SYMLINKS
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class Use(NamedTuple):
    """Bytes and entries found. whole: nothing was left out. hidden: directories nest deeper than a path can say, which no
    program does by accident."""

    bytes: int = 0
    entries: int = 0
    whole: bool = True
    hidden: bool = False


class Walk:
    """One walk; over when it has seen `entries` of them, or passed `enough` bytes."""

    def __init__(self, entries: int, enough: int) -> None:
        self.left = self.most = entries
        self.enough = enough
        self.used = 0
        self.whole = True
        self.hidden = False
        self.linked: set[int] = set()

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to learn."""
        return self.left <= 0 or self.used > self.enough

    def tree(self, top: str | os.PathLike[str]) -> None:
        """Count all below a directory."""
        try:
            root = os.open(top, DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            device = os.fstat(root).st_dev
            waiting = ["."]
            while waiting:
                if self.is_over:
                    self.whole = False
                    return
                self.directory(root, waiting.pop(), device, waiting)
        finally:
            os.close(root)

    def directory(self, root: int, path: str, device: int, waiting: list[str]) -> None:
        """Count the entries of one directory, and note those that are directories."""
        try:
            fd = readable(root, path)
        except OSError as error:
            self.whole &= error.errno == errno.ENOENT  # it went meanwhile
            self.hidden |= error.errno == errno.ENAMETOOLONG
            return
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    if self.is_over:
                        self.whole = False
                        return
                    self.left -= 1
                    if self.entry(fd, entry.name, device):
                        waiting.append(f"{path}/{entry.name}")
        finally:
            os.close(fd)

    def entry(self, parent: int, name: str, device: int) -> bool:
        """Count one entry; True: it is a directory to look into. What is gone meanwhile is nothing."""
        try:
            found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except OSError as error:
            self.whole &= error.errno == errno.ENOENT
            return False
        if found.st_dev != device:
            return False
        is_directory = stat.S_ISDIR(found.st_mode)
        if found.st_nlink > 1 and not is_directory:
            if found.st_ino in self.linked:
                return False
            self.linked.add(found.st_ino)
        self.used += found.st_blocks * BLOCK
        return is_directory


def readable(root: int, path: str) -> int:
    """A descriptor of a directory below `root`; of one that its owner made unreadable too, whose mode is then put back."""
    try:
        return mounts.openat2(root, path, DIRECTORY, STRICT)
    except KernelError as error:
        if error.errno != errno.EACCES:
            raise
        handle = mounts.openat2(root, path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, STRICT)
    try:
        there = f"/proc/self/fd/{handle}"
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        os.chmod(there, mode | 0o500)
        try:
            return os.open(f"{there}/.", DIRECTORY | os.O_CLOEXEC)
        finally:
            os.chmod(there, mode)
    finally:
        os.close(handle)


def disk_use(paths: Iterable[str | os.PathLike[str]], *, entries: int, enough: int) -> Use:
    """What these directories hold together. Stops after `entries` of them, or once more than `enough` bytes were found."""
    walk = Walk(entries, enough)
    for path in paths:
        walk.tree(path)
    return Use(walk.used, walk.most - walk.left, walk.whole, walk.hidden)
