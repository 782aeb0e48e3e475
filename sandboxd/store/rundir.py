"""The daemon's directories: made, checked to be ours, locked, and swept; and its control socket, bound without a gap.

Touches the world; decides only what may be trusted. Invariants: every directory is ours and 0700 (that of a shared box's
socket: 0755) before anything in it is opened (a fallback under /tmp can be squatted); one daemon per directory, by flock,
which dies with its holder; a stale socket is probed and then replaced by rename, so that a client never finds the name missing
while a daemon runs; paths are reached through a kept descriptor, since sun_path holds 108 bytes (unix(7)) and the descriptor
cannot be swapped.
"""

import contextlib
import errno
import fcntl
import functools
import os
import re
import socket
import stat
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from sandboxd.errors import DaemonRunning, NotFound, StoreFailed
from sandboxd.settings import Settings
from sandboxd.store import removal

ENV_ID = re.compile(r"[0-9a-f]{32}")
READY = ".ready-"
BACKLOG = 128
# _IOR('f', 1, long), _IOW('f', 2, long) and FS_TOPDIR_FL of linux/fs.h, which is chattr(1)'s T.
GETFLAGS, SETFLAGS, TOPDIR = 0x80086601, 0x40086602, 0x00020000
SCARCE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE})


class RunDir:
    """What `prepare` took: the locks, the bound control socket, and the place of every env. Owns its descriptors."""

    def __init__(self, settings: Settings, handed: Sequence[socket.socket] = ()) -> None:
        """Take it all, or nothing; raises StoreFailed or DaemonRunning. handed: see `prepare`."""
        self.state_dir = settings.state_dir
        self.envs_dir = settings.state_dir / "envs"
        self._below = functools.lru_cache(maxsize=1024)(self.envs_dir.joinpath)  # asked several times while an env starts
        self.runtime_dir = settings.runtime_dir
        self.socket_path = settings.socket
        self._shared = settings.shared
        self._fds: list[int] = []
        self.socket: socket.socket | None = None
        try:
            state_fd = self._state_fd = self._own(settings.state_dir)
            self._lock(state_fd)
            socket_fd = state_fd
            if settings.socket.parent != settings.state_dir:
                # Two daemons with two state directories may still mean one socket: its directory is a lock of its own.
                socket_fd = self._own_door(settings.socket.parent)
            self._envs_fd = self._own(self.envs_dir)
            spread(self._envs_fd)
            self._mode = 0o666 if settings.shared else 0o600
            self.socket = self._bind(socket_fd, settings.socket, handed)
            self._socket_fd = socket_fd
            self.remove_prepared()
            for name in os.listdir(self._envs_fd):
                if name.startswith(removal.DOOMED):  # a removal that a daemon's death cut short
                    with contextlib.suppress(OSError):  # the janitor tries again, and says why it cannot be
                        removal.remove_tree(self._envs_fd, name)
        except OSError as error:
            self.close()
            raise failed(error, settings.state_dir) from error
        except BaseException:
            self.close()
            raise

    def env_dir(self, env_id: str) -> Path:
        """S/envs/ID, whether it exists or not."""
        if not ENV_ID.fullmatch(env_id):
            raise NotFound(f"{env_id!r} is no env id")
        return self._below(env_id)

    def create_env_dir(self, env_id: str) -> Path:
        """Make S/envs/ID with `logs` and `home`, all 0700; raises StoreFailed, and then nothing half-made stays.

        One that was prepared takes its place by a rename: 0.02 ms where making it takes up to 2.
        """
        path = self.env_dir(env_id)
        try:
            os.rename(READY + env_id, env_id, src_dir_fd=self._envs_fd, dst_dir_fd=self._envs_fd)
        except FileNotFoundError:
            self._make_env_dir(env_id)
        except OSError as error:
            raise failed(error, path) from error
        return path

    def prepare_env_dir(self, env_id: str) -> Path:
        """Make the directory of an env to come, under a name of its own; whoever prepares and leaves it: the next daemon's."""
        self.env_dir(env_id)
        self._make_env_dir(READY + env_id)
        return self.envs_dir / (READY + env_id)

    def remove_prepared(self, env_id: str = "") -> None:
        """Remove every directory that was prepared and not used, or the one of that id."""
        for name in os.listdir(self._envs_fd):
            if name.startswith(READY + env_id):
                removal.remove_tree(self._envs_fd, name)

    def _make_env_dir(self, name: str) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=self._envs_fd)
            for part in ("logs", "home"):
                os.mkdir(f"{name}/{part}", 0o700, dir_fd=self._envs_fd)
        except OSError as error:
            if error.errno != errno.EEXIST:
                removal.remove_tree(self._envs_fd, name)
            raise failed(error, self.envs_dir / name) from error

    def env_ids(self) -> list[str]:
        """Every env that has a directory."""
        return sorted(name for name in os.listdir(self._envs_fd) if ENV_ID.fullmatch(name))

    def names(self) -> list[str]:
        """Everything in S/envs."""
        return sorted(os.listdir(self._envs_fd))

    def unborn_sockets(self) -> list[str]:
        """Names beside the control socket's that a daemon bound and died before it took their place."""
        prefix = f".{self.socket_path.name}."
        found = [name for name in os.listdir(self._socket_fd) if name.startswith(prefix)]
        return [name for name in found if not os.path.exists(f"/proc/{name.removeprefix(prefix)}")]

    def remove_unborn(self, name: str) -> None:
        """Remove one of those; raises OSError."""
        os.unlink(name, dir_fd=self._socket_fd)

    def remove_env_dir(self, env_id: str) -> int:
        """Remove all of S/envs/ID, whatever the env made there; returns how many entries went; raises StoreFailed.

        It is renamed first, so it is gone at once for everyone else, and a removal cut short is ended by the next daemon.
        Blocking, and long for a large home: call it in a thread.
        """
        path = self.env_dir(env_id)
        doomed = removal.DOOMED + env_id
        try:
            removal.remove_tree(self._envs_fd, doomed)  # what an earlier attempt could not end
            try:
                os.rename(env_id, doomed, src_dir_fd=self._envs_fd, dst_dir_fd=self._envs_fd)
            except FileNotFoundError:
                return 0
            return removal.remove_tree(self._envs_fd, doomed)
        except OSError as error:
            raise failed(error, path) from error

    def renew(self, moved: Callable[[socket.socket], None]) -> bool:
        """Have the control socket be where clients look for it, in a directory that is ours; False: it is there. moved: is
        given the new one before the old one is closed. Raises StoreFailed, DaemonRunning, OSError."""
        path = self.socket_path
        directory = self._own_door(path.parent)
        old, was = self.socket, self._socket_fd
        try:
            if old is not None and is_reached(old, f"/proc/self/fd/{directory}/{path.name}"):
                self._forget(directory)
                return False
            self.socket = self._bind(directory, path, [])
        except BaseException:
            self._forget(directory)
            raise
        self._socket_fd = directory
        moved(self.socket)
        if old is not None:
            old.close()
        if was != self._state_fd:
            self._forget(was)
        return True

    def _forget(self, fd: int) -> None:
        self._fds.remove(fd)
        os.close(fd)

    def close(self, *, unlink: bool = False) -> None:
        """Let go of lock and socket; unlink: also remove the socket's name (an orderly stop)."""
        if self.socket is not None:
            if unlink:
                with contextlib.suppress(OSError):  # what stays is stale, and the next daemon probes it
                    os.unlink(self.socket_path.name, dir_fd=self._socket_fd)
            self.socket.close()
            self.socket = None
        while self._fds:
            os.close(self._fds.pop())

    def _own(self, path: Path, *, shared: bool = False, mode: int = 0o700) -> int:
        """Make a directory if need be, see that it is ours, and keep it open."""
        if not shared:
            os.makedirs(path.parent, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, mode)
        self._fds.append(checked(path, shared=shared, mode=mode))
        return self._fds[-1]

    def _own_door(self, path: Path) -> int:
        """The control socket's directory. On a shared box everybody may come in, at any moment; who he is, the socket says."""
        open_to_all = self._shared and path == self.runtime_dir != self.state_dir
        return self._own(path, shared=path not in (self.runtime_dir, self.state_dir), mode=0o755 if open_to_all else 0o700)

    def _lock(self, state_fd: int) -> None:
        """Take S/lock and write our pid in it; raises DaemonRunning."""
        lock = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=state_fd)
        self._fds.append(lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(lock, 20, 0).strip()
            raise running(int(text) if text.isdigit() else 0, self.state_dir) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)

    def _bind(self, directory: int, path: Path, handed: Sequence[socket.socket]) -> socket.socket:
        """Bind the control socket, 0600, in place of a stale one; raises DaemonRunning when one answers there."""
        for listener in handed:
            if is_reached(listener, f"/proc/self/fd/{directory}/{path.name}"):
                return listener
        fresh = f".{path.name}.{os.getpid()}"
        if os.fstat(directory).st_uid == os.geteuid():  # else anybody could hold the lock, and us with it
            fcntl.flock(directory, fcntl.LOCK_EX)  # held while we look and replace; later the socket itself says that we live
        try:
            probe(f"/proc/self/fd/{directory}/{path.name}", path)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            try:
                listen_at(listener, directory, fresh)
                os.chmod(fresh, self._mode, dir_fd=directory)  # the directory is ours, and so is the name
                os.rename(fresh, path.name, src_dir_fd=directory, dst_dir_fd=directory)
            except BaseException:
                listener.close()
                raise
            return listener
        finally:
            fcntl.flock(directory, fcntl.LOCK_UN)


def prepare(settings: Settings, handed: Sequence[socket.socket] = ()) -> RunDir:
    """Make and check the directories, take the lock, bind the control socket; raises StoreFailed or DaemonRunning.

    handed: listeners from the service manager; the one that control.sock leads to is used instead, the others are closed.
    """
    rundir = RunDir(settings, handed)
    for listener in handed:
        if listener is not rundir.socket:
            listener.close()
    return rundir


def checked(path: Path, *, shared: bool = False, mode: int = 0o700) -> int:
    """Open a directory that nobody else can have prepared for us; raises StoreFailed. The caller closes it.

    mode: what ours alone is given.
    shared: one that is not ours alone (a socket path somebody chose): root's or ours, and others may not replace entries.
    """
    try:
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise StoreFailed(f"{path} is no directory of ours: it is a link or a file", hint=elsewhere(path)) from error
        raise
    found = os.fstat(directory)
    uid = os.geteuid()
    wrong = ""
    if found.st_uid != uid and not (shared and found.st_uid == 0):
        wrong = f"it belongs to uid {found.st_uid}, not to us (uid {uid})"
    elif found.st_mode & 0o022 and not (shared and found.st_mode & stat.S_ISVTX):
        wrong = f"others may write to it (mode {stat.S_IMODE(found.st_mode):04o})"
    if wrong:
        os.close(directory)
        raise StoreFailed(f"{path} cannot be trusted: {wrong}", hint=elsewhere(path))
    if (found.st_mode ^ mode) & 0o077 and not shared:
        os.fchmod(directory, mode)  # nobody could have written; now nobody whom it is not meant for reads either
    return directory


def spread(directory: int) -> None:
    """Have what lies below a directory be spread over the disk, where its file system can (ext2 to 4, chattr(1)).

    ext4 gives no number of a file that was removed within a minute or five to another, and looks at each on the way to a free
    one (recently_deleted, fs/ext4/ialloc.c). Where envs come and go that made each new file of one 0.5 ms of processor time,
    and each env has nine: 5 ms an env, 0.4 where every env's directory has its own part of the disk (measured).
    """
    flags = bytearray(8)
    with contextlib.suppress(OSError):  # a hint: other file systems know nothing of it
        fcntl.ioctl(directory, GETFLAGS, flags)
        found = int.from_bytes(flags[:4], sys.byteorder)
        if not found & TOPDIR:
            fcntl.ioctl(directory, SETFLAGS, struct.pack("=iI", found | TOPDIR, 0))


def listen_at(listener: socket.socket, directory: int, name: str) -> None:
    """Bind a socket to a name in an open directory, 0600, in place of whatever had it; and listen."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)
    mask = os.umask(0o177)  # bind takes the mode from it: no moment in which others may connect
    try:
        listener.bind(f"/proc/self/fd/{directory}/{name}")
    finally:
        os.umask(mask)
    listener.listen(BACKLOG)


def is_reached(listener: socket.socket, route: str) -> bool:
    """Whether who connects there arrives at this listener: both ends name who called listen(2) on it (unix(7))."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)
        try:
            sock.connect(route)
        except OSError:
            return False
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12) == listener.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, 12
        )


def probe(route: str, path: Path) -> None:
    """Return when nothing lives at a socket path; raises DaemonRunning or, for what is no socket, StoreFailed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(2)
        try:
            if not stat.S_ISSOCK(os.lstat(route).st_mode):
                raise StoreFailed(f"{path} is in the way: it is no socket", hint=f"see what it is, then remove it: rm {path}")
            sock.connect(route)
            pid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        except (FileNotFoundError, ConnectionRefusedError):
            return
        except (BlockingIOError, TimeoutError):
            pid = 0  # its backlog is full: it lives, but is stuck
    raise running(pid, path)


def running(pid: int, where: Path) -> DaemonRunning:
    """The error for a place that another daemon has."""
    who = f"pid {pid}" if pid else "of unknown pid"
    return DaemonRunning(
        f"another sandboxd ({who}) holds {where}",
        hint="`sandbox daemon stop` ends it; SANDBOXD_DIR=DIR starts one of its own beside it",
        pid=pid,
    )


def failed(error: OSError, path: Path) -> StoreFailed:
    """A system call's failure in words."""
    hints = {
        errno.ENOSPC: f"free some space, or files where there are too many (`df -i`), on the disk of {path}",
        errno.EDQUOT: f"your disk quota at {path} is used up: free some space",
        errno.EMFILE: "the daemon has as many descriptors open as it may: raise its limit (`ulimit -n`, LimitNOFILE=)",
        errno.ENFILE: "this machine has as many files open as it may: raise the sysctl fs.file-max",
        errno.EROFS: elsewhere(path),
        errno.EACCES: elsewhere(path),
        errno.EPERM: elsewhere(path),
    }
    name = error.filename if isinstance(error.filename, str) and error.filename.startswith("/") else path
    return StoreFailed(f"cannot use {name}: {error.strerror}", hint=hints.get(error.errno or 0, ""), errno=error.errno)


def elsewhere(path: Path) -> str:
    """How to use another directory."""
    if str(path).startswith("/tmp/"):
        return "set XDG_RUNTIME_DIR, or SANDBOXD_DIR to a directory of your own"
    return "remove it, or set SANDBOXD_DIR to a directory of your own"
