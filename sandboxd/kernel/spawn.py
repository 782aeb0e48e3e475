"""posix_spawn(3), with what Python's own leaves out: the working directory, and closing all other descriptors.

Imports `errors` and `kernel.libc`. The C library makes the child by clone(CLONE_VM | CLONE_VFORK): no page table is copied and
none of the child's work is Python, so a program starts in half the time that fork, some steps in Python and exec take. The
caller is suspended until the exec is done, and learns its errno from the call itself. rlimits and umask are the caller's own.
"""

import ctypes
import os
from array import array

from sandboxd.errors import KernelError
from sandboxd.kernel.libc import Prototype, function, libc

SETSIGDEF, SETSIGMASK, SETSID = 0x04, 0x08, 0x80  # spawn.h, the same in glibc and musl
SPACE = 512  # more than sizeof(posix_spawnattr_t) (336 in glibc) and posix_spawn_file_actions_t (80)
SIGSET = 128
NSIG = 65  # as the signal module says, which is not worth its memory here

_spawn = function(
    "posix_spawn",
    ctypes.POINTER(ctypes.c_int), ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p,
)  # fmt: skip
_actions_init = function("posix_spawn_file_actions_init", ctypes.c_void_p)
_actions_destroy = function("posix_spawn_file_actions_destroy", ctypes.c_void_p)
_add_dup2 = function("posix_spawn_file_actions_adddup2", ctypes.c_void_p, ctypes.c_int, ctypes.c_int)
_attr_init = function("posix_spawnattr_init", ctypes.c_void_p)
_attr_destroy = function("posix_spawnattr_destroy", ctypes.c_void_p)
_set_flags = function("posix_spawnattr_setflags", ctypes.c_void_p, ctypes.c_short)
_set_default = function("posix_spawnattr_setsigdefault", ctypes.c_void_p, ctypes.c_void_p)


def _optional(name: str, *argtypes: type) -> Prototype | None:
    return function(name, *argtypes) if hasattr(libc, name) else None


_add_chdir = _optional("posix_spawn_file_actions_addchdir_np", ctypes.c_void_p, ctypes.c_char_p)  # glibc 2.29, musl 1.1.24
_add_closefrom = _optional("posix_spawn_file_actions_addclosefrom_np", ctypes.c_void_p, ctypes.c_int)  # glibc 2.34


def is_possible() -> bool:
    """Whether this C library has all that `spawn` uses; else fork."""
    return _add_chdir is not None and _add_closefrom is not None


class Strings:
    """A NULL-ended array of C strings. Plain arrays: ctypes would make a type for every length, and keep it."""

    __slots__ = ("address", "pointers", "text")

    def __init__(self, words: list[bytes]) -> None:
        self.text = array("b", b"".join(word + b"\0" for word in words))
        place, _ = self.text.buffer_info()
        self.pointers = array("Q")
        for word in words:
            self.pointers.append(place)
            place += len(word) + 1
        self.pointers.append(0)
        self.address, _ = self.pointers.buffer_info()


def spawn(path: bytes, argv: list[bytes], env: list[bytes], *, stdio: tuple[int, int, int], workdir: bytes) -> int:
    """Execute `path` in a session of its own, signals default and unblocked, nothing open but stdio; its pid.

    stdio: descriptors above 2. Raises KernelError as execve(2) or chdir(2) would; which of them, the caller has to find out.
    """
    actions = ctypes.create_string_buffer(SPACE)
    attributes = ctypes.create_string_buffer(SPACE)
    pid = ctypes.c_int(-1)
    _actions_init(actions)
    _attr_init(attributes)
    try:
        for target, source in enumerate(stdio):
            _add_dup2(actions, source, target)
        if _add_chdir is not None and _add_closefrom is not None:
            _add_chdir(actions, workdir)
            _add_closefrom(actions, 3)
        _set_flags(attributes, SETSIGDEF | SETSIGMASK | SETSID)  # the mask stays as it is initialised: empty
        _set_default(attributes, b"\xff" * (NSIG // 8) + bytes(SIGSET))
        words, variables = Strings(argv), Strings(env)
        number = _spawn(ctypes.byref(pid), path, actions, attributes, words.address, variables.address)
    finally:
        _actions_destroy(actions)
        _attr_destroy(attributes)
    if number:
        raise KernelError(number, "posix_spawn", os.fsdecode(path))
    return pid.value
