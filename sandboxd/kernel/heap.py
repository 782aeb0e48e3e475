"""The C library's heap: giving back what is free in it. Imports `kernel.libc`.

A long-lived small process keeps every page its start-up ever used, and each env has such a process.
"""

import ctypes

from sandboxd.kernel.libc import function, libc

_trim = function("malloc_trim", ctypes.c_size_t) if hasattr(libc, "malloc_trim") else None  # musl has none


def trim() -> None:
    """malloc_trim(3): give whole free pages back to the kernel; nothing where the C library cannot."""
    if _trim is not None:
        _trim(0)
