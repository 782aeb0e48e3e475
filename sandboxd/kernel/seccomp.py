"""seccomp(2): install a filter, be its listener, and what this kernel has of it.

Imports `errors` and `kernel.libc`. A filter is inherited and never taken off again; no_new_privs has to be set before. One
filter of a chain may have a listener: who tries to add a second one gets EBUSY. A listener must not wait for anything that its
own process could be refused: a process that waits for itself waits for ever.
"""

import binascii
import ctypes
import errno
import fcntl
import os
import struct

from sandboxd.errors import KernelError
from sandboxd.kernel.libc import check, syscall

NUMBERS = {"x86_64": 317, "aarch64": 277}  # no libc symbol
SET_MODE_FILTER, GET_ACTION_AVAIL = 1, 2
NEW_LISTENER, WAIT_KILLABLE_RECV = 1 << 3, 1 << 5
NOTIF_RECV, NOTIF_SEND = 0xC0502100, 0xC0182101  # _IOWR('!', 0, struct seccomp_notif), (1, struct seccomp_notif_resp)
NOTIFICATION = struct.Struct("=QIIiIQ6Q")  # id pid flags, then seccomp_data: nr arch instruction_pointer args
RESPONSE = struct.Struct("=QqiI")  # id val error flags
INSTRUCTION = 8  # sizeof(struct sock_filter)
# Load the call's number; if it is clone3's, which all architectures share, ENOSYS, upon which C libraries take clone(2);
# else allow. For a second filter, behind one that looks at the architecture.
_LINES = ((0x20, 0, 0, 0), (0x15, 0, 1, 435), (6, 0, 0, 0x50026), (6, 0, 0, 0x7FFF0000))
NO_CLONE3 = binascii.b2a_base64(b"".join(struct.pack("=HBBI", *line) for line in _LINES)).decode()


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


_MACHINE = os.uname().machine
_seccomp = syscall(NUMBERS.get(_MACHINE, -1), ctypes.c_uint, ctypes.c_uint, ctypes.c_void_p)


def install(text: str, *, listener: bool) -> int:
    """Put this process and all that descend from it under a program (base64); its listener, close-on-exec, or -1.

    Raises KernelError: EBUSY where a listener is asked for and there is one above already, ENOSYS or EINVAL where the
    kernel lacks it.
    """
    code = binascii.a2b_base64(text)
    program = ctypes.byref(Program(len(code) // INSTRUCTION, code))
    if not listener:
        check(_seccomp(SET_MODE_FILTER, 0, program), "seccomp", "SECCOMP_SET_MODE_FILTER")
        return -1
    # With it, a signal does not take back a call that was received, which would be refused and counted twice (since 5.19).
    found = _seccomp(SET_MODE_FILTER, NEW_LISTENER | WAIT_KILLABLE_RECV, program)
    if found < 0 and ctypes.get_errno() == errno.EINVAL:
        found = _seccomp(SET_MODE_FILTER, NEW_LISTENER, program)
    return check(found, "seccomp", "SECCOMP_FILTER_FLAG_NEW_LISTENER")


def has_action(action: int) -> bool:
    """Whether this kernel knows a SECCOMP_RET_*."""
    value = ctypes.c_uint32(action)
    return _seccomp(GET_ACTION_AVAIL, 0, ctypes.byref(value)) == 0


def receive(listener: int) -> tuple[int, int, int, tuple[int, ...]] | None:
    """The next call that waits: (cookie, thread id as seen here, number, arguments); None if its caller is gone.

    Never waits when the listener was reported readable: the kernel counts what was ever sent (seccomp.c, notify_recv).
    """
    buffer = bytearray(NOTIFICATION.size)
    try:
        fcntl.ioctl(listener, NOTIF_RECV, buffer)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR):
            return None
        raise KernelError(error.errno or 0, "ioctl", "SECCOMP_IOCTL_NOTIF_RECV") from error
    cookie, pid, _, number, _, _, *args = NOTIFICATION.unpack(buffer)
    return cookie, pid, number, tuple(args)


def refuse(listener: int, cookie: int, number: int) -> None:
    """Answer a call with an errno; a caller that is gone needs no answer."""
    try:
        fcntl.ioctl(listener, NOTIF_SEND, RESPONSE.pack(cookie, 0, -number, 0))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EINPROGRESS):
            raise KernelError(error.errno or 0, "ioctl", "SECCOMP_IOCTL_NOTIF_SEND") from error
