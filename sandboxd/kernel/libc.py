"""The C library: the one CDLL, every prototype declared once, and the one door through which errno becomes KernelError.

Imports ctypes and `errors`. Each prototype is an object of its own (`function`, `syscall`), so that two callers can never fight
over `argtypes`. Calls newer than the libc go by number: 424 and up are the same on every architecture but alpha
(include/uapi/asm-generic/unistd.h); older calls are only made through libc symbols, whose numbers differ.
"""

from __future__ import annotations

import ctypes
import errno

from sandboxd.errors import KernelError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Prototype = Callable[..., int]

libc = ctypes.CDLL(None, use_errno=True)

HINTS = {
    ("clone3", errno.ENOSPC): "this user's quota of namespaces is used up (sysctl user.max_*_namespaces); those of envs that "
    "were just removed come back within moments",
    ("clone3", errno.EPERM): "this host does not let ordinary users make user namespaces",
    ("clone3", errno.EAGAIN): "this user's limit of processes is reached (ulimit -u)",
    ("mount", errno.ENOSPC): "too many mounts: the limit is sysctl fs.mount-max, not disk space",
    ("move_mount", errno.ENOSPC): "too many mounts: the limit is sysctl fs.mount-max, not disk space",
    ("open_tree", errno.ENOSPC): "too many mounts: the limit is sysctl fs.mount-max, not disk space",
    ("openat2", errno.ELOOP): "a symbolic link stands in the path; name the place it points to",
}


def function(name: str, *argtypes: type, restype: type = ctypes.c_int) -> Prototype:
    """A function of the C library under its own prototype."""
    found: Prototype = ctypes.CFUNCTYPE(restype, *argtypes, use_errno=True)((name, libc))
    return found


def syscall(number: int, *argtypes: type) -> Prototype:
    """A system call by its number, under its own prototype."""
    call: Prototype = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long, *argtypes, use_errno=True)(("syscall", libc))

    def numbered(*arguments: object) -> int:
        return call(number, *arguments)

    return numbered


def check(result: int, call: str, subject: str = "") -> int:
    """The result of a call, or KernelError with what it was called on and, where known, what to do about it."""
    if result < 0:
        number = ctypes.get_errno()
        raise KernelError(number, call, subject, hint=HINTS.get((call, number), ""))
    return result


raw_prctl = function("prctl", ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)


def prctl(option: int, second: int = 0, third: int = 0, fourth: int = 0, *, name: str = "prctl") -> int:
    """prctl(2) with number arguments; `name` is what an error calls it."""
    return check(raw_prctl(option, second, third, fourth, 0), name)
