"""The config file as it lies on the disk: found, trusted only if nobody else could have written it, and read once, capped.

Whoever writes it decides what the daemon does, so its owner must be the daemon's own user or root, and neither its group nor
others may write it; for root's daemon only root's will do. It is opened first, so that what is read is what was checked.
"""

import os
import stat
from collections.abc import Mapping

from sandboxd.config import Config, read
from sandboxd.errors import StoreFailed
from sandboxd.settings import config_file
from sandboxd.specfile.parse import MAX_BYTES


def load(environ: Mapping[str, str], uid: int) -> Config:
    """The settings by environment and config file; raises UsageError, SpecInvalid, StoreFailed for a file that is not to be
    trusted or cannot be read. A file that is not there says nothing, unless SANDBOXD_CONFIG names it."""
    file = config_file(environ, uid)
    return read(environ, uid, file, contents(file, uid, must="SANDBOXD_CONFIG" in environ))


def contents(file: str, uid: int, *, must: bool = False) -> bytes | None:
    """Its bytes; None where there is none."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO is not waited for
    except (FileNotFoundError, NotADirectoryError) as error:
        if must:
            raise StoreFailed(f"cannot read {file}: {error.strerror}", hint="SANDBOXD_CONFIG names it") from error
        return None
    except OSError as error:
        raise StoreFailed(f"cannot read {file}: {error.strerror}", hint="it is the daemon's config file") from error
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise StoreFailed(f"{file} is no regular file", hint="the daemon's config file has to be one")
        if found.st_uid not in (0, uid) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise StoreFailed(
                f"{file} can be written by others (uid {found.st_uid}, mode {stat.S_IMODE(found.st_mode):o})",
                hint=f"it decides what the daemon does: chown {uid} {file}; chmod 644 {file}",
            )
        return whole(fd)
    finally:
        os.close(fd)


def whole(fd: int) -> bytes:
    """What an open file has, up to one byte more than it may."""
    read_so_far = b""
    while len(read_so_far) <= MAX_BYTES and (more := os.read(fd, MAX_BYTES + 1 - len(read_so_far))):
        read_so_far += more
    return read_so_far
