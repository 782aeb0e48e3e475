"""vfork and exec with ceilings: posix_spawn(3) sets no rlimits, and a fork of a process that is a Python takes twice as long.

Imports `kernel.libc`. The child of clone(CLONE_VM | CLONE_VFORK) runs in its parent's memory while that waits, so no Python may
run in it. What it does is a chain of contexts, each one call of a C function (makecontext(3)), made before: the child enters
the first, and each leads to the next. A chain knows no branches, so a call that could fail is made by the caller beforehand;
the exec alone may fail, after which come the two calls that say so and end the child. To make it takes longer than to run it,
so most of it is made before it is known what is to be executed, while nobody waits.
"""

import ctypes
import os
import struct

from sandboxd.kernel.libc import check, function, libc

CLONE_VM, CLONE_VFORK = 0x100, 0x4000
READ_WRITE, PRIVATE_ANONYMOUS = 0x3, 0x22
SIGCHLD = 17  # of all architectures that Python runs on but mips and hppa, for which `is_possible` says no
CONTEXTS = {"x86_64": 1024, "aarch64": 8192}  # more than sizeof(ucontext_t): 968 and 4560 bytes. No other machine was tried
CONTEXT = CONTEXTS.get(os.uname().machine, 0)
MOST = 24  # calls
STACK = 1 << 15
APART = 256  # bytes between the tops of the calls' stacks: a call runs below its own, what comes later lies above
PATH = 4096  # PATH_MAX of linux/limits.h: more is ENAMETOOLONG
POINTERS = 4096  # bytes, of each of argv and environ
SPACE = MOST * CONTEXT + 2 * STACK + PATH + 2 * POINTERS


def address(text: bytes) -> int:
    """Where bytes lie; they have to be kept alive."""
    return ctypes.c_void_p.from_buffer(ctypes.c_char_p(text)).value or 0


def _optional(name: str, *argtypes: type):  # type: ignore[no-untyped-def]
    return function(name, *argtypes) if hasattr(libc, name) else None


_mmap = function(
    "mmap", ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long, restype=ctypes.c_void_p
)
_munmap = function("munmap", ctypes.c_void_p, ctypes.c_size_t)
_getcontext = _optional("getcontext", ctypes.c_void_p)  # musl has none
_make = {
    count: _optional("makecontext", ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_long] * (1 + count)) for count in range(4)
}
_clone = _optional("clone", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
NAMES = ("setrlimit", "setsid", "dup2", "execve", "memset", "_exit", "setcontext")
CALLS = {name: ctypes.cast(getattr(libc, name), ctypes.c_void_p).value or 0 for name in NAMES if hasattr(libc, name)}


def is_possible() -> bool:
    """Whether this machine and its C library have all that `spawn` uses; else fork."""
    return _getcontext is not None and len(CALLS) == len(NAMES) and CONTEXT > 0


def pointers(words: list[bytes]) -> tuple[bytes, bytes]:
    """A NULL-ended array of C strings, and what has to be kept alive: the strings."""
    text = b"".join(word + b"\0" for word in words)
    place, places = address(text), []
    for word in words:
        places.append(place)
        place += len(word) + 1
    return struct.pack(f"{len(places) + 1}Q", *places, 0), text


class Spawn:
    """Executes one program, in a session of its own, with nothing open but stdio and what is not close-on-exec.

    The program's signal mask is the one that this is made with; directory and umask are those of who starts it. Both are the
    same process, which has one thread.
    """

    __slots__ = ("argv", "environ", "failed", "first", "kept", "path")

    def __init__(self, stdio: tuple[int, int, int]) -> None:
        # Of its own: what is never touched is no memory, and all of it goes back at once (of the heap it stayed: 0.1 MB).
        self.failed = _mmap(None, SPACE, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0)  # the first byte
        if self.failed == ctypes.c_void_p(-1).value:
            self.failed = 0
            check(-1, "mmap")
        self.environ = self.failed + SPACE - POINTERS
        self.argv = self.environ - POINTERS
        self.path = self.argv - PATH
        calls: list[tuple[str, tuple[int, ...]]] = [("setsid", ())]
        calls += [("dup2", (source, target)) for target, source in enumerate(stdio)]
        calls += [("execve", (self.path, self.argv, self.environ)), ("memset", (self.failed, 1, 1)), ("_exit", (127,))]
        self.kept: list[bytes] = []  # the chain knows only where they lie
        self.first = MOST - len(calls)
        chain(self.failed + 64, self.first, calls)

    def fill(self, argv: list[bytes], env: list[bytes], limits: list[tuple[int, int, int]]) -> bool:
        """What to execute, once; False: it is too much. limits: (RLIMIT number, soft, hard), none above the caller's own."""
        words, variables = pointers(argv), pointers(env)
        if len(limits) > self.first or max(len(words[0]), len(variables[0])) > POINTERS:
            return False
        ctypes.memmove(self.argv, words[0], len(words[0]))
        ctypes.memmove(self.environ, variables[0], len(variables[0]))
        pairs = [struct.pack("QQ", soft & 2**64 - 1, hard & 2**64 - 1) for _, soft, hard in limits]
        self.kept = [words[1], variables[1], *pairs]
        self.first -= len(limits)
        lower: list[tuple[str, tuple[int, ...]]] = [
            ("setrlimit", (number, address(pair))) for (number, _, _), pair in zip(limits, pairs, strict=True)
        ]
        chain(self.failed + 64, self.first, lower)
        return True

    def start(self, path: bytes) -> int:
        """Execute that file, once: its pid, or 0 where that cannot be."""
        if len(path) >= PATH or not self.failed:
            return 0
        ctypes.memmove(self.path, path + b"\0", len(path) + 1)
        first = self.failed + 64 + self.first * CONTEXT
        try:
            pid = check(_clone(CALLS["setcontext"], self.path, CLONE_VM | CLONE_VFORK | SIGCHLD, first), "clone")
            if ctypes.c_char.from_address(self.failed).value == b"\0":
                return pid
        finally:
            self.close()
        os.waitpid(pid, 0)
        return 0

    def close(self) -> None:
        """Let go of the memory."""
        place, self.failed = self.failed, 0
        if place:
            _munmap(place, SPACE)


def chain(start: int, first: int, calls: list[tuple[str, tuple[int, ...]]]) -> None:
    """Contexts for one call after another, from the one of that number on; the last of all there are leads nowhere."""
    stack = start + MOST * CONTEXT
    for index in range(first + len(calls) - 1, first - 1, -1):
        name, arguments = calls[index - first]
        here = start + index * CONTEXT
        _getcontext(here)
        after = here + CONTEXT if index + 1 < MOST else 0
        # uc_flags, uc_link, uc_stack: the same in all 64-bit ucontext_t.
        head = (ctypes.c_uint64 * 5).from_address(here)
        head[1], head[2], head[4] = after, stack, STACK // 2 + (index + 1) * APART
        _make[len(arguments)](here, CALLS[name], len(arguments), *arguments)
