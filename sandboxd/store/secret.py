"""The daemon's secret: what signs cookies and hashes tokens. Drawn once, kept 0600 in the state directory.

Who has it can make a cookie for any key, so it is never shown, logged or sent: the router gets others that are derived from
it, one for each template. Without the file all cookies are void and all tokens get other envs: nothing else is lost.
"""

import contextlib
import os
import secrets
import stat
from pathlib import Path

from sandboxd.errors import StoreFailed

SIZE = 32


def load_secret(path: Path) -> bytes:
    """The secret in that file, drawn and written where there is none; raises StoreFailed."""
    try:
        with contextlib.suppress(FileNotFoundError):
            return read(path)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, secrets.token_bytes(SIZE))
            os.fsync(fd)  # a name without its content would look like damage after a power cut (rename(2), fsync(2))
        finally:
            os.close(fd)
        os.rename(fresh, path)
        return read(path)
    except OSError as error:
        raise StoreFailed(
            f"cannot use {path}: {error.strerror}", hint=f"make {path} readable for you, and its disk writable"
        ) from error


def read(path: Path) -> bytes:
    """The bytes of a file that nobody else may have read or written; raises OSError, StoreFailed."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        data = os.read(fd, SIZE + 1)
    finally:
        os.close(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077 or len(data) != SIZE:
        raise StoreFailed(
            f"{path} is not as we left it", hint=f"remove it: every cookie is then void, and a new one is drawn: rm {path}"
        )
    return data
