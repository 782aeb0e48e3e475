"""A call in a process of its own that shares our memory, while we wait: what a fork would copy, it need not touch.

Imports `errors` and `kernel.libc`. clone(CLONE_VM | CLONE_VFORK): the child has its own descriptors, credentials, directories
and namespaces, so it may join others' for good, and Python runs in it as if in us, since we run no instruction meanwhile. It
runs on a stack of its own below ours, since it must not return into our frames. The caller has one thread, and SIGCHLD ignored:
then nothing has to be reaped. A fork of a Python costs 0.5 ms, and each page that it writes to 3 us more (measured on a virtual
machine: 1.5 ms for a stager).
"""

from __future__ import annotations

import ctypes
import errno
import os

from sandboxd.errors import KernelError
from sandboxd.kernel.libc import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CLONE_VM, CLONE_VFORK, SIGCHLD = 0x100, 0x4000, 17
GAP = 1 << 16  # bytes between the lowest frame that there was and the child's first
NEST = 1 << 18  # and between that and the first of a child of its own
LOST = 70  # EX_SOFTWARE of sysexits.h

# Not CFUNCTYPE, which lets go of the interpreter's lock: a child that is killed would not give it back.
_Entry = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p)
_clone = ctypes.PYFUNCTYPE(ctypes.c_int, _Entry, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(("clone", libc))
_getcpu = ctypes.PYFUNCTYPE(ctypes.c_int)(("sched_getcpu", libc))
_errno = ctypes.PYFUNCTYPE(ctypes.POINTER(ctypes.c_int))(("__errno_location", libc))


class Beside:
    """Where such children run: the main thread's stack, which newer interpreters hold every frame against (CPython 3.14)."""

    __slots__ = ("top",)

    def __init__(self) -> None:
        with open("/proc/self/maps", "rb") as maps:
            bounds = next((line for line in maps if line.endswith(b"[stack]\n")), b"")
        if not bounds:
            raise KernelError(errno.ENOENT, "clone", "a stack of the main thread")
        self.top = int(bounds.split(b"-")[0], 16) - GAP & ~0xFFF  # it grows down to its limit as it is touched

    def run(self, call: Callable[[], None], depth: int = 0) -> None:
        """Do it there; raises what it raised, and KernelError. depth: of how many such children the caller is one.

        Killed in the middle of it, the child leaves our interpreter in the middle of something: then this is our end, too. It
        begins on our core, which it alone will want: the kernel puts a new process where fewer run, and we still do then
        (measured: half a millisecond behind who runs on the other one, with ours idle).
        """
        outcome: list[BaseException | None] = []
        anywhere = os.sched_getaffinity(0)

        def enter(_: int | None) -> int:
            try:
                os.sched_setaffinity(0, anywhere)
                call()
            except BaseException as error:
                outcome.append(error)
            else:
                outcome.append(None)
            return 0

        entry = _Entry(enter)
        stay_here()
        try:
            if _clone(entry, self.top - depth * NEST, CLONE_VM | CLONE_VFORK | SIGCHLD, None) < 0:
                raise KernelError(_errno().contents.value, "clone", "beside")
        finally:
            os.sched_setaffinity(0, anywhere)
        if not outcome:
            os._exit(LOST)
        if outcome[0] is not None:
            raise outcome[0]


def stay_here() -> None:
    """Nowhere but on this core, until the caller says where else. One that just now is taken from the machine keeps nobody."""
    try:
        os.sched_setaffinity(0, {_getcpu()})
    except OSError:
        pass
