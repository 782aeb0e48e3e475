"""libc, titles, signals, pidfd, capabilities, spawn: one process's own attributes."""

import errno
import os
import resource
import select
import signal
import subprocess
import sys
import time

import pytest

from sandboxd.errors import NotFound
from sandboxd.kernel import capabilities, libc, pidfd, signals, spawn, titles
from tests.kernel.inside import run


def test_an_errno_becomes_an_error_with_its_call_and_hint() -> None:
    found = run("""
try:
    mounts.mount("tmpfs", "/nowhere")
except KernelError as error:
    found = [error.errno, str(error), error.details["call"]]
""")
    assert found[0] in (errno.EPERM, errno.ENOENT)
    assert found[1].startswith("mount tmpfs /nowhere: ")
    assert found[2] == "mount"
    assert ("clone3", errno.ENOSPC) in libc.HINTS


def test_a_title_is_what_ps_shows() -> None:
    found = run("""
titles.set_title("sandboxd-init: shop")
found = [open("/proc/self/cmdline", "rb").read().rstrip(b"\\0").decode(), open("/proc/self/comm").read().strip()]
titles.set_title("x" * 100000)
found.append(len(open("/proc/self/cmdline", "rb").read()) <= titles.room()[1])
found.append(open("/proc/self/environ", "rb").read().startswith(b"xxx"))
""")
    assert found == ["sandboxd-init: shop", "sandboxd-init", True, False]
    assert titles.COMM == 15


def test_a_title_can_be_set_where_proc_cannot_be_read_any_more() -> None:
    assert (
        run("""
titles.room()
capabilities.set_dumpable(False)
titles.set_title("quiet")
found = open("/proc/self/comm").read().strip()
""")
        == "quiet"
    )


def test_signals_are_read_and_not_handled() -> None:
    assert run("""
signals.block_all()
fd = signals.signalfd({signal.SIGTERM, signal.SIGUSR1})
found = [signals.read_signals(fd)]
os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGUSR1)
found.append(sorted(signals.read_signals(fd)))
signals.block_child()
found.append(list(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
signals.default_all()
found.append([signum for signum in signal.valid_signals() if signal.getsignal(signum) != signal.SIG_DFL])
""") == [[], [signal.SIGUSR1, signal.SIGTERM], [signal.SIGCHLD], []]
    assert signals.SIGINFO == 128


def test_a_process_is_pid_and_start_time_and_boot() -> None:
    process = subprocess.Popen(["sleep", "60"])
    started = pidfd.start_time(process.pid)
    assert started is not None
    fd = pidfd.adopt(process.pid, started, pidfd.boot_id())
    try:
        assert pidfd.is_alive(fd)
        for wrong in ((process.pid, started + 1, pidfd.boot_id()), (process.pid, started, "another-boot")):
            with pytest.raises(NotFound):
                pidfd.adopt(*wrong)
        assert pidfd.send_signal(fd, signal.SIGKILL)
        select.select([fd], [], [], 30)
        assert pidfd.start_time(process.pid) is None, "a zombie counts as dead"
        with pytest.raises(NotFound):
            pidfd.adopt(process.pid, started, pidfd.boot_id())
        process.wait()
        assert not pidfd.send_signal(fd, signal.SIGKILL)
        assert not pidfd.is_alive(fd)
    finally:
        os.close(fd)


def test_a_name_with_parentheses_does_not_move_the_fields() -> None:
    assert run("""
before = pidfd.start_time(os.getpid())
titles.set_name("a) Z 1 (b")
found = pidfd.start_time(os.getpid()) == before is not None
""")


def test_capabilities_go_and_stay_gone(require) -> None:
    require("userns", "unprivileged")
    found = run(
        """
found = [capabilities.held()[0] > 0, len(capabilities.bounding()) > 30, capabilities.has_no_new_privs()]
capabilities.drop_bounding()
capabilities.no_new_privs()
found += [capabilities.bounding(), capabilities.has_no_new_privs(), capabilities.held()[0] > 0]
capabilities.empty()
found += [capabilities.held(), errno_of(namespaces.sethostname, "x")]
status = open("/proc/self/status").read()
found += [line.split()[1] for line in status.splitlines() if line.startswith("Cap")]
""",
        enter="NEWUTS",
    )
    assert found[:3] == [True, True, False]
    assert found[3:8] == [[], True, True, [0, 0, 0], "EPERM"]
    assert found[8:] == ["0000000000000000"] * 5
    assert capabilities.LAST_POSSIBLE == 63


def test_bounding_without_the_capability_is_an_error(require) -> None:
    require("unprivileged")
    assert run("found = errno_of(capabilities.drop_bounding)") == "EPERM"


def test_dumpable_is_read_back() -> None:
    assert run("""
found = [capabilities.is_dumpable()]
capabilities.set_dumpable(False)
found += [capabilities.is_dumpable(), errno_of(os.readlink, "/proc/self/exe")]
""")[:2] == [True, False]


def run_program(argv: list[str], limits: list[tuple[int, int, int]]) -> tuple[int, bytes]:
    """Spawn, with stdout on a pipe; wait status and output."""
    read, write = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    words = [word.encode() for word in argv]
    with open(read, "rb") as output:
        try:
            start = spawn.Spawn((null, write, null))
            assert start.fill(words, [b"A=1"], limits)
            pid = start.start(words[0])
        finally:
            os.close(write)
            os.close(null)
        text = output.read()
    return (os.waitpid(pid, 0)[1] if pid else -1), text


pytestmark_spawn = pytest.mark.skipif(not spawn.is_possible(), reason="this C library or machine lacks makecontext")


@pytestmark_spawn
def test_a_spawned_program_has_its_limits() -> None:
    code = """if True:
        import os, resource
        print([resource.getrlimit(limit) for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)], os.environ["A"],
              os.getsid(0) == os.getpid())
    """
    limits = [(resource.RLIMIT_NOFILE, 20, 30), (resource.RLIMIT_CORE, 0, 0)]
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    status, text = run_program([sys.executable, "-I", "-S", "-c", code], limits)
    assert status == 0
    assert text.decode().strip() == "[(20, 30), (0, 0)] 1 True"
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


@pytestmark_spawn
@pytest.mark.parametrize("path", ["/nowhere", "/etc", "/etc/passwd"])
def test_a_program_that_cannot_be_executed_leaves_no_child(path: str) -> None:
    assert run_program([path], []) == (-1, b"")
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytestmark_spawn
def test_many_and_long_arguments_arrive() -> None:
    words = [f"{number}" * 300 for number in range(300)]
    status, text = run_program(["/bin/echo", *words], [])
    assert (status, text.decode().split()) == (0, words)


@pytestmark_spawn
def test_what_is_too_much_is_refused() -> None:
    start = spawn.Spawn((0, 1, 2))
    assert not start.fill([b"x"] * 512, [], [])
    assert not start.fill([b"x"], [b"A=1"] * 512, [])
    assert not start.fill([b"x"], [], [(resource.RLIMIT_CORE, 0, 0)] * spawn.MOST)
    assert start.start(b"/" + b"x" * spawn.PATH) == 0
    start.close()
    assert start.start(b"/bin/true") == 0
    start = spawn.Spawn((0, 1, 2))
    assert start.fill([b"x"] * 511, [], [])
    start.close()


def test_who_waits_for_a_cpu_is_told_from_who_sleeps() -> None:
    with subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=subprocess.PIPE) as busy:
        assert busy.stdout is not None
        busy.stdout.readline()
        assert pidfd.wants_cpu(busy.pid)
        assert [pidfd.is_stuck(busy.pid, missed, 4) for missed in (3, 4, 23, 24)] == [False, False, False, True]
        busy.kill()
    assert not pidfd.wants_cpu(busy.pid)
    assert [pidfd.is_stuck(busy.pid, missed, 4) for missed in (3, 4)] == [False, True]
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as idle:
        assert idle.stdin is not None
        assert idle.stdout is not None
        idle.stdin.write(b"\n")
        idle.stdin.flush()
        idle.stdout.readline()
        while pidfd.wants_cpu(idle.pid):  # until it reads again
            time.sleep(0.001)
