"""The filter of system calls, by itself: the control of each attack is the same env without its filter.

Each refused call is tried with arguments that the kernel finds fault with, so that the control's errno tells that the kernel
was reached. Where it answers EPERM too, for want of a capability, pid 1's own table tells that it was the filter that refused.
"""

# ruff: noqa: E501 - a row is read across, as a table's

import contextlib
import json
import os
import platform
import signal
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from sandboxd.isolation.seccomp.policy import Demand, rules
from sandboxd.isolation.seccomp.syscalls import ARCHES
from sandboxd.isolation.steps import Sysctl
from sandboxd.spec import Isolation, Limits, Network
from tests.require import require
from tests.walls.envs import PYTHON, Inside, Walls, outside, program, without

CALLS = ARCHES[platform.machine()].calls
ALWAYS_REFUSED = sorted(
    {name for one in rules(Demand()) if not one.when and not one.quiet for name in one.calls if name in CALLS}
)
# The kernel wants a capability before it looks at anything else, or (modify_ldt) is built without.
KERNEL_REFUSES_TOO = {
    "reboot", "swapoff", "acct", "vhangup", "syslog", "modify_ldt", "pivot_root", "move_mount", "fsopen", "fsmount", "chroot",
    "fanotify_init", "sethostname", "setdomainname", "perf_event_open", "bpf", "swapon", "fspick", "init_module",
    "finit_module", "delete_module", "kexec_load", "kexec_file_load",
}  # fmt: skip
NESTED: dict[str, Any] = {"isolation": Isolation(nested=True)}
ASK = """
def called(name, *arguments):
    numbers = [ctypes.c_long(value) for value in arguments]
    if libc.syscall(ctypes.c_long(given["calls"][name]), *numbers) < 0:
        raise OSError(ctypes.get_errno(), name)
"""


def inside(walls: Walls, code: str, *, parts: dict[str, Any] | None = None, lacking: str = "", **given: Any) -> Any:
    """What code with `called` finds."""
    return walls.inside(ASK + code, calls=CALLS, parts=parts, lacking=lacking, **given)


def refused(env: Inside) -> set[int]:
    """The numbers of calls that pid 1 was told of, from its greeting."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(env.sockets[0].getsockname())
        with client.makefile("rb") as stream:
            hello = json.loads(stream.read(int.from_bytes(stream.read(4), "little")))
    return {row["call"] for row in hello.get("refused", [])}


def test_every_call_of_the_list_is_refused_by_the_filter(walls: Walls) -> None:
    code = ASK + "found = {name: tried(called, name, -1, -1, -1, -1, -1, -1) for name in given['names']}"
    made = walls.planned(
        program(code + "\nprint(json.dumps(found), flush=True); time.sleep(600)", {"calls": CALLS, "names": ALWAYS_REFUSED})
    )
    env = walls.launch(made)
    try:
        found = json.loads(env.lines(count=1)[0])
        told = refused(env)
    finally:
        env.close()
    assert found == dict.fromkeys(ALWAYS_REFUSED, "EPERM")
    assert told == {CALLS[name] for name in ALWAYS_REFUSED}
    control = walls.inside(code, lacking="seccomp", calls=CALLS, names=ALWAYS_REFUSED)
    assert {name for name, errno in control.items() if errno == "EPERM"} <= KERNEL_REFUSES_TOO


# What the attack does, what it comes to inside, and that the same goes through (or fails otherwise) without the filter.
ATTACKS = {
    "a user namespace": ("called('unshare', 0x10000000)", "EPERM", "ok"),
    "a user namespace by clone": ("forked(0x10000000 | 17)", "EPERM", "ok"),
    "one by clone3, whose flags no filter sees": ("called('clone3', 0, 0)", "ENOSYS", "EINVAL"),
    "the session keyring": ("called('keyctl', 0, -3, 1)", "EPERM", "ok"),
    "a ring": ("called('io_uring_setup', 1, ctypes.addressof(room))", "EPERM", "ok"),
    "a fault handler": ("called('userfaultfd', 1)", "EPERM", "ok"),
    "a watch over a file system": ("called('fanotify_init', 0x200, 0)", "EPERM", "ok"),
    "READ_IMPLIES_EXEC": ("called('personality', 0x400000)", "EPERM", "ok"),
    "vsock": ("socket.socket(40, 1)", "EAFNOSUPPORT", "ok"),
    "netfilter": ("socket.socket(16, 3, 12)", "EPROTONOSUPPORT", "ok"),
    "generic netlink": ("socket.socket(16, 3, 16)", "EPROTONOSUPPORT", "ok"),
    "a pair of another family": ("socket.socketpair(2, 1)", "EAFNOSUPPORT", "ENOTSUP"),
    "limits of pid 1": ("called('prlimit64', 1, 7, 0, 0)", "EPERM", "ok"),
    "niceness of pid 1": ("os.setpriority(0, 1, 5)", "EPERM", "ok"),
    "niceness of everybody": ("os.setpriority(2, os.getuid(), 5)", "EPERM", "ok"),
    "niceness of pid 1's group": ("os.setpriority(1, 1, 6)", "EPERM", "ok"),
    "CPUs of pid 1": ("os.sched_setaffinity(1, {0})", "EPERM", "ok"),
    "scheduler of pid 1": ("os.sched_setscheduler(1, 3, os.sched_param(0))", "EPERM", "ok"),
    "input of pid 1": ("called('ioprio_set', 1, 1, 2 << 13)", "EPERM", "ok"),
    "input of everybody": ("called('ioprio_set', 3, os.getuid(), 2 << 13)", "EPERM", "ok"),
    "typing for the user (CVE-2017-5226)": ("typed(0x5412)", "EPERM", "ok"),
    "the same with a high bit (CVE-2019-10063)": ("typed(1 << 32 | 0x5412)", "EPERM", "ok"),
    "a line discipline": ("line_discipline()", "EPERM", "ok"),
    "the console's selection": ("called('ioctl', slave, 0x541C, ctypes.addressof(room))", "EPERM", "ENOTTY"),
}
# Each in a child of its own, since some of them change the process for good.
EACH = """
import fcntl, pty
room = ctypes.create_string_buffer(256)
def forked(flags):
    pid = libc.syscall(ctypes.c_long(given["calls"]["clone"]), ctypes.c_long(flags), *[ctypes.c_long(0)] * 4)
    if pid == 0:
        os._exit(0)
    if pid < 0:
        raise OSError(ctypes.get_errno(), "clone")
    os.waitpid(pid, 0)
def typed(command):
    fcntl.ioctl(slave, 0x540E, 0)  # TIOCSCTTY
    called("ioctl", slave, command, ctypes.addressof(room))
def line_discipline():
    called("ioctl", slave, 0x5423, ctypes.addressof(room))  # TIOCSETD to N_TTY
found = {}
for name, code in given["attacks"].items():
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        master, slave = os.openpty()
        os.write(write_end, tried(lambda: eval(code)).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    found[name] = os.read(read_end, 64).decode()
"""


@pytest.fixture(scope="module")
def answers(walls: Walls) -> tuple[dict[str, str], dict[str, str]]:
    """What each attack came to with the filter and without."""
    attacks = {name: code for name, (code, _, _) in ATTACKS.items()}
    return inside(walls, EACH, attacks=attacks), inside(walls, EACH, lacking="seccomp", attacks=attacks)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_fails_and_works_without_the_filter(answers: tuple[dict[str, str], dict[str, str]], name: str) -> None:
    with_filter, without_filter = answers
    _, errno, works = ATTACKS[name]
    if name.startswith(("typing", "the same")) and Path("/proc/sys/dev/tty/legacy_tiocsti").read_text().strip() == "0":
        works = "EIO"
    assert with_filter[name] == errno
    assert without_filter[name] in works.split("|")


NEIGHBOURS = {
    "namespaces left alone": "called('unshare', 0x400)",
    "a thread": "threading.Thread(target=int).start()",
    "TCP": "socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK).close()",
    "UDP over IPv6": "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()",
    "a Unix pair": "socket.socketpair()",
    "routes": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()",
    "socket lists": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4).close()",
    "own limits": "resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
    "own limits by pid": "resource.prlimit(os.getpid(), resource.RLIMIT_CORE, (0, 0))",
    "a child's niceness": "os.setpriority(0, child, 5)",
    "a thread's CPUs": "os.sched_setaffinity(threading.get_native_id(), os.sched_getaffinity(0))",
    "a debugger's personality": "called('personality', 0x40000)",
    "asking for the personality": "called('personality', 0xFFFFFFFF)",
    "tracing a child": "called('ptrace', 0x4206, child, 0, 0)",
    "a filter of its own": "own_filter()",
    "a window's size": "fcntl.ioctl(slave, 0x5413, bytes(8))",
    "epoll": "select.epoll().close()",
    "the clock": "called('clock_adjtime', 0, ctypes.addressof(room))",
    "memory on a node": "called('get_mempolicy', 0, 0, 0, 0, 0)",
}


def test_the_neighbours_work(walls: Walls) -> None:
    code = """
import fcntl, pty, resource, select, threading
master, slave = os.openpty()
room = ctypes.create_string_buffer(512)
child = os.fork()
if child == 0:
    time.sleep(600)
def own_filter():
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
    code = struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000)
    program = Program(1, code)
    called("seccomp", 1, 0, ctypes.addressof(program))
found = {name: tried(lambda: eval(text)) for name, text in given["neighbours"].items()}
os.kill(child, 9)
os.waitpid(child, 0)
"""
    found = inside(walls, code, neighbours=NEIGHBOURS)
    assert found == dict.fromkeys(NEIGHBOURS, "ok")


def test_a_filter_inside_has_no_listener_of_its_own(walls: Walls) -> None:
    """One filter of a chain may have one (seccomp(2)), and ours has it."""
    code = """
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]
def listen():
    code = struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000)
    program = Program(1, code)
    called("seccomp", 1, 8, ctypes.addressof(program))
found = tried(listen)
"""
    assert inside(walls, code) == "EBUSY"
    assert inside(walls, code, lacking="seccomp") == "ok"


def test_no_process_of_the_env_holds_the_listener(walls: Walls) -> None:
    """Who has it could allow itself everything (SECCOMP_USER_NOTIF_FLAG_CONTINUE)."""
    code = """
found = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except PermissionError:
        found.append("closed " + pid)
        continue
    found += [os.readlink(f"/proc/{pid}/fd/{name}") for name in names if os.path.lexists(f"/proc/{pid}/fd/{name}")]
found = [name for name in found if "seccomp" in name or name.startswith("closed")]
"""
    assert inside(walls, code) == ["closed 1"]


def executable(bits: int, machine: int, code: str, flags: int = 0) -> bytes:
    """An ELF file, static and of one segment, that does no more than that code: no compiler here may know the machine."""
    text, base = bytes.fromhex(code), 0x100000
    head, row = (52, 32) if bits == 32 else (64, 56)
    size = head + row + len(text)
    word, ident = "I" if bits == 32 else "Q", b"\x7fELF" + bytes((bits // 32, 1, 1))
    start = struct.pack(
        f"<16sHHI3{word}IHHHHHH", ident, 2, machine, 1, base + head + row, head, 0, flags, head, row, 1, 0, 0, 0
    )
    kind = (1, 0, base, base, size, size, 5, 0x1000) if bits == 32 else (1, 5, 0, base, base, size, size, 0x1000)
    return start + struct.pack(f"<{'8I' if bits == 32 else '2I6Q'}", *kind) + text


# exit(0) by the table of another architecture; int 0x80 in a 64-bit program is looked up in i386's: 1 is exit there, write here.
OLD = {
    "x86_64": {"i386": executable(32, 3, "31db b801000000 cd80"), "int 0x80": executable(64, 62, "31db b801000000 cd80")},
    "aarch64": {"arm": executable(32, 40, "0000a0e3 0170a0e3 000000ef", 0x5000000)},
}[platform.machine()]


@pytest.mark.parametrize("name", OLD)
def test_32_bit_programs_are_ended(walls: Walls, name: str) -> None:
    old = walls.shop / "old"
    old.write_bytes(OLD[name])
    old.chmod(0o755)
    code = "found = os.waitstatus_to_exitcode(os.spawnl(os.P_NOWAIT, given['path'], 'old') and os.wait()[1])"
    try:
        if outside(code, path=str(old)) != 0:
            pytest.skip("this kernel runs no calls of that architecture (CONFIG_IA32_EMULATION, CONFIG_COMPAT)")
        assert walls.inside(code, path=str(old)) == -signal.SIGSYS
        assert walls.inside(code, lacking="seccomp", path=str(old)) == 0
    finally:
        old.unlink()


def test_x32_numbers_are_no_way_around(walls: Walls) -> None:
    code = """
def x32(number):
    if libc.syscall(ctypes.c_long(0x40000000 | number), ctypes.c_long(0), ctypes.c_long(0)) < 0:
        raise OSError(ctypes.get_errno(), "x32")
found = [tried(x32, given["calls"]["keyctl"]), tried(x32, given["calls"]["mount"])]
"""
    assert inside(walls, code) == ["ENOSYS", "ENOSYS"]


def test_whole_cpus_cannot_be_left(walls: Walls) -> None:
    if os.cpu_count() == 1:
        pytest.skip("there is one CPU only")
    both = sorted(os.sched_getaffinity(0))[:2]
    code = "found = [sorted(os.sched_getaffinity(0)), tried(os.sched_setaffinity, 0, given['both'])]"
    made = walls.planned(program(code, {"both": both}), limits=Limits(cpus=1))
    if made.limits["cpus"] != "affinity":
        pytest.skip(f"CPUs are limited by {made.limits['cpus']} here")
    for plan, expected in ((made, "EPERM"), (without(made, "seccomp"), "ok")):
        env = walls.launch(plan)
        try:
            assert env.found()[1] == expected
        finally:
            env.close()


def test_user_namespaces_are_closed_once_more_behind_the_filter(walls: Walls) -> None:
    """user.max_user_namespaces of the env's own is 0, whatever call asks."""
    made = walls.planned(program(ASK + "found = tried(called, 'unshare', 0x10000000)", {"calls": CALLS}))
    assert Sysctl("user/max_user_namespaces", "0") in made.base
    env = walls.launch(replace(without(made, "seccomp"), base=made.base))
    try:
        assert env.found() == "ENOSPC"
    finally:
        env.close()


# -- real programs go on working ------------------------------------------------------------------------------------------

WORKS = {
    "node": "node -e 'new (require(\"worker_threads\").Worker)(\"process.exit(0)\", {eval: true}).on(\"exit\", c => process.exit(c))'",
    "npm": "npm --version",
    "git": "git init -q repo && cd repo && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x && git gc -q && rm -rf ../repo",
    "gcc": "echo 'int main(void){return 0;}' > a.c && gcc -o a a.c && ./a && rm a a.c",
    "java": "java -version",
    "redis-server": "(echo; redis-server --port 0 --unixsocket /tmp/r.sock --daemonize yes --save '') > /dev/null; until redis-cli -s /tmp/r.sock ping; do :; done; redis-cli -s /tmp/r.sock shutdown nosave",
    "strace": "strace -f -o /dev/null true",
    "gdb": "gdb -batch -ex run -ex quit --args true",
    "vim": "vim -es -u NONE -c 'q!' < /dev/null",
    "python3": f"{PYTHON} -c 'import multiprocessing as m; m.get_context(\"fork\").Pool(2).map(int, range(9)); import asyncio; asyncio.run(asyncio.sleep(0))'",
    "ssh-keygen": "ssh-keygen -q -t ed25519 -N '' -f /tmp/key",
    "curl": "curl --version",
    "tar": "tar -cf /tmp/x.tar -C /usr/bin true && tar -xf /tmp/x.tar -C /tmp",
}  # fmt: skip


@pytest.mark.parametrize("name", WORKS)
def test_programs_that_people_use_work(walls: Walls, name: str) -> None:
    require(name)
    code = """
import subprocess
done = subprocess.run(["sh", "-c", given["command"]], capture_output=True, text=True, timeout=50)
found = [done.returncode, done.stdout[-2000:] + done.stderr[-2000:]]
"""
    status, said = walls.inside(code, command=WORKS[name])
    assert status == 0, said


# -- namespaces inside ----------------------------------------------------------------------------------------------------

BWRAP = (
    "bwrap --unshare-all --ro-bind / / --dev /dev --tmpfs /tmp --hostname inner --die-with-parent -- sh -c 'hostname; id -u'"
)


def run_inside(walls: Walls, command: str, **parts: Any) -> tuple[int, str]:
    """Exit status and output of a command in an env."""
    code = """
import subprocess
done = subprocess.run(["sh", "-c", given["command"]], capture_output=True, text=True, timeout=50)
found = [done.returncode, done.stdout + done.stderr]
"""
    status, said = walls.inside(code, command=command, parts=parts)
    return status, said


def test_bwrap_inside_works_with_nested_only(walls: Walls) -> None:
    require("bwrap")
    status, said = run_inside(walls, BWRAP)
    assert status != 0
    assert "ermi" in said or "No space" in said, said
    status, said = run_inside(walls, BWRAP, **NESTED)
    assert (status, said.split()) == (0, ["inner", str(os.getuid())]), said


def test_bwrap_inside_mounts_a_procfs(walls: Walls) -> None:
    """A procfs is only given where no part of the outer one is hidden."""
    require("bwrap")
    status, said = run_inside(walls, BWRAP.replace("--dev /dev", "--dev /dev --proc /proc"), **NESTED)
    assert (status, said.split()) == (0, ["inner", str(os.getuid())]), said


CHROMIUM = "chromium --headless=new --disable-gpu --no-first-run --user-data-dir=/tmp/c --dump-dom 'data:text/html,<script>document.write(6*7)</script>'"


def test_chromium_has_its_own_sandbox_with_nested_only(walls: Walls) -> None:
    require("chromium")
    _, said = run_inside(walls, CHROMIUM)
    assert "No usable sandbox" in said
    status, said = run_inside(walls, CHROMIUM, **NESTED)
    assert status == 0, said
    assert "<body>42" in said or "42</body>" in said, said


PODMAN = """
mkdir -p /tmp/root/bin /tmp/root/proc /tmp/root/dev /tmp/root/sys /tmp/root/tmp /tmp/root/etc /tmp/root/run
cp "$(command -v busybox)" /tmp/root/bin/sh && printf '[containers]\\nkeyring = false\\n' > /tmp/containers.conf
export XDG_RUNTIME_DIR=/tmp CONTAINERS_CONF=/tmp/containers.conf
unshare -r unshare -U --map-user=$(id -u) --map-group=$(id -g) \\
    podman --runtime=crun --cgroup-manager=cgroupfs --storage-driver=vfs run --rm --cgroups=disabled --network=host \\
    --rootfs /tmp/root /bin/sh -c 'echo contained' 2>&1
"""


def test_podman_runs_inside_with_nested_and_one_id(walls: Walls) -> None:
    """Without a keyring, which belongs to no namespace, and without setuid helpers: so all of a container is one uid."""
    require("podman", "crun", "busybox")
    status, said = run_inside(walls, PODMAN, **NESTED)
    assert (status, said.split()[-1]) == (0, "contained"), said
    assert run_inside(walls, PODMAN)[0] != 0


def test_what_nested_gives_up_is_said(walls: Walls) -> None:
    made = walls.planned(["true"], **NESTED)
    assert not made.walls["landlock"].demanded
    assert "--nested" in made.walls["landlock"].reason
    assert made.walls["seccomp"].demanded
    with contextlib.closing(walls.launch(made)) as env:
        assert "landlock" not in env.launched.walls
        assert "seccomp" in env.launched.walls


def test_nested_opens_namespaces_and_nothing_else(walls: Walls) -> None:
    """Capabilities in a namespace of one's own reach what the rest of the filter keeps closed."""
    kept = ["bpf", "keyctl", "perf_event_open", "io_uring_setup", "userfaultfd", "kexec_load", "open_by_handle_at"]
    code = """
uid, gid = os.getuid(), os.getgid()
called("unshare", 0x10000000 | 0x20000 | 0x40000000)
for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
    with open("/proc/self/" + name, "w") as file:
        file.write(text)
found = [tried(called, name, -1, -1, -1, -1, -1) for name in given["kept"]]
found += [tried(socket.socket, 16, 3, 12), tried(socket.socket, 17, 3, 768), tried(socket.socket, 2, 3, 1)]
found += [tried(call, "mount", b"tmpfs", b"/tmp", b"tmpfs", 0, None), tried(call, "sethostname", b"x", 1)]
"""
    found = inside(walls, code, parts=NESTED, kept=kept)
    assert found[: len(kept)] == ["EPERM"] * len(kept)
    assert found[len(kept) : -2] == ["EPROTONOSUPPORT", "EAFNOSUPPORT", "EPERM"]
    assert found[-1] == "EPERM", "the host name is of a namespace that is not its own"
    assert found[-2] == "ok"


def test_outside_all_of_it_is_there(walls: Walls) -> None:
    """The rows of the table are no accident of this host."""
    code = "found = [tried(socket.socket, 16, 3, 12), tried(os.setpriority, 0, 0, 0)]"
    assert outside(code) == ["ok", "ok"]
    assert walls.inside("found = tried(socket.socket, 16, 3, 12)", parts={"network": Network(mode="host")}) == "EPROTONOSUPPORT"
