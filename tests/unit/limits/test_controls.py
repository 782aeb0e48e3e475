"""Limits as cgroup files: what the kernel's documentation says, and what kernels print."""

from hypothesis import given
from hypothesis import strategies as st

from sandboxd.limits.controls import files, io_total, unreclaimable, working_set
from sandboxd.spec import Limits

G = 1 << 30
ALL = ["cpu", "io", "memory", "pids"]
EVERYTHING = Limits(memory=G, memory_high=G // 2, cpus=1.5, cpu_weight=20, pids=64, io_read=G, io_write=2 * G)
WAYS = dict.fromkeys(("memory", "memory_high", "cpus", "cpu_weight", "pids", "io_read", "io_write"), "cgroup")


def test_every_limit_is_written() -> None:
    assert dict(files(EVERYTHING, WAYS, ALL, ["8:0"])) == {
        "memory.max": str(G), "memory.high": str(G // 2), "memory.swap.max": "0", "memory.oom.group": "1",
        "cpu.max": "150000 100000", "cpu.weight": "20", "pids.max": "64", "io.max": f"8:0 rbps={G} wbps={2 * G}",
    }  # fmt: skip


def test_what_is_no_limit_is_written_too_and_leaves_swap_alone() -> None:
    assert dict(files(Limits(pids=None), {}, ALL, ["8:0"])) == {
        "memory.max": "max", "memory.high": "max", "memory.swap.max": "max", "memory.oom.group": "1",
        "cpu.max": "max 100000", "cpu.weight": "100", "pids.max": "max", "io.max": "8:0 rbps=max wbps=max",
    }  # fmt: skip


@given(st.sets(st.sampled_from(ALL)))
def test_only_files_of_controllers_that_are_there(controllers: set[str]) -> None:
    assert {name.partition(".")[0] for name, _ in files(EVERYTHING, WAYS, sorted(controllers), ["8:0"])} == controllers


def test_the_least_quota_is_the_kernels() -> None:
    assert dict(files(Limits(cpus=0.001), WAYS, ["cpu"], []))["cpu.max"] == "1000 100000"


STAT = """\
8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0
8:0 rbytes=90430464 wbytes=299008000 rios=8950 wios=1252 dbytes=50331648 dios=3021
253:0
"""


def test_traffic_of_all_disks_is_added_up() -> None:
    assert io_total(STAT) == (1459200 + 90430464, 314773504 + 299008000)
    assert io_total("") == (0, 0)


def test_caches_are_not_counted() -> None:
    stat = {"inactive_file": 100, "active_file": 50, "slab_reclaimable": 10, "anon": 500}
    assert working_set(1000, stat) == 900
    assert unreclaimable(1000, stat) == 840
    assert working_set(10, stat) == unreclaimable(10, stat) == 0
