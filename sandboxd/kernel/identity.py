"""Look at files as another user does: what one may not reach, a daemon of root's must not find out or read for him.

setfsuid(2) is of the calling thread alone, where seteuid(3) of the C library is of the whole process: the daemon removes files
in other threads meanwhile. Going from 0 to another takes the capabilities over files out of effect (capabilities(7)).
A thread that is started inside is that user for good, and supplementary groups stay: a daemon that serves several has none
(`forget_groups`). Nothing may be awaited or started inside.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from sandboxd.errors import KernelError
from sandboxd.kernel.libc import function

setfsuid = function("setfsuid", ctypes.c_uint)
setfsgid = function("setfsgid", ctypes.c_uint)
ASK = 0xFFFFFFFF  # no id: only says which one holds


@contextmanager
def acting_as(uid: int, gid: int) -> Iterator[None]:
    """With files as that user; as ourselves where that is who we are. Raises KernelError where we may not."""
    if uid == os.geteuid():
        yield
        return
    try:
        setfsgid(gid)
        setfsuid(uid)
        if setfsuid(ASK) != uid or setfsgid(ASK) != gid:  # it fails without a word (setfsuid(2))
            raise KernelError(errno.EPERM, "setfsuid", str(uid))
        yield
    finally:
        setfsuid(os.geteuid())
        setfsgid(os.getegid())


def forget_groups() -> None:
    """Have no supplementary groups, in all threads; root needs none."""
    os.setgroups([])
