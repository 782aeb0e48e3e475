"""kcmp(2): whether two processes are one in some respect, which no /proc file says.

Imports errors and libc. No libc has a symbol for it and it is older than the numbers all architectures share, so its two are
here: x86_64's own and that of asm-generic (aarch64, riscv64, loongarch64).
"""

import ctypes
import os

from sandboxd.kernel.libc import syscall

NUMBERS = {"x86_64": 312, "aarch64": 272, "riscv64": 272, "loongarch64": 272}
KCMP_VM = 1

_kcmp = syscall(NUMBERS.get(os.uname().machine, -1), ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong)


def is_same_memory(pid: int, other: int) -> bool:
    """Whether two processes share one address space, as a child does between vfork and exec; False where it is not known."""
    return _kcmp(pid, other, KCMP_VM, 0, 0) == 0
