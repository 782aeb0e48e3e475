"""inotify(7): being told that files changed, instead of looking again and again.

Imports errors and libc. A full queue is no error: an event of watch -1 says that some were lost, and who reads must look.
"""

import ctypes
import os
import struct
from typing import NamedTuple

from sandboxd.kernel.libc import check, function

IN_MOVED_FROM = 0x40
IN_MODIFY, IN_CREATE, IN_DELETE, IN_MOVED_TO, IN_DELETE_SELF, IN_MOVE_SELF = 0x2, 0x100, 0x200, 0x80, 0x400, 0x800
IN_Q_OVERFLOW, IN_IGNORED, IN_ONLYDIR = 0x4000, 0x8000, 0x01000000
IN_CLOEXEC, IN_NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK

HEAD = struct.Struct("=iIII")  # inotify_event: wd mask cookie len

_inotify_init1 = function("inotify_init1", ctypes.c_int)
_inotify_add_watch = function("inotify_add_watch", ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
_inotify_rm_watch = function("inotify_rm_watch", ctypes.c_int, ctypes.c_int)


class Event(NamedTuple):
    """Something happened to what `watch` watches; name: the entry of a watched directory."""

    watch: int
    mask: int
    name: str


def inotify_init() -> int:
    """A new instance, close-on-exec and non-blocking; raises KernelError (EMFILE: fs.inotify.max_user_instances)."""
    return check(_inotify_init1(IN_CLOEXEC | IN_NONBLOCK), "inotify_init1")


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    """Watch a path; one that is watched already keeps its number; raises KernelError."""
    return check(_inotify_add_watch(fd, os.fsencode(path), mask), "inotify_add_watch", path)


def inotify_rm_watch(fd: int, watch: int) -> None:
    """Watch it no more; raises KernelError (EINVAL: it is gone already)."""
    check(_inotify_rm_watch(fd, watch), "inotify_rm_watch")


def read_events(fd: int) -> list[Event]:
    """What is queued, up to 64 KiB of it; empty when nothing is."""
    try:
        data = os.read(fd, 1 << 16)
    except BlockingIOError:
        return []
    events = []
    offset = 0
    while offset + HEAD.size <= len(data):
        watch, mask, _, length = HEAD.unpack_from(data, offset)
        offset += HEAD.size
        events.append(Event(watch, mask, os.fsdecode(data[offset : offset + length].rstrip(b"\0"))))
        offset += length
    return events
