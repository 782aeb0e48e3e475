"""sysinfo(2): what the kernel says of the host's memory as a whole, in a microsecond.

Imports ctypes and `kernel.libc`. /proc/meminfo says the same in some 70, most of it in writing and reading text: too much for
what is asked at every look at every env. Invariant: the number is that of meminfo's Shmem (si_meminfo, mm/show_mem.c).
"""

import ctypes
import struct

from sandboxd.kernel.libc import function

FIELDS = struct.Struct("@l3L2LL3LH2LI")  # uptime, loads, total, free; shared; …, mem_unit
ROOM = 256  # the kernel writes the padding after them, too

_sysinfo = function("sysinfo", ctypes.c_char_p)


def shared_memory() -> int:
    """Bytes of shared memory in all of the host; more than there can be where that is not told."""
    about = ctypes.create_string_buffer(ROOM)
    if _sysinfo(about) != 0:
        return 1 << 62
    fields = FIELDS.unpack_from(about)
    return int(fields[6] * fields[-1])
