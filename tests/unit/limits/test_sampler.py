"""Samples of real trees: RSS as the gate, PSS as the truth, files in memory, and nothing that can hide or crash it."""

import os
import subprocess
import sys

import pytest

from sandboxd.errors import KernelError
from sandboxd.limits import sampler as module
from sandboxd.limits.sampler import Sampler, walk
from sandboxd.limits.verdict import judge
from sandboxd.spec import Limits
from tests.unit.limits.trees import Tree

M = 1 << 20
WAIT = "child(signal.pause)\n"


def test_a_tree_is_walked_whole_and_init_is_not_counted():
    code = """
def parent():
    child(signal.pause)
    child(signal.pause)
    say("below", *open(f"/proc/self/task/{os.getpid()}/children").read().split())
    signal.pause()
child(parent)
sys.stdin.read()
"""
    with Tree(code) as tree:
        below = {int(word) for word in tree.line()[1:]}
        found = walk(tree.pid)
        assert below < set(found)
        assert len(found) == 3
        assert tree.pid not in found
        assert Sampler().sample(tree.pid).pids == 3


def test_children_of_threads_and_threads_themselves_count():
    code = """
import threading
def parent():
    ready = threading.Barrier(4)
    def work():
        child(signal.pause)
        ready.wait()
        signal.sigwait([signal.SIGUSR1])
    for _ in range(3):
        threading.Thread(target=work, daemon=True).start()
    ready.wait()
    say("up")
    signal.pause()
child(parent)
sys.stdin.read()
"""
    with Tree(code) as tree:
        tree.line()
        assert Sampler().sample(tree.pid).pids == 4 + 3


def test_shared_memory_of_64_processes_passes_the_gate_and_is_not_condemned():
    """64 workers over one 32 MiB mapping: RSS says two gigabytes, PSS says 32 MiB and some."""
    code = """
shared = mmap.mmap(-1, 32 << 20)
private = bytearray(1)
def work():
    for page in range(0, len(shared), 4096):
        shared[page] = 1
    say("up")
    signal.pause()
for page in range(0, len(shared), 4096):
    shared[page] = 1
for _ in range(64):
    child(work)
sys.stdin.read()
"""
    limits = Limits(memory=256 * M)
    with Tree(code) as tree:
        for _ in range(64):
            tree.line()
        sampler = Sampler()
        blind = sampler.sample(tree.pid)
        assert blind.pids == 64
        assert blind.rss > 64 * 32 * M
        assert blind.pss is None, "without a gate nobody pays for PSS"
        assert judge(blind, limits, {}).within
        seen = sampler.sample(tree.pid, gate=limits.memory)
        assert seen.pss is not None
        # init holds the mapping too, so the 64 have 64/65 of it
        assert 31 * M < seen.pss < 128 * M
        assert judge(seen, limits, {}).within
        verdict = judge(seen, Limits(memory=16 * M), {})
        assert (verdict.limit, verdict.value) == ("memory", seen.memory)


def test_private_memory_of_many_processes_is_condemned():
    code = """
def work():
    data = bytearray(24 << 20)
    for page in range(0, len(data), 4096):
        data[page] = 1
    say("up")
    signal.pause()
for _ in range(6):
    child(work)
sys.stdin.read()
"""
    with Tree(code) as tree:
        for _ in range(6):
            tree.line()
        seen = Sampler().sample(tree.pid, gate=100 * M)
        assert seen.pss is not None
        assert seen.pss > 6 * 24 * M
        assert not judge(seen, Limits(memory=100 * M), {}).within


def test_below_the_gate_pss_is_not_read():
    with Tree(WAIT + "say('up')\nsys.stdin.read()") as tree:
        tree.line()
        assert Sampler().sample(tree.pid, gate=1 << 30).pss is None
        assert Sampler().sample(tree.pid, gate=0).pss is not None


def test_mapped_files_are_page_cache_and_not_charged(tmp_path):
    """As a cgroup would take them back under pressure, they condemn nobody."""
    (tmp_path / "model").write_bytes(b"x" * (48 * M))
    code = """
def work():
    with open(sys.argv[1], "rb") as file:
        data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        sum(data[page] for page in range(0, len(data), 4096))
        say("up")
        signal.pause()
child(work)
sys.stdin.read()
"""
    with Tree(code, str(tmp_path / "model")) as tree:
        tree.line()
        seen = Sampler().sample(tree.pid, gate=0)
        assert seen.rss > 48 * M
        assert seen.pss is not None
        assert seen.pss < 24 * M


def test_a_process_that_forbids_looking_cannot_hide():
    code = """
def work():
    data = bytearray(40 << 20)
    for page in range(0, len(data), 4096):
        data[page] = 1
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
    say("up")
    signal.pause()
child(work)
sys.stdin.read()
"""
    with Tree(code) as tree:
        tree.line()
        if os.getuid() != 0:
            with pytest.raises(PermissionError):
                module.read_rollup(next(iter(walk(tree.pid))))
        seen = Sampler().sample(tree.pid, gate=0)
        assert seen.pss is not None
        assert seen.pss > 40 * M


def test_a_vforked_child_is_not_counted_twice():
    """Between vfork and exec both show all of the parent's memory; node and Python spawn their children that way."""
    code = """
def work():
    data = bytearray(60 << 20)
    for page in range(0, len(data), 4096):
        data[page] = 1
    libc = ctypes.CDLL(None)
    stack = ctypes.create_string_buffer(1 << 16)
    top = ctypes.c_void_p(ctypes.addressof(stack) + (1 << 16) - 16)
    pid = libc.clone(ctypes.cast(libc.pause, ctypes.c_void_p), top, 0x100 | signal.SIGCHLD, None)
    say("up", pid)
    sys.stdin.read()
    os.kill(pid, 9)
child(work)
signal.pause()
"""
    with Tree(code) as tree:
        twin = int(tree.line()[1])
        try:
            seen = Sampler().sample(tree.pid, gate=0)
            assert seen.pids == 2
            assert seen.rss > 120 * M
            assert seen.pss is not None
            assert 60 * M < seen.pss < 100 * M
        finally:
            os.kill(twin, 9)


def test_cpu_time_counts_those_that_ended_too():
    code = """
def burn():
    while time.process_time() < 0.3:
        pass
def parent():
    pid = child(burn)
    os.waitpid(pid, 0)
    say("done")
    signal.pause()
child(parent)
sys.stdin.read()
"""
    with Tree(code) as tree:
        tree.line()
        assert Sampler().sample(tree.pid).cpu_seconds >= 0.28


def test_disk_traffic_is_counted(tmp_path):
    code = """
def work():
    fd = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"x" * (2 << 20))
    os.fsync(fd)
    say("done")
    signal.pause()
child(work)
sys.stdin.read()
"""
    with Tree(code, str(tmp_path / "out")) as tree:
        tree.line()
        filesystem = subprocess.run(["stat", "-f", "-c", "%T", str(tmp_path)], capture_output=True, text=True, check=True)
        if filesystem.stdout.strip() == "tmpfs":
            pytest.skip("the temporary directory is in memory: nothing reaches a disk")
        assert Sampler().sample(tree.pid).io_write >= 2 * M


def test_an_init_that_is_gone_is_an_error():
    with Tree("say('up')") as tree:
        tree.line()
        tree.process.wait(10)
        with pytest.raises(KernelError) as caught:
            Sampler().sample(tree.pid)
    assert caught.value.errno == 3


def test_a_tree_in_turmoil_is_sampled_all_the_same():
    """Processes that come and go during the walk; nothing may escape, and the numbers stay sane."""
    code = """
def churn():
    while True:
        pid = child(lambda: child(lambda: None))
        os.waitpid(pid, 0)
for _ in range(4):
    child(churn)
say("up")
sys.stdin.read()
"""
    with Tree(code) as tree:
        tree.line()
        sampler = Sampler()
        for _ in range(200):
            seen = sampler.sample(tree.pid, gate=0)
            assert seen.pids >= 4
            assert 0 <= seen.memory < 1 << 30


@pytest.mark.parametrize("name", ["a) b (c", ") ) S 1 1", "\n"])
def test_a_name_that_looks_like_fields_confuses_nobody(name):
    code = """
def work():
    ctypes.CDLL(None).prctl(15, sys.argv[1].encode(), 0, 0, 0)  # PR_SET_NAME
    say("up")
    signal.pause()
child(work)
sys.stdin.read()
"""
    with Tree(code, name) as tree:
        tree.line()
        seen = Sampler().sample(tree.pid)
        assert seen.pids == 1
        assert 1 * M < seen.rss < 100 * M


def test_it_keeps_no_descriptor():
    before = sorted(os.listdir("/proc/self/fd"))
    with Tree(WAIT + "say('up')\nsys.stdin.read()") as tree:
        tree.line()
        during = sorted(os.listdir("/proc/self/fd"))
        sampler = Sampler()
        for _ in range(20):
            sampler.sample(tree.pid, gate=0)
        assert sorted(os.listdir("/proc/self/fd")) == during
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert sys.getrefcount(sampler) >= 1
