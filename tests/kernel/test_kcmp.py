"""kcmp on the real kernel: a vforked child is its parent's memory, a forked one is not."""

import ctypes
import os
import signal

from sandboxd.kernel.kcmp import is_same_memory

CLONE_VM = 0x100


def test_oneself_and_a_forked_child():
    assert is_same_memory(os.getpid(), os.getpid())
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    try:
        assert not is_same_memory(pid, os.getpid())
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_child_that_shares_its_parents_memory():
    """clone(CLONE_VM) of libc's own `pause`, on a stack of its own: no Python runs in the child."""
    libc = ctypes.CDLL(None, use_errno=True)
    stack = ctypes.create_string_buffer(1 << 16)
    top = ctypes.addressof(stack) + (1 << 16) - 16
    pid = libc.clone(ctypes.cast(libc.pause, ctypes.c_void_p), ctypes.c_void_p(top), CLONE_VM | signal.SIGCHLD, None)
    assert pid > 0
    try:
        assert is_same_memory(pid, os.getpid())
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_what_is_gone_or_not_ours_is_not_known():
    assert not is_same_memory(os.getpid(), 2**22 - 1)
    if os.getuid():
        assert not is_same_memory(os.getpid(), 1)
