"""What an env uses, without cgroups: one walk over the tree below its init.

Touches /proc, waits for nothing. The walk reads `children` and `stat` by itself: 27 µs a process where psutil takes 100 (and
its children(recursive) 49 ms a call among 666 processes, since it looks at every process of the host): 200 envs of three
processes each take 30 ms, 25 without their disk traffic, most of it in open(2). PSS costs 0.1 ms and more a process, so it is
read only when RSS has passed the gate. Not seen, for want of a cgroup: kernel memory.
"""

import os
import time
from collections.abc import Callable, Collection
from typing import NamedTuple

from sandboxd.errors import KernelError
from sandboxd.kernel.kcmp import is_same_memory
from sandboxd.kernel.sysinfo import shared_memory
from sandboxd.limits import memoryfs, openfiles
from sandboxd.limits.memoryfs import MemoryMount
from sandboxd.limits.usage import Sample

__all__ = ["Sample", "Sampler"]

WALK_LIMIT = 65536  # a fork bomb must not keep the daemon walking
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


class Stat(NamedTuple):
    """The fields of /proc/PID/stat that are counted. cpu: with that of children that were waited for."""

    parent: int
    threads: int
    cpu: int
    rss: int
    start: int
    dead: bool = False


class Sampler:
    """Looks at envs; remembers only where their tmpfs mounts are. tree: the processes of the last one."""

    def __init__(self) -> None:
        self.tree: dict[int, Stat] = {}
        self._mounts: dict[int, tuple[int, list[MemoryMount]]] = {}  # by pid, with its start time: pids are used again

    def forget(self, init_pid: int) -> None:
        """That init has ended."""
        self._mounts.pop(init_pid, None)

    def sample(
        self, init_pid: int, *, gate: int | None = None, traffic: bool = True, unattached: Callable[[], int] = lambda: 0
    ) -> Sample:
        """Look at the tree of an init now. gate: bytes from which on PSS is read too (0: always, None: memory is bound by
        nothing, and all that is known of it is RSS: half the time). traffic: also count what went to disks; without it io_read
        and io_write are 0 and the look costs a quarter less. unattached: tells the bytes of shared memory that is nobody's,
        asked where they may matter.

        Raises KernelError (ESRCH) when init is gone. Processes that end meanwhile count as far as they were seen.
        """
        init = read_stat(init_pid)
        if init is None:
            raise KernelError(3, "open", f"/proc/{init_pid}/stat", hint="the env has ended")
        tree = self.tree = walk(init_pid)
        rss = sum(stat.rss for stat in tree.values()) * PAGE
        io = [read_io(pid) for pid in tree] if traffic else []
        mounts, tmpfs = ([], 0) if gate is None else self._memoryfs((init_pid, init.start), list(tree))
        pss: int | None = None
        mapped = 0
        unnamed: dict[int, int] = {}
        # No env has more in memfds than all of the host has in shared memory.
        if gate is not None and rss + tmpfs + shared_memory() > gate:
            unnamed = openfiles.memfds(tree)
            tmpfs += sum(unnamed.values()) + unattached()
        if gate is not None and rss + tmpfs > gate:
            pss, mapped = proportional(tree, mounts if tmpfs else [], unnamed)
        return Sample(
            rss=rss,
            tmpfs=tmpfs,
            pids=sum(stat.threads for stat in tree.values()),
            cpu_seconds=(init.cpu + sum(stat.cpu for stat in tree.values())) / TICK,
            io_read=sum(read for read, _ in io),
            io_write=sum(written for _, written in io),
            now=time.monotonic(),
            pss=pss,
            mapped=min(mapped, tmpfs),
            descriptors=max(map(openfiles.descriptors, tree), default=0),
        )

    def descriptors(self, init_pid: int) -> int:
        """The most that any process below an init has open."""
        return max(map(openfiles.descriptors, walk(init_pid)), default=0)

    def traffic(self, init_pid: int) -> tuple[int, int]:
        """(bytes read, bytes written) on disks by all below an init."""
        io = [read_io(pid) for pid in walk(init_pid)]
        return sum(read for read, _ in io), sum(written for _, written in io)

    def _memoryfs(self, init: tuple[int, int], pids: list[int]) -> tuple[list[MemoryMount], int]:
        """The env's own tmpfs mounts and the bytes in them, seen through the first of its processes that lets us."""
        for pid in pids:
            try:
                if self._mounts.get(init[0], (0, []))[0] != init[1]:
                    self._mounts[init[0]] = init[1], memoryfs.own_mounts(pid)
                mounts = self._mounts[init[0]][1]
                return mounts, memoryfs.bytes_used(pid, mounts)
            except OSError:
                continue
        return [], 0


def cpu_seconds(init_pid: int) -> float | None:
    """Processor time of an init and all below it so far, with that of children that were waited for; None when it is gone."""
    init = read_stat(init_pid)
    return None if init is None else (init.cpu + sum(stat.cpu for stat in walk(init_pid).values())) / TICK


def walk(init_pid: int) -> dict[int, Stat]:
    """Every process below an init (without it): one pass, each once; of what ends meanwhile what was seen."""
    found: dict[int, Stat] = {}
    waiting = children(init_pid)
    while waiting and len(found) < WALK_LIMIT:
        pid = waiting.pop()
        stat = read_stat(pid)
        if stat is not None and pid not in found:
            found[pid] = stat
            waiting.extend(children(pid, stat.threads))
    return found


def children(pid: int, threads: int = 0) -> list[int]:
    """A process's children, of all its threads (proc_pid_task(5)); none when it is gone. threads: how many, if known."""
    found: list[int] = []
    try:
        for thread in [pid] if threads == 1 else os.listdir(f"/proc/{pid}/task"):
            found.extend(map(int, read(f"/proc/{pid}/task/{thread}/children").split()))
    except OSError:
        pass
    return found


def read_stat(pid: int) -> Stat | None:
    """What proc_pid_stat(5) says; None when the process is gone."""
    try:
        data = read(f"/proc/{pid}/stat")
    except OSError:
        return None
    fields = data[data.rfind(b")") + 2 :].split()  # the name before it may hold anything, ")" too
    if len(fields) < 22:
        return None
    return Stat(
        parent=int(fields[1]),
        threads=int(fields[17]),
        cpu=sum(map(int, fields[11:15])),
        rss=int(fields[21]),
        start=int(fields[19]),
        dead=fields[0] in (b"Z", b"X"),
    )


def read_io(pid: int) -> tuple[int, int]:
    """(bytes read, bytes written) on disks, children that were waited for included; zeros where that is not ours to know."""
    counted = {b"read_bytes": 0, b"write_bytes": 0}
    try:
        for line in read(f"/proc/{pid}/io").splitlines():
            key, _, value = line.partition(b": ")
            if key in counted:
                counted[key] = int(value)
    except OSError:
        pass
    return counted[b"read_bytes"], counted[b"write_bytes"]


def proportional(tree: dict[int, Stat], mounts: list[MemoryMount], unnamed: Collection[int] = ()) -> tuple[int, int]:
    """(bytes of anonymous and shared memory, each page counted once; bytes of `mounts`, and of memfds, among them)."""
    pss = mapped = 0
    for pid, stat in tree.items():
        if stat.parent in tree and is_same_memory(pid, stat.parent):
            continue  # between vfork and exec: the parent's pages, which its own PSS counts whole
        try:
            private, shared = read_rollup(pid)
            pss += private + shared
            if shared and mounts:
                mapped += memoryfs.mapped_bytes(pid, mounts)
            if shared and unnamed:
                mapped += openfiles.mapped_bytes(pid, unnamed)
        except ProcessLookupError:
            continue  # it ended: what it had is free
        except OSError:
            # Unreadable (a process that made itself non-dumpable): it must not be able to hide, so its RSS counts.
            pss += stat.rss * PAGE if read_stat(pid) is not None else 0
    return pss, mapped


def read_rollup(pid: int) -> tuple[int, int]:
    """(anonymous, shared) proportional bytes of smaps_rollup; raises OSError."""
    sizes = {b"Pss_Anon": 0, b"Pss_Shmem": 0}
    for line in read(f"/proc/{pid}/smaps_rollup").splitlines():
        key, _, value = line.partition(b":")
        if key in sizes:
            sizes[key] = int(value.split()[0]) << 10
    return sizes[b"Pss_Anon"], sizes[b"Pss_Shmem"]


def read(path: str) -> bytes:
    """A /proc file whole."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, 4096)
        if len(data) >= 4000:  # these files come a page at a time, and a page may end before the last number that would not fit
            while more := os.read(fd, 1 << 16):
                data += more
        return data
    finally:
        os.close(fd)
