"""vfork and exec with ceilings: posix_spawn(3) sets no rlimits, and a fork of a process that is a Python takes twice as long.

Imports `kernel.libc`. The child of clone(CLONE_VM | CLONE_VFORK) runs in its parent's memory while that waits, so no Python may
run in it. What it does is a chain of contexts, each one call of a C function (makecontext(3)), made before: the child enters
the first, and each leads to the next. A chain knows no branches, so a call that could fail is made by the caller beforehand;
the exec alone may fail, after which come the two calls that say so and end the child. Making it takes longer than running it,
so that is a step of its own, for when nobody waits.
"""

import ctypes
import os
import struct

from sandboxd.kernel.libc import check, function, libc

CLONE_VM, CLONE_VFORK = 0x100, 0x4000
SIGCHLD = 17  # of all architectures that Python runs on but mips and hppa, for which `is_possible` says no
CONTEXT = 8192  # more than sizeof(ucontext_t): 968 bytes on x86_64, 4560 on aarch64
MOST = 24  # calls
STACK = 1 << 15
PATH = 4096  # PATH_MAX of linux/limits.h: more is ENAMETOOLONG
APART = 256  # bytes between the tops of the calls' stacks: a call runs below its own, what comes later lies above
SPACE = MOST * CONTEXT + 2 * STACK + PATH
MACHINES = ("x86_64", "aarch64")


def address(text: bytes) -> int:
    """Where bytes lie; they have to be kept alive."""
    return ctypes.c_void_p.from_buffer(ctypes.c_char_p(text)).value or 0


def _optional(name: str, *argtypes: type):  # type: ignore[no-untyped-def]
    return function(name, *argtypes) if hasattr(libc, name) else None


Area = ctypes.c_char * SPACE
_getcontext = _optional("getcontext", ctypes.c_void_p)  # musl has none
_make = {
    count: _optional("makecontext", ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_long] * (1 + count)) for count in range(4)
}
_clone = _optional("clone", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
NAMES = ("setrlimit", "setsid", "dup2", "execve", "memset", "_exit", "setcontext")
CALLS = {name: ctypes.cast(getattr(libc, name), ctypes.c_void_p).value or 0 for name in NAMES if hasattr(libc, name)}


def is_possible() -> bool:
    """Whether this machine and its C library have all that `spawn` uses; else fork."""
    return _getcontext is not None and len(CALLS) == len(NAMES) and os.uname().machine in MACHINES


class Strings:
    """A NULL-ended array of C strings."""

    __slots__ = ("address", "pointers", "text")

    def __init__(self, words: list[bytes]) -> None:
        self.text = b"".join(word + b"\0" for word in words)
        place, places = address(self.text), []
        for word in words:
            places.append(place)
            place += len(word) + 1
        self.pointers = struct.pack(f"{len(places) + 1}Q", *places, 0)
        self.address = address(self.pointers)


class Spawn:
    """A program about to be executed, in a session of its own, with nothing open but stdio and what is not close-on-exec.

    limits: (RLIMIT number, soft, hard), none above the caller's own. The signal mask is the one that its maker has; directory
    and umask are those of who starts it, from the same process, which has one thread.
    """

    __slots__ = ("area", "first", "kept", "place")

    def __init__(
        self, argv: list[bytes], env: list[bytes], *, stdio: tuple[int, int, int], limits: list[tuple[int, int, int]]
    ) -> None:
        words, variables = Strings(argv), Strings(env)
        ceilings = [(number, struct.pack("QQ", soft & 2**64 - 1, hard & 2**64 - 1)) for number, soft, hard in limits]
        self.area = Area()
        failed = ctypes.addressof(self.area)  # its first byte
        self.place = failed + SPACE - PATH
        self.kept = words, variables, ceilings  # the chain knows only where they lie
        calls: list[tuple[str, tuple[int, ...]]] = [("setrlimit", (number, address(pair))) for number, pair in ceilings]
        calls += [("setsid", ()), *[("dup2", (source, target)) for target, source in enumerate(stdio)]]
        calls += [("execve", (self.place, words.address, variables.address)), ("memset", (failed, 1, 1)), ("_exit", (127,))]
        self.first = chain(failed + 64, calls)

    def start(self, path: bytes) -> int:
        """Execute that file, once; its pid, or 0."""
        if len(path) >= PATH:
            return 0
        ctypes.memmove(self.place, path + b"\0", len(path) + 1)
        pid = check(_clone(CALLS["setcontext"], self.place, CLONE_VM | CLONE_VFORK | SIGCHLD, self.first), "clone")
        if self.area[0] != b"\0":
            os.waitpid(pid, 0)
            return 0
        return pid


def chain(start: int, calls: list[tuple[str, tuple[int, ...]]]) -> int:
    """Contexts from `start` on, for one call after another; where the first one lies."""
    stack = start + MOST * CONTEXT
    for index in reversed(range(len(calls))):
        name, arguments = calls[index]
        here = start + index * CONTEXT
        _getcontext(here)
        after = here + CONTEXT if index + 1 < len(calls) else 0
        # uc_flags, uc_link, uc_stack: the same in all 64-bit ucontext_t.
        head = (ctypes.c_uint64 * 5).from_address(here)
        head[1], head[2], head[4] = after, stack, STACK // 2 + (index + 1) * APART
        _make[len(arguments)](here, CALLS[name], len(arguments), *arguments)
    return start
