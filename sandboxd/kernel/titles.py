"""What `ps` shows: the command line and the thread name of this process.

Imports `kernel.libc`. The command line is the memory the kernel put argv in (proc(5): arg_start, arg_end in /proc/PID/stat);
writing there needs no privilege, unlike PR_SET_MM. A title longer than that memory is cut, so a program that wants room is
started with a long argument. Works in a non-dumpable process, whose /proc files it cannot open, if `room()` ran before.
"""

import ctypes

from sandboxd.kernel.libc import prctl

PR_SET_NAME = 15
COMM = 15  # TASK_COMM_LEN without the NUL

_room: tuple[int, int] | None = None


def room() -> tuple[int, int]:
    """Address and length of the memory of argv; found once, the same in every forked child."""
    global _room  # noqa: PLW0603 - a fact of the process image, and a non-dumpable child can no longer read it
    if _room is None:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # fields 48 and 49; after the name come fields 3 and up
        _room = (start, end - start)
    return _room


def set_title(title: str) -> None:
    """Show `title` as the command line, and what is before its first colon as the thread name."""
    start, length = room()
    text = title.encode("utf-8", "replace").replace(b"\0", b" ")
    # The last byte stays NUL: without it the kernel takes the environment for the rest of the title (fs/proc/base.c).
    ctypes.memmove(start, text[: length - 1].ljust(length, b"\0"), length)
    set_name(title.partition(":")[0])


def name_of(pid: int) -> str:
    """The thread name of another process; "" when it is gone."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""


def set_name(name: str) -> None:
    """The thread's name, at most 15 bytes."""
    buffer = ctypes.create_string_buffer(name.encode("utf-8", "replace")[:COMM])
    prctl(PR_SET_NAME, ctypes.addressof(buffer), name="PR_SET_NAME")
