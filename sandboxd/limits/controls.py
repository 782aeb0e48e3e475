"""Limits as the files of a control group, and what such files say as a Sample.

Pure: texts and numbers in and out (cgroup-v2.rst has the formats). A limit that is none is written too, since a group that was
limited may be asked to have none again.
"""

from collections.abc import Mapping, Sequence

from sandboxd.spec import Limits

PERIOD = 100_000  # microseconds, the kernel's own default
NONE = "max"


def files(limits: Limits, ways: Mapping[str, str], controllers: Sequence[str], devices: Sequence[str]) -> list[tuple[str, str]]:
    """(file, text) in the order in which to write them, for all that the kernel is to enforce.

    Memory that is limited may not be swapped out instead: what a limit keeps from the host's memory it would then put on its
    disk. One that is out of memory is ended as a whole, since a service of which parts are missing is worse than none.
    """
    found: list[tuple[str, str]] = []
    if "memory" in controllers:
        memory = limits.memory if ways.get("memory") == "cgroup" else None
        high = limits.memory_high if ways.get("memory_high") == "cgroup" else None
        found += [("memory.high", text(high)), ("memory.swap.max", NONE if memory is None else "0")]
        found += [("memory.max", text(memory)), ("memory.oom.group", "1")]
    if "cpu" in controllers:
        share = NONE if limits.cpus is None else str(max(1000, round(limits.cpus * PERIOD)))  # 1 ms is the least (sched-bwc)
        found += [("cpu.max", f"{share} {PERIOD}"), ("cpu.weight", str(limits.cpu_weight or 100))]
    if "pids" in controllers:
        found.append(("pids.max", text(limits.pids)))
    if "io" in controllers:
        found += [("io.max", f"{device} rbps={text(limits.io_read)} wbps={text(limits.io_write)}") for device in devices]
    return found


def text(value: int | None) -> str:
    """A number, or `max` for none."""
    return NONE if value is None else str(value)


def io_total(stat: str) -> tuple[int, int]:
    """(bytes read, bytes written) of io.stat, all devices added up."""
    read = written = 0
    for line in stat.splitlines():
        for word in line.split()[1:]:
            key, _, value = word.partition("=")
            if key == "rbytes" and value.isdigit():
                read += int(value)
            elif key == "wbytes" and value.isdigit():
                written += int(value)
    return read, written


def working_set(current: int, stat: Mapping[str, int]) -> int:
    """Bytes in use as docker shows them: without the page cache that was not touched for long."""
    return max(0, current - stat.get("inactive_file", 0))


def unreclaimable(current: int, stat: Mapping[str, int]) -> int:
    """Bytes that a smaller limit could not take back without killing."""
    cache = sum(stat.get(name, 0) for name in ("inactive_file", "active_file", "slab_reclaimable"))
    return max(0, current - cache)
