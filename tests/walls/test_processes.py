"""Processes: the host's are out of sight, pid 1 is out of reach, and nothing gains privileges."""

import ctypes
import os
import subprocess
from collections.abc import Iterator

import pytest

from sandboxd.spec import Isolation, Limits
from tests.kernel.inside import run
from tests.walls.envs import Walls, outside, program


@pytest.fixture
def victim() -> Iterator[int]:
    """A process of ours on the host."""
    process = subprocess.Popen(["sleep", "300"])
    yield process.pid
    process.kill()
    process.wait()


REACH = """
PTRACE_SEIZE, PTRACE_DETACH = 0x4206, 17
def seize(pid):
    call("ptrace", PTRACE_SEIZE, pid, None, None)
def peek(pid):
    buffer = ctypes.create_string_buffer(8)
    class Piece(ctypes.Structure):
        _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]
    piece = Piece(ctypes.addressof(buffer), 8)
    call("process_vm_readv", pid, ctypes.byref(piece), 1, ctypes.byref(piece), 1, 0)
def reach(pid):
    at = f"/proc/{pid}"
    return {
        "mem": tried(os.open, at + "/mem", os.O_RDONLY), "environ": tried(read, at + "/environ"),
        "maps": tried(read, at + "/maps"), "readv": tried(peek, pid),
        "fd": tried(os.listdir, at + "/fd"), "root": tried(os.listdir, at + "/root/"), "cwd": tried(os.listdir, at + "/cwd/"),
        "exe": tried(os.readlink, at + "/exe"), "ns": tried(os.readlink, at + "/ns/mnt"),
        "seize": tried(seize, pid),
    }
child = os.fork()
if child == 0:
    time.sleep(300)
"""
END = "\nos.kill(child, 9)\nos.waitpid(child, 0)\n"
NO_WALL = dict.fromkeys(["mem", "environ", "maps", "fd", "root", "cwd", "exe", "ns", "seize"], "ok")


def test_pid_1_is_out_of_reach(walls: Walls) -> None:
    found = walls.inside(REACH + "found = [reach(1), reach(child)]" + END)
    denied, neighbour = found
    assert set(denied.values()) <= {"EACCES", "EPERM"}, denied
    # The same on a process of the env's own works: it is pid 1 that is protected, not the call that is missing.
    assert {key: neighbour[key] for key in NO_WALL} == NO_WALL
    assert {key: value for key, value in outside(REACH + "found = reach(child)" + END).items() if key in NO_WALL} == NO_WALL


def test_no_signal_from_inside_ends_pid_1(walls: Walls) -> None:
    code = """
found = {number: tried(os.kill, 1, number) for number in range(1, 65) if number not in (32, 33)}
child = os.fork()
if child == 0:
    time.sleep(300)
os.kill(child, 9)
found = [set(found.values()) <= {"ok", "EINVAL"}, os.waitpid(child, 0)[1]]
"""
    env = walls.launch(walls.planned(program(code, {})))
    try:
        assert env.found() == [True, 9]
        assert env.is_alive()
    finally:
        env.close()


def test_nor_does_one_sent_by_descriptor_or_thread(walls: Walls) -> None:
    """KILL, STOP and INT by pidfd_send_signal(2) and tgkill(2), as by kill(2): pid 1 of a namespace takes none from inside."""
    code = """
def send(pidfd, number):
    signal.pidfd_send_signal(pidfd, number)
def sent(pid):
    pidfd = os.pidfd_open(pid)
    return [tried(send, pidfd, number) for number in (9, 19, 2)]
def thread(pid, number):
    call("tgkill", pid, pid, number)
child = os.fork()
if child == 0:
    time.sleep(300)
found = [sent(1), [tried(thread, 1, number) for number in (9, 19, 2)], open("/proc/1/stat").read().split()[2] in "TtZX"]
signal.pidfd_send_signal(os.pidfd_open(child), 9)
found.append(os.waitpid(child, 0)[1])
"""
    env = walls.launch(walls.planned(program(code, {})))
    try:
        assert env.found() == [["ok"] * 3, ["ok"] * 3, False, 9]
        assert env.is_alive()
    finally:
        env.close()


def test_message_queues_are_its_own_and_work(walls: Walls) -> None:
    """What mq_open opens is a file for Landlock; a queue of the host's of that name is another."""
    code = """
libc.mq_open.argtypes = (ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p)
name = given["name"].encode()
def opened(flags):
    return libc.mq_open(name, flags, 0o600, None)
there = opened(os.O_RDWR)
found = [errno.errorcode[ctypes.get_errno()] if there < 0 else "ok"]
queue = opened(os.O_CREAT | os.O_EXCL | os.O_RDWR)
kept = ctypes.create_string_buffer(8192)
found += [libc.mq_send(queue, b"word", 4, 0), libc.mq_receive(queue, kept, 8192, None), kept.value.decode()]
found += [os.path.exists("/dev/mqueue" + given["name"]), libc.mq_unlink(name)]
"""
    name = f"/sandboxd-walls-{os.getpid()}"
    here = ctypes.CDLL(None, use_errno=True)
    queue = here.mq_open(name.encode(), os.O_CREAT | os.O_RDWR, 0o600, None)
    assert queue >= 0
    try:
        assert walls.inside(code, name=name) == ["ENOENT", 0, 4, "word", True, 0]
        assert outside("libc.mq_open.argtypes = (ctypes.c_char_p, ctypes.c_int)\n"
                       "found = libc.mq_open(given['name'].encode(), os.O_RDWR) >= 0", name=name) is True  # fmt: skip
    finally:
        here.mq_unlink(name.encode())
        os.close(queue)


def test_the_hosts_processes_are_not_there(walls: Walls, victim: int) -> None:
    code = """
found = [tried(os.kill, given["pid"], 0), tried(call, "ptrace", 0x4206, given["pid"], None, None)]
found += [tried(os.stat, f"/proc/{given['pid']}"), len([name for name in os.listdir("/proc") if name.isdigit()])]
"""
    kill, seize, seen, count = walls.inside(code, pid=victim)
    assert (kill, seize, seen) == ("ESRCH", "ESRCH", "ENOENT")
    assert count <= 4
    assert outside(code, pid=victim)[0] == "ok"


def test_every_namespace_is_the_envs_own(walls: Walls) -> None:
    code = "found = {name: os.readlink('/proc/self/ns/' + name) for name in ('user', 'mnt', 'pid', 'net', 'ipc', 'uts')}"
    inside, host = walls.inside(code), outside(code)
    assert not set(inside.values()) & set(host.values())


PRIVILEGES = """
def new_namespaces():
    call("unshare", 0x20000)
found = {
    "mount": tried(call, "mount", b"tmpfs", b"/tmp", b"tmpfs", 0, None), "umount": tried(call, "umount2", b"/etc/hosts", 2),
    "remount": tried(call, "mount", None, b"/usr", None, 32 | 4096, None), "unshare": tried(new_namespaces),
    "setuid": tried(os.setuid, os.getuid() + 1), "setgroups": tried(os.setgroups, [0]), "chroot": tried(os.chroot, "/tmp"),
    "hostname": tried(call, "sethostname", b"x", 1), "chown": tried(os.chown, given["file"], 0, 0),
    "own": tried(os.setuid, os.getuid()), "chmod": tried(os.chmod, given["file"], 0o600),
}
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
found["status"] = [status[key].strip() for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")]
"""


def test_nothing_is_privileged(walls: Walls) -> None:
    file = walls.shop / "file"
    file.touch()
    found = walls.inside(PRIVILEGES, file=str(file))
    assert found.pop("status") == ["0000000000000000"] * 5 + ["1"]
    assert (found.pop("own"), found.pop("chmod")) == ("ok", "ok")
    assert set(found.values()) <= {"EPERM", "EINVAL"}, found


def test_with_capabilities_in_a_namespace_the_same_works() -> None:
    """The control: what is missing inside is the capability, not the call."""
    code = (
        "found = [errno_of(mounts.mount, 'tmpfs', '/tmp'), errno_of(namespaces.sethostname, 'x'), errno_of(os.chroot, '/tmp')]"
    )
    assert run(code, enter="NEWNS|NEWUTS") == ["ok", "ok", "ok"]


NESTED = """
uid, gid = os.getuid(), os.getgid()
found = [tried(call, "unshare", 0x10000000 | 0x20000)]
for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
    with open("/proc/self/" + name, "w") as file:
        file.write(text)
found.append(tried(call, "mount", b"tmpfs", b"/run", b"tmpfs", 0, None))
def remount(place):
    call("mount", None, place, None, 32 | 4096, None)
found += [tried(remount, b"/usr"), tried(remount, b"/"), tried(call, "umount2", b"/etc/hosts", 2)]
found += [tried(call, "umount2", given["wall"].encode(), 2), tried(write, given["wall"]), tried(call, "umount2", b"/", 2)]
"""


def test_a_namespace_made_inside_does_not_open_the_walls(walls: Walls) -> None:
    """What the capabilities in it give must not reach what is locked outside of it; with Landlock they cannot mount at all."""
    wall = walls.shop / "sandbox.toml"
    wall.write_text("mine")
    try:
        made, *_, written, _ = found = walls.inside(NESTED, lacking="seccomp", wall=str(wall))
        assert (made, written) == ("ok", "EROFS")
        assert set(found[1:6]) <= {"EPERM", "EINVAL", "EBUSY"}, found
        made, mounted, usr, root, hosts, over, written, all_of_it = walls.inside(
            NESTED, parts={"isolation": Isolation(nested=True)}, wall=str(wall)
        )
    finally:
        wall.unlink()
    assert (made, mounted) == ("ok", "ok"), "the attack got as far as to hold capabilities"
    assert usr == root == "EPERM"
    assert {hosts, over, all_of_it} <= {"EINVAL", "EPERM", "EBUSY"}
    assert written == "EROFS"


def test_nothing_is_inherited(walls: Walls) -> None:
    found = walls.inside("found = sorted(int(name) for name in os.listdir('/proc/self/fd'))")
    assert found == [0, 1, 2, 3]  # 3 lists them


def test_ipc_of_the_host_is_not_there(walls: Walls) -> None:
    code = """
libc.shmget.restype = ctypes.c_int
def get(flags):
    if libc.shmget(0x5A4D0001, 4096, flags) < 0:
        raise OSError(ctypes.get_errno(), "shmget")
found = [tried(get, 0), tried(get, 0o1600 | 0o600), tried(get, 0)]
"""
    made = outside("found = libc.shmget(0x5A4D0001, 4096, 0o1600)")
    assert made >= 0
    try:
        assert outside("found = libc.shmget(0x5A4D0001, 4096, 0)") == made
        assert walls.inside(code) == ["ENOENT", "ok", "ok"]
    finally:
        outside("found = libc.shmctl(given['id'], 0, None)", id=made)


def test_looking_like_root_gives_nothing(walls: Walls) -> None:
    file = walls.shop / "as-root"
    parts = {"isolation": Isolation(user="root")}
    code = """
found = [os.getuid(), tried(write, given["file"]), tried(write, "/etc/x")]
found.append(tried(call, "mount", b"tmpfs", b"/tmp", b"tmpfs", 0, None))
"""
    assert walls.inside(code, parts=parts, file=str(file)) == [0, "ok", "EROFS", "EPERM"]
    assert file.stat().st_uid == os.getuid()


def test_limits_without_cgroups_bind(walls: Walls) -> None:
    code = """
import resource
children = []
def breed():
    while True:
        pid = os.fork()
        if pid == 0:
            time.sleep(300)
        children.append(pid)
found = [tried(breed), len(children), resource.getrlimit(resource.RLIMIT_NOFILE)[1]]
for pid in children:
    os.kill(pid, 9)
found.append(tried(resource.setrlimit, resource.RLIMIT_NOFILE, (64, 64)))
"""
    stopped, count, files, lowered = walls.inside(code, parts={"limits": Limits(pids=20, nofile=100)})
    assert stopped == "EAGAIN"
    assert count < 20
    assert (files, lowered) == (100, "ok")
