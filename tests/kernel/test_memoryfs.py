"""Files in an env's own memory file systems, seen from outside, in a real user and mount namespace."""

import os
import re
from pathlib import Path

import pytest

from sandboxd.kernel.sysinfo import shared_memory
from sandboxd.limits import memoryfs, openfiles
from sandboxd.limits.sampler import Sampler, walk
from sandboxd.limits.verdict import judge
from sandboxd.spec import Limits
from tests.unit.limits.trees import Tree

M = 1 << 20
# An "init" in namespaces of its own with two tmpfs mounts, the host's /dev/shm still visible, and one service.
SETUP = """
libc = ctypes.CDLL(None, use_errno=True)
uid, gid = os.getuid(), os.getgid()
if libc.unshare(0x10000000 | 0x20000) != 0:  # CLONE_NEWUSER | CLONE_NEWNS
    say("no")
    sys.exit()
def put(name, text):
    with open(f"/proc/self/{name}", "w") as file:
        file.write(text)
put("setgroups", "deny")
put("uid_map", f"{uid} {uid} 1")
put("gid_map", f"{gid} {gid} 1")
base = sys.argv[1]
def mount(path, size):
    os.makedirs(path, exist_ok=True)
    if libc.mount(b"tmpfs", path.encode(), b"tmpfs", 6, b"size=" + size) != 0:
        say("no", ctypes.get_errno())
        sys.exit()
mount(base + "/tm p", b"64m")
mount(base + "/shm", b"64m")
"""
SERVICE = """
def work():
    exec(sys.argv[2])
    say("up")
    signal.pause()
child(work)
sys.stdin.read()
"""


def tree(tmp_path, work: str) -> Tree:
    found = Tree(SETUP + SERVICE, str(tmp_path), work)
    if found.line()[0] == "no":
        with found:
            pytest.skip("no unprivileged user namespaces here")
    return found


def test_files_in_tmpfs_are_counted_and_named(tmp_path):
    with tree(tmp_path, "open(base + '/tm p/x', 'wb').write(b'x' * (20 << 20))") as env:
        seen = Sampler().sample(env.pid, gate=0)
        assert 20 * M <= seen.tmpfs < 22 * M
        assert seen.mapped == 0
        verdict = judge(seen, Limits(memory=16 * M), {})
        assert "/dev/shm" in verdict.describe()
        assert {mount.path for mount in memoryfs.own_mounts(env.pid)} == {f"{tmp_path}/tm p", f"{tmp_path}/shm"}


def test_mapped_files_in_tmpfs_are_counted_once(tmp_path):
    work = """
fd = os.open(base + '/shm/pool', os.O_CREAT | os.O_RDWR)
os.ftruncate(fd, 24 << 20)
pool = mmap.mmap(fd, 24 << 20)
for page in range(0, len(pool), 4096):
    pool[page] = 1
os.unlink(base + '/shm/pool')
other = mmap.mmap(-1, 8 << 20)
for page in range(0, len(other), 4096):
    other[page] = 1
"""
    with tree(tmp_path, work) as env:
        seen = Sampler().sample(env.pid, gate=0)
        assert 24 * M <= seen.tmpfs < 26 * M
        assert 24 * M <= seen.mapped <= seen.tmpfs
        assert seen.pss is not None
        assert seen.pss > 32 * M, "the pool and the anonymous mapping"
        assert 32 * M < seen.memory < 50 * M


def test_the_hosts_memory_file_systems_are_not_the_envs(tmp_path):
    path = f"/dev/shm/sandboxd-test-{os.getpid()}"
    with open(path, "wb") as file:
        file.write(b"x" * (8 << 20))
    try:
        with tree(tmp_path, "pass") as env:
            assert Sampler().sample(env.pid).tmpfs < M
    finally:
        os.unlink(path)


def test_a_path_that_an_env_bends_leads_nowhere(tmp_path):
    """The env moves a directory above the mount away and puts a link in its place."""
    os.mkdir(tmp_path / "in")
    code = SETUP.replace('mount(base + "/shm", b"64m")', 'mount(base + "/in/shm", b"64m")')
    work = "os.rename(base + '/in', base + '/away'); os.symlink('/dev', base + '/in')"
    with Tree(code + SERVICE, str(tmp_path), work) as env:
        if env.line()[0] == "no":
            pytest.skip("no unprivileged user namespaces here")
        mount = memoryfs.MemoryMount((0, 0), f"{tmp_path}/in/shm")
        [service] = walk(env.pid)
        assert memoryfs.bytes_used(service, [mount]) == 0


def test_nothing_is_kept_open(tmp_path):
    with tree(tmp_path, "pass") as env:
        before = sorted(os.listdir("/proc/self/fd"))
        sampler = Sampler()
        for _ in range(5):
            sampler.sample(env.pid, gate=0)
        assert sorted(os.listdir("/proc/self/fd")) == before


MEMFD = """
fd = os.memfd_create("hoard")
for _ in range(20):
    os.write(fd, b"x" * (1 << 20))
child(signal.pause)
"""


def test_memfds_are_counted_once_whether_mapped_or_not(tmp_path):
    with tree(tmp_path, MEMFD) as env:
        seen = Sampler().sample(env.pid, gate=0)
        assert 20 * M <= seen.tmpfs < 22 * M
        assert not judge(seen, Limits(memory=16 * M), {}).within
        assert judge(seen, Limits(memory=64 * M), {}).within
    mapped = "pool = mmap.mmap(fd, 20 << 20)\nfor page in range(0, len(pool), 4096): pool[page]\n"
    with tree(tmp_path / "again", MEMFD + mapped) as env:
        seen = Sampler().sample(env.pid, gate=0)
        assert 19 * M <= seen.mapped <= seen.tmpfs < 22 * M
        assert seen.memory < 40 * M + 20 * M, "not twice"


def test_below_the_gate_no_descriptor_is_looked_at(tmp_path, monkeypatch):
    """Where all of the host has less shared memory than that, so has the env."""
    looked = []
    monkeypatch.setattr(openfiles, "memfds", lambda pids: looked.append(1) or {})
    with tree(tmp_path, "pass") as env:
        Sampler().sample(env.pid, gate=1 << 60)
        assert not looked
        Sampler().sample(env.pid, gate=0)
        assert looked


def test_shared_memory_of_the_host_is_what_meminfo_says():
    for _ in range(5):  # others use it meanwhile
        said = int(re.search(r"Shmem:\s+(\d+)", Path("/proc/meminfo").read_text())[1]) << 10
        if abs(shared_memory() - said) < 4 * M:
            return
    assert shared_memory() == said


def test_the_fullest_process_is_told(tmp_path):
    with tree(tmp_path, "files = [os.open('/dev/null', os.O_RDONLY) for _ in range(200)]") as env:
        if not openfiles.descriptors(os.getpid()):
            pytest.skip("this kernel does not tell how many descriptors a process has (Linux 6.2)")
        assert 200 < Sampler().sample(env.pid).descriptors < 250
        assert 200 < Sampler().descriptors(env.pid) < 250
    assert openfiles.descriptors(1 << 30) == 0
