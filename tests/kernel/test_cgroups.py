"""Control groups on the real kernel: made, entered at birth, frozen, killed, removed. Needs root, and any cgroup2 mount.

So of sandboxd.kernel.cgroups, sandboxd.launch.groups, sandboxd.launch.grouping, sandboxd.limits.hierarchy and
sandboxd.daemon.cgroups.
"""

import asyncio
import contextlib
import errno
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxd.errors import KernelError
from sandboxd.kernel import cgroups
from sandboxd.launch.groups import Groups, Leaving, sweep
from sandboxd.limits.hierarchy import disks, look, mounted
from tests.daemons import Daemon

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20.0

# The launcher's half, as the launcher runs it: a child of clone3 in `init`, its own child in `svc`; prints what each sees.
PARK = """
import json, os, sys
sys.path.insert(0, {root!r})
from sandboxd.kernel import namespaces, signals
from sandboxd.launch import grouping
from sandboxd.launch.grouping import Group
signals.block_all()
group = Group({path!r}, os.geteuid())
read, write = os.pipe()
def cgroup():
    return open("/proc/self/cgroup").read().strip().splitlines()[-1]
told, tell = os.pipe()
if os.fork() == 0:
    flags = namespaces.NEWUSER | namespaces.NEWCGROUP | namespaces.NEWPID | namespaces.NEWNS
    pid, process = grouping.clone(flags, group.top, group.init)
    if pid == 0:
        os.write(write, (json.dumps([os.getpid(), cgroup()]) + "\\n").encode())
        below, _ = namespaces.clone3(0, group.services)
        if below == 0:
            os.write(write, (json.dumps([os.getpid(), cgroup()]) + "\\n").encode())
            os._exit(0)
        os.waitpid(below, 0)
        os._exit(0)
    os.write(tell, b"%d" % pid)
    os._exit(0)
pid = int(os.read(told, 16))
group.divide()
group.close()
os.close(write)
status = os.waitpid(pid, 0)[1]
print(json.dumps([status, open(read).read().splitlines()]))
"""


@pytest.fixture
def root() -> Iterator[str]:
    if os.geteuid():
        pytest.skip("needs root: nobody else is given a control group here")
    mount, _ = mounted()
    if not mount:
        pytest.skip("no cgroup v2 is mounted here")
    path = f"{mount}/sandboxd-test-{secrets.token_hex(4)}"
    os.mkdir(path)
    yield path
    cgroups.kill(path)
    until(lambda: not cgroups.is_populated(path))
    for found in sorted(Path(path).rglob("*/"), reverse=True):
        os.rmdir(found)
    os.rmdir(path)


def until(condition) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def sleeper(group: str) -> "subprocess.Popen[bytes]":
    """A process in a group."""
    process = subprocess.Popen(["sleep", "1000"])
    cgroups.write(group, "cgroup.procs", str(process.pid))
    return process


def test_who_is_born_where_and_what_is_seen_of_it(root: str) -> None:
    path = f"{root}/env-1"
    code = PARK.format(root=str(ROOT), path=path)
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    status, lines = json.loads(done.stdout)
    assert status == 0
    assert [json.loads(line) for line in lines] == [[1, "0::/init"], [2, "0::/svc"]]
    assert cgroups.count(path) == 3
    assert cgroups.read(path, "cgroup.procs") == ""
    assert cgroups.remove(path)
    assert cgroups.count(path) == 0


def test_a_root_daemons_env_makes_its_processes_as_nobody(root: str, tmp_path: Path) -> None:
    with contextlib.closing(Daemon(SANDBOXD_CGROUP=root)) as daemon:
        daemon.start()
        tmp_path.chmod(0o777)
        daemon.sandbox("run", "-d", "--name", "whose", "--", "sleep", "1000", cwd="/")
        found = daemon.sandbox("exec", "whose", "--", "sh", "-c", "id -u; tail -n 1 /proc/self/cgroup").stdout
        assert found.split() == ["65534", "0::/svc"]
        (inspected,) = json.loads(daemon.sandbox("inspect", "whose").stdout)
        group = inspected["cgroup"]
        assert Path(group).parent == Path(root)
        daemon.sandbox("suspend", "whose")
        assert cgroups.table(f"{group}/svc", "cgroup.events")["frozen"] == 1
        daemon.sandbox("resume", "whose")
        receipt = json.loads(daemon.sandbox("rm", "-f", "--receipt", "whose").stdout)["receipt"]
        assert (receipt["before"]["cgroups"], receipt["after"]["cgroups"]) == (3, 0)
    assert [path.name for path in Path(root).iterdir() if path.is_dir()] == ["launcher"]


def test_a_group_is_frozen_and_runs_on(root: str) -> None:
    process = sleeper(root)
    cgroups.freeze(root, frozen=True)
    until(lambda: cgroups.table(root, "cgroup.events")["frozen"] == 1)
    process.send_signal(signal.SIGTERM)
    cgroups.freeze(root, frozen=False)
    assert process.wait(PATIENCE) == -signal.SIGTERM


def test_what_lives_in_a_group_keeps_it_until_it_is_killed(root: str) -> None:
    path = f"{root}/env-2"
    cgroups.make(path)
    process = sleeper(f"{path}/svc")
    assert cgroups.is_populated(path)
    assert not cgroups.remove(path)
    cgroups.kill(path)
    assert process.wait(PATIENCE) == -signal.SIGKILL
    until(lambda: cgroups.remove(path))
    assert cgroups.remove(path), "one that is gone is removed"


def test_a_release_kills_and_removes(root: str) -> None:
    async def release() -> None:
        leaving = Leaving()
        groups = Groups(root, (), leaving)
        path = groups.new(0)
        cgroups.make(path)
        process = sleeper(f"{path}/svc")
        groups.release(path)
        await asyncio.gather(leaving.settled(), asyncio.to_thread(process.wait, PATIENCE))
        assert cgroups.count(path) == 0

    asyncio.run(release())


def test_a_sweep_takes_what_is_empty_and_unknown(root: str) -> None:
    for name in ("env-known", "env-left", "env-lives", "other"):
        cgroups.make(f"{root}/{name}")
    process = sleeper(f"{root}/env-lives/svc")
    assert sweep(root, {f"{root}/env-known"}) == 1
    assert sorted(path.name for path in Path(root).iterdir() if path.is_dir()) == ["env-known", "env-lives", "other"]
    process.kill()
    process.wait(PATIENCE)


def test_a_group_is_open_to_look_at_whatever_the_umask(root: str) -> None:
    mask = os.umask(0o077)
    try:
        path = Groups(root, (), Leaving(), by_user=True).new(1000)
        cgroups.make(path)
    finally:
        os.umask(mask)
    for made in os.path.dirname(path), path, f"{path}/init", f"{path}/svc":
        assert os.stat(made).st_mode & 0o777 == 0o755


def test_each_user_has_a_group_that_goes_with_what_is_in_it(root: str) -> None:
    groups = Groups(root, (), Leaving(), by_user=True)
    one, other, theirs = groups.new(1000), groups.new(1000), groups.new(1001)
    assert [os.path.dirname(path) for path in (one, other, theirs)] == [f"{root}/user-{uid}" for uid in (1000, 1000, 1001)]
    cgroups.make(one)
    cgroups.make(other)
    assert sweep(root, {one}) == 1
    groups.leave()
    assert cgroups.count(one) == 3
    assert not os.path.exists(f"{root}/user-1001")
    cgroups.remove(one)
    groups.leave()
    assert not os.path.exists(f"{root}/user-1000")


def test_the_launcher_gets_a_group_of_its_own(root: str) -> None:
    process = sleeper(root)
    seen = look(process.pid, "")
    assert (seen.path, seen.others, seen.exists) == (root.removeprefix(mounted()[0]), 0, True)
    Groups(root, (), Leaving()).prepare(process.pid)
    assert cgroups.own_path(process.pid) == f"{seen.path}/launcher"
    assert look(os.getpid(), root).others == 0
    process.kill()
    process.wait(PATIENCE)


def test_what_is_not_there_is_said_by_its_errno() -> None:
    with pytest.raises(KernelError) as refused:
        cgroups.write("/proc/self/nowhere", "memory.max", "1")
    assert refused.value.errno == errno.ENOENT
    assert cgroups.controllers("/proc/self/nowhere") == []
    assert cgroups.table("/proc/self/nowhere", "memory.events") == {}
    assert cgroups.number("/proc/self/nowhere", "memory.peak") is None
    assert cgroups.own_path("self").startswith("/") or not mounted()[0]


def test_the_disk_behind_a_directory_is_a_whole_one(tmp_path: Path) -> None:
    for device in disks(str(tmp_path)):
        assert not Path(f"/sys/dev/block/{device}/partition").exists()


SIFTED = """
import ctypes, errno, sys
sys.path.insert(0, {root!r})
from sandboxd.kernel import capabilities, namespaces, seccomp
capabilities.no_new_privs()
pid, _ = namespaces.clone3(0)
if pid == 0:
    import os
    os._exit(0)
seccomp.install(seccomp.NO_CLONE3, listener=False)
try:
    namespaces.clone3(0)
except OSError as error:
    print(errno.errorcode[error.errno])
import subprocess
print(subprocess.run(["echo", "forked"], capture_output=True, text=True).stdout.strip())
"""


def test_programs_are_kept_from_the_call_that_made_them() -> None:
    code = SIFTED.format(root=str(ROOT))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ENOSYS", "forked"]
