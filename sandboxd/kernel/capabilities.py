"""Capabilities and the process attributes that go with them: no_new_privs, dumpable, securebits.

Imports `kernel.libc`. The bounding set is dropped while there is still CAP_SETPCAP, that is before `empty()`; with it empty and
no_new_privs set, nothing that is executed later gains any (capabilities(7)).
"""

import ctypes
import errno

from sandboxd.errors import KernelError
from sandboxd.kernel.libc import check, function, prctl, raw_prctl

PR_SET_DUMPABLE, PR_GET_DUMPABLE = 4, 3
PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24
PR_SET_SECUREBITS = 28
PR_SET_NO_NEW_PRIVS, PR_GET_NO_NEW_PRIVS = 38, 39
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
VERSION_3 = 0x20080522
LAST_POSSIBLE = 63
# NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE, each with its lock (securebits.h): uid 0 inside is a number like any other.
SECUREBITS = 0b11001111


class Header(ctypes.Structure):
    """struct __user_cap_header_struct."""

    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class Data(ctypes.Structure):
    """struct __user_cap_data_struct."""

    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


_capset = function("capset", ctypes.POINTER(Header), ctypes.POINTER(Data))
_capget = function("capget", ctypes.POINTER(Header), ctypes.POINTER(Data))
_nothing = (Header(VERSION_3, 0), (Data * 2)())


def held() -> tuple[int, int, int]:
    """The effective, permitted and inheritable set of this thread, as masks."""
    header, data = Header(VERSION_3, 0), (Data * 2)()
    check(_capget(ctypes.byref(header), data), "capget")
    low, high = data[0], data[1]
    return (
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


def empty() -> None:
    """Give up every capability of this thread."""
    check(_capset(ctypes.byref(_nothing[0]), _nothing[1]), "capset")


def again() -> None:
    """Set what is held, to no effect: a process that takes this path once more meets no page of it for the first time."""
    header, data = Header(VERSION_3, 0), (Data * 2)()
    check(_capget(ctypes.byref(header), data), "capget")
    check(_capset(ctypes.byref(header), data), "capset")


def drop_bounding() -> None:
    """Empty the bounding and the ambient set and make uid 0 ordinary; needs CAP_SETPCAP in this user namespace."""
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, name="PR_CAP_AMBIENT_CLEAR_ALL")
    prctl(PR_SET_SECUREBITS, SECUREBITS, name="PR_SET_SECUREBITS")
    for capability in range(LAST_POSSIBLE + 1):
        if raw_prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
            if ctypes.get_errno() != errno.EINVAL or capability == 0:
                check(-1, "PR_CAPBSET_DROP")
            return  # one past the last that this kernel knows


def bounding() -> list[int]:
    """The numbers of the capabilities that are still in the bounding set."""
    found = []
    for capability in range(LAST_POSSIBLE + 1):
        try:
            if prctl(PR_CAPBSET_READ, capability, name="PR_CAPBSET_READ"):
                found.append(capability)
        except KernelError:
            break
    return found


def no_new_privs() -> None:
    """From here on no exec grants privileges (set-uid, file capabilities); it cannot be undone."""
    prctl(PR_SET_NO_NEW_PRIVS, 1, name="PR_SET_NO_NEW_PRIVS")


def has_no_new_privs() -> bool:
    """Whether `no_new_privs` holds."""
    return prctl(PR_GET_NO_NEW_PRIVS, name="PR_GET_NO_NEW_PRIVS") == 1


def set_dumpable(dumpable: bool) -> None:
    """Not dumpable: no process of the same uid may trace it or open its /proc files (ptrace(2)); an exec sets it back."""
    prctl(PR_SET_DUMPABLE, int(dumpable), name="PR_SET_DUMPABLE")


def is_dumpable() -> bool:
    """Whether same-uid processes may trace this one."""
    return prctl(PR_GET_DUMPABLE, name="PR_GET_DUMPABLE") == 1
