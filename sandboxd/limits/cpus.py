"""Which CPUs an env gets where their number is limited by affinity: the least loaded ones.

`rank` is pure; `Load` reads /proc/stat. Two things count: how many envs were given a CPU already (they may be idle now and busy
in a minute), and how busy it was since the last look, which stands for everything else on the host.
"""

import time
from collections.abc import Iterable, Mapping, Sequence

FRESH = 0.2  # seconds; a shorter look says nothing


def rank(allowed: Sequence[int], held: Iterable[Sequence[int]], busy: Mapping[int, float]) -> list[int]:
    """The allowed CPUs, the least loaded first. held: the CPUs of each env that has some; busy: 0 to 1."""
    loads = {cpu: busy.get(cpu, 0.0) for cpu in allowed}
    for cpus in held:
        for cpu in cpus:
            if cpu in loads:
                loads[cpu] += 1.0
    return sorted(allowed, key=lambda cpu: (loads[cpu], cpu))


class Load:
    """How busy each CPU was since an earlier look."""

    def __init__(self) -> None:
        self._seen = times()
        self._when = time.monotonic()
        self._busy: dict[int, float] = {}

    def busy(self) -> dict[int, float]:
        """CPU -> 0 to 1."""
        now = time.monotonic()
        if now - self._when >= FRESH:
            seen = times()
            self._busy = {cpu: share(self._seen.get(cpu, (0, 0)), pair) for cpu, pair in seen.items()}
            self._seen, self._when = seen, now
        return self._busy


def share(before: tuple[int, int], after: tuple[int, int]) -> float:
    """The busy part of the time between two looks, each (busy, all) in ticks."""
    whole = after[1] - before[1]
    return min(1.0, max(0.0, (after[0] - before[0]) / whole)) if whole > 0 else 0.0


def times() -> dict[int, tuple[int, int]]:
    """CPU -> (busy, all) ticks since boot; idle and waiting for disks are not busy (proc_stat(5))."""
    found = {}
    with open("/proc/stat", encoding="ascii") as file:
        for line in file:
            name, *fields = line.split()
            if name.startswith("cpu") and name != "cpu":
                ticks = [int(field) for field in fields[:8]]
                found[int(name[3:])] = (sum(ticks) - ticks[3] - ticks[4], sum(ticks))
    return found
