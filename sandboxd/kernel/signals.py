"""Signals as readable descriptors, for a single-threaded process that forks by raw clone3.

Imports `kernel.libc`. Python's own handlers need a wakeup descriptor and run between bytecodes, in the child of a clone too; a
blocked signal and a signalfd have neither problem.
"""

import _signal  # type: ignore[import-not-found]  # `signal` makes enums of everything: 260 KiB of pages (measured)
import ctypes
import os

from sandboxd.kernel.libc import check, function

SFD_NONBLOCK, SFD_CLOEXEC = os.O_NONBLOCK, os.O_CLOEXEC
SIGINFO = 128  # sizeof(struct signalfd_siginfo), signalfd(2)

# All but SIGKILL and SIGSTOP, and the two that the C library keeps for its threads (signal(7)).
RESETTABLE = tuple(signum for signum in range(1, _signal.NSIG) if signum not in (9, 19, 32, 33))
SIGSET = 128  # sizeof(sigset_t) of glibc and musl

_sigprocmask = function("sigprocmask", ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_signalfd = function("signalfd", ctypes.c_int, ctypes.c_char_p, ctypes.c_int)


def signalfd(signals: set[int]) -> int:
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
    check(_sigprocmask(_signal.SIG_SETMASK, b"\xff" * SIGSET, None), "sigprocmask")


def default_all() -> None:
    """Every signal to its default: what is ignored, as SIGPIPE is by Python, stays so over an exec (execve(2))."""
    for signum in RESETTABLE:
        if _signal.getsignal(signum) != _signal.SIG_DFL:
            _signal.signal(signum, _signal.SIG_DFL)


def block_child() -> None:
    """Block SIGCHLD and nothing else: it then waits, even while its disposition is to be ignored, for who reads it later."""
    mask = 1 << (_signal.SIGCHLD - 1)
    check(_sigprocmask(_signal.SIG_SETMASK, mask.to_bytes(SIGSET, "little"), None), "sigprocmask")
