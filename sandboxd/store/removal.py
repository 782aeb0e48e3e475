"""Removing a tree that somebody hostile filled: without following, without recursion, without a descriptor per level.

An env may leave directories it cannot write to, nested deeper than any stack or path holds (PATH_MAX), and links to
anywhere. So each directory is opened by O_NOFOLLOW from its parent's descriptor, made writable, and its subdirectories are
moved up to the top before they are emptied in turn: depth and open descriptors stay at two. Imports nothing of ours.
"""

import errno
import itertools
import os
import stat
from collections.abc import Iterator

DOOMED = ".gone-"  # names that `rundir` sweeps at its start


def remove_tree(parent: int, name: str) -> int:
    """Remove `name` below the directory descriptor `parent`; returns how many entries went (0: there was nothing).

    Raises OSError for what cannot be removed (another owner's, a mount).
    """
    try:
        top = open_directory(parent, name)
    except FileNotFoundError:
        return 0
    except NotADirectoryError:
        os.unlink(name, dir_fd=parent)
        return 1
    removed = 0
    free = free_names()
    try:
        while waiting := os.listdir(top):
            for entry in waiting:
                try:
                    os.unlink(entry, dir_fd=top)
                except IsADirectoryError:
                    removed += empty(top, entry, free)
                    os.rmdir(entry, dir_fd=top)
                except FileNotFoundError:
                    continue
                removed += 1
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)
    return removed + 1


def free_names() -> Iterator[str]:
    """Names that nobody has taken: rename(2) would silently replace an empty directory of that name."""
    token = os.urandom(8).hex()
    return (f".{token}.{number}" for number in itertools.count())


def empty(top: int, name: str, free: Iterator[str]) -> int:
    """Unlink the files of a directory in `top` and move its directories up into `top`; returns how many files went."""
    directory = open_directory(top, name)
    removed = 0
    try:
        for entry in os.listdir(directory):
            try:
                os.unlink(entry, dir_fd=directory)
                removed += 1
            except FileNotFoundError:
                continue
            except IsADirectoryError:
                os.close(open_directory(directory, entry))  # to get a new parent it must be writable itself (rename(2))
                os.rename(entry, next(free), src_dir_fd=directory, dst_dir_fd=top)
    finally:
        os.close(directory)
    return removed


def open_directory(parent: int, name: str) -> int:
    """A descriptor of a directory (never of a link's target), made ours to read, write and search."""
    try:
        directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except PermissionError:
        # Unreadable: O_PATH needs no permission on it, and chmod through /proc does not follow the last link.
        handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
        finally:
            os.close(handle)
        directory = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotADirectoryError(error.errno, "is a link", name) from None
        raise
    try:
        if os.fstat(directory).st_mode & stat.S_IRWXU != stat.S_IRWXU:
            os.fchmod(directory, 0o700)
    except BaseException:
        os.close(directory)
        raise
    return directory
