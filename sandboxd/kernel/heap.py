"""The heap of a process that others are forked from, and of those: what is free goes back, what is there is left alone.

Imports `kernel.libc`. A long-lived small process keeps every page its start-up ever used, and each env has such a process; and
to look at an object is to write to it, since CPython counts references in the object itself.
"""

import ctypes
import gc
import sys

from sandboxd.kernel.libc import function, libc

_trim = function("malloc_trim", ctypes.c_size_t) if hasattr(libc, "malloc_trim") else None  # musl has none
IMMORTAL = 0xFFFFFFFF  # in the lower half of ob_refcnt: counted no more, on any 64-bit CPython from 3.12 on (PEP 683)


def trim() -> None:
    """malloc_trim(3): give whole free pages back to the kernel; nothing where the C library cannot."""
    if _trim is not None:
        _trim(0)


def freeze() -> int:
    """Have all that is there now live for ever: neither collected nor, from 3.12 on, counted; how many objects are not counted.

    Before a process is forked from which others are: pages of what they only look at stay shared (measured of an env's pid 1:
    1.86 MB of its own with 3.13, 1.05 so). None of it is ever freed, which is what it is there for. With 3.11 it is 2.1: of the
    527 pages that a pid 1 has for itself there, 172 are as they were at its birth, and 127 differ in one or two words.
    """
    gc.collect()
    found = everything() if is_immortality_known() else []  # what is frozen is not listed any more
    gc.freeze()
    gc.disable()
    for address in found:
        ctypes.c_uint32.from_address(address).value = IMMORTAL
    return len(found)


def is_immortality_known() -> bool:
    """Whether this is an interpreter whose way of counting is the one above; one without a lock counts in two places."""
    version = tuple(sys.version_info[:2])
    return version >= (3, 12) and sys.byteorder == "little" and sys.maxsize > 1 << 62 and "t" not in sys.abiflags


def everything() -> list[int]:
    """The addresses of all objects that lead from those that the collector knows."""
    code, seen = type(everything.__code__), set[int]()
    waiting = gc.get_objects()
    own = {id(seen), id(waiting)}
    while waiting:
        one = waiting.pop()
        if id(one) in seen or id(one) in own:
            continue
        seen.add(id(one))
        waiting.extend(gc.get_referents(one))
        if isinstance(one, code):  # which the collector does not look into
            waiting += [one.co_consts, one.co_names, one.co_name, one.co_qualname, one.co_filename]
            waiting += [*one.co_varnames, *one.co_freevars, *one.co_cellvars]
    return list(seen)
