"""Mounts: the classic call for new file systems, the descriptor-based ones (>= 5.12) for everything taken from elsewhere.

Imports `errors` and `kernel.libc`. Paths that others can write to are never handed to mount(2) by name: source and target are
opened with openat2, which says how links are to be resolved, and tree and target are joined by descriptors.
`remount,bind,ro` is not offered: it misses submounts (seen: /dev/shm stayed writable); `mount_setattr` takes the whole tree.
"""

import ctypes
import errno
import os
import time

from sandboxd.errors import KernelError
from sandboxd.kernel.libc import check, function, syscall

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE, MS_SLAVE = 1 << 12, 1 << 14, 1 << 18, 1 << 19
MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV, ATTR_NOEXEC = 1, 2, 4, 8
TRIES = 100  # of what is refused for a moment, a millisecond apart
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
MOVE_EMPTY_PATHS = 0x4 | 0x40  # MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 0x2, 0x4, 0x8, 0x10


class OpenHow(ctypes.Structure):
    """struct open_how, openat2(2)."""

    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


class MountAttr(ctypes.Structure):
    """struct mount_attr, mount_setattr(2)."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]


_mount = function("mount", ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_umount2 = function("umount2", ctypes.c_char_p, ctypes.c_int)
_pivot_root = function("pivot_root", ctypes.c_char_p, ctypes.c_char_p)
_open_tree = syscall(428, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_move_mount = syscall(429, ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_openat2 = syscall(437, ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(OpenHow), ctypes.c_size_t)
_mount_setattr = syscall(442, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint, ctypes.POINTER(MountAttr), ctypes.c_size_t)


def mount(kind: str | None, target: str, flags: int = 0, options: str = "") -> None:
    """mount(2) of a new file system of that kind (also its source's name), or with None a change of propagation or options."""
    name = kind.encode() if kind else None
    check(_mount(name, os.fsencode(target), name, flags, options.encode() or None), "mount", f"{kind or ''} {target}".strip())


def bind(source: str, target: str) -> None:
    """mount(2) of a tree at another place; for paths that nobody else can write to."""
    check(_mount(os.fsencode(source), os.fsencode(target), None, MS_BIND | MS_REC, None), "mount", f"{source} {target}")


def bind_read_only(source: str, target: str) -> None:
    """One mount, without those below it, read-only and private at another place; for paths that nobody else can write to."""
    check(_mount(os.fsencode(source), os.fsencode(target), None, MS_BIND, None), "mount", f"{source} {target}")
    attr = MountAttr(attr_set=ATTR_RDONLY, propagation=MS_PRIVATE)
    check(_mount_setattr(AT_FDCWD, os.fsencode(target), 0, ctypes.byref(attr), ctypes.sizeof(attr)), "mount_setattr", target)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    check(_umount2(os.fsencode(target), flags), "umount2", target)


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2); with "." twice the old root is stacked upon the new one, where only ".." leads."""
    check(_pivot_root(os.fsencode(new), os.fsencode(old)), "pivot_root", new)


def openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    """Open below `directory` under the given rules of resolution; close-on-exec."""
    how = OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    return check(_openat2(directory, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how)), "openat2", path)


def look(directory: int, path: str, flags: int, resolve: int) -> int:
    """The same, but -1 where there is no such thing: an error in words takes longer than the call."""
    how = OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    found = _openat2(directory, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
    return -1 if found < 0 and ctypes.get_errno() == errno.ENOENT else check(found, "openat2", path)


def open_tree(fd: int, *, recursive: bool, subject: str = "") -> int:
    """A detached copy of the mount tree at `fd`, as a descriptor; it goes away with the descriptor unless it is moved."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    return check(_open_tree(fd, b"", flags), "open_tree", subject)


def move_mount(tree: int, target: int, *, subject: str = "") -> None:
    """Attach a detached tree at the place `target` refers to."""
    check(_move_mount(tree, b"", target, b"", MOVE_EMPTY_PATHS), "move_mount", subject)


def mount_setattr(
    fd: int, attributes: int, *, recursive: bool, clear: int = 0, propagation: int = 0, subject: str = ""
) -> None:
    """Add and clear attributes of the mount at `fd`, and with `recursive` of every mount below it, all or none."""
    attr = MountAttr(attr_set=attributes, attr_clr=clear, propagation=propagation)
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    check(_mount_setattr(fd, b"", flags, ctypes.byref(attr), ctypes.sizeof(attr)), "mount_setattr", subject)


def make_read_only(fd: int, subject: str) -> None:
    """One mount, by itself; raises KernelError.

    The kernel refuses it (EBUSY) at the very moment at which somebody writes there, and who follows a link does: that sets
    its access time. It is over in microseconds.
    """
    for _ in range(TRIES):
        try:
            return mount_setattr(fd, ATTR_RDONLY, recursive=False, subject=subject)
        except KernelError as error:
            if error.errno != errno.EBUSY:
                raise
        time.sleep(0.001)
    return mount_setattr(fd, ATTR_RDONLY, recursive=False, subject=subject)


def mount_points(pid: int) -> set[str]:
    """Where something is mounted, as that process sees it (proc_pid_mountinfo(5)); raises OSError."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        found = {line.split(" ", 5)[4] for line in file}
    return {path if "\\" not in path else unescaped(path) for path in found}


def unescaped(path: str) -> str:
    """Blanks and backslashes are in octal there."""
    for code in ("\\040", "\\011", "\\012", "\\134"):  # the backslash last
        path = path.replace(code, chr(int(code[1:], 8)))
    return path
