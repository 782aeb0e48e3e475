"""Signals as readable descriptors, for a single-threaded process that forks by raw clone3.

Imports `kernel.libc`. Python's own handlers need a wakeup descriptor and run between bytecodes, in the child of a clone too; a
blocked signal and a signalfd have neither problem.
"""

import ctypes
import os
import signal

from sandboxd.kernel.libc import check, function

SFD_NONBLOCK, SFD_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
SIGINFO = 128  # sizeof(struct signalfd_siginfo), signalfd(2)

SIGSET = 128  # sizeof(sigset_t) of glibc and musl

_sigprocmask = function("sigprocmask", ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_signalfd = function("signalfd", ctypes.c_int, ctypes.c_char_p, ctypes.c_int)


def signalfd(signals: set[signal.Signals]) -> int:
    """A non-blocking descriptor from which the (blocked) signals are read."""
    mask = sum(1 << (number - 1) for number in signals)
    return check(_signalfd(-1, mask.to_bytes(SIGSET, "little"), SFD_NONBLOCK | SFD_CLOEXEC), "signalfd")


def read_signals(fd: int) -> list[int]:
    """The numbers of the signals that arrived since."""
    try:
        data = os.read(fd, SIGINFO * 16)
    except BlockingIOError:
        return []
    return [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), SIGINFO)]


def block_all() -> None:
    """Block every signal that can be blocked."""
    check(_sigprocmask(signal.SIG_SETMASK, b"\xff" * SIGSET, None), "sigprocmask")


def unblock_all() -> None:
    """Block none. Not by the signal module: its answer, a set of 64 enum members, takes a fresh child 0.3 ms."""
    check(_sigprocmask(signal.SIG_SETMASK, bytes(SIGSET), None), "sigprocmask")
