"""Published escapes from runc and bubblewrap, as far as the mechanism is there to be tried. TIOCSTI stands in the tables.

Each is the attack of its advisory brought to this system: what stood in its way there (a patch) or stands here (a design).
"""

import os
from pathlib import Path

import pytest

from tests.conftest import descriptors
from tests.daemons import Daemon
from tests.walls.envs import PYTHON, Walls, outside, program


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A workspace with a victim beside it, and in it a way to get there for whoever follows a link."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "victim").mkdir()
    return tmp_path / "shop"


# -- CVE-2024-21626: a descriptor of the host's file system that leaks into the container, reached as /proc/self/fd/N


def test_no_descriptor_is_a_working_directory(shared_daemon: Daemon, shop: Path) -> None:
    """As in the advisory: `-w /proc/self/fd/N` for each N that init might hold at that moment."""
    shared_daemon.sandbox("run", "-d", "--name", "leak", "--", "sleep", "600", cwd=shop)
    try:
        with shared_daemon.client() as client:
            from sandboxd.protocol.messages import Exec

            seen = set()
            for number in range(3, 40):
                for base in ("self", "1", "thread-self"):
                    asked = Exec(target="leak", argv=["ls", "-a", "../../../.."], workdir=f"/proc/{base}/fd/{number}", fds=True)
                    try:
                        with client.open(asked) as session:
                            seen.add(session.wait().exit_code)
                            seen.add(f"/proc/{base}/fd/{number} could be entered")
                    except Exception as refused:
                        seen.add(type(refused).__name__)
        assert seen == {"LaunchFailed"}
        done = shared_daemon.sandbox("exec", "-w", "/proc/self/cwd", "leak", "--", "pwd", cwd=shop)
        assert done.stdout.strip() == "/", "the neighbour: what is init's own place, which is the env's root"
    finally:
        shared_daemon.sandbox("rm", "-f", "leak")


def test_a_service_inherits_three_descriptors_and_the_cwd_is_inside(walls: Walls) -> None:
    code = "found = [sorted(os.listdir('/proc/self/fd')), os.path.samefile(os.getcwd(), os.readlink('/proc/self/cwd'))]"
    assert walls.inside(code) == [["0", "1", "2", "3"], True]
    extra = os.open("/", os.O_RDONLY)
    os.set_inheritable(extra, True)
    try:
        assert len(descriptors()) > 4
        assert walls.inside(code)[0] == ["0", "1", "2", "3"], "whatever the daemon holds, and however"
    finally:
        os.close(extra)


# -- CVE-2019-5736: a program inside that is /proc/self/exe, so that what enters the container executes the host's runtime again


def test_exec_of_proc_self_exe_runs_nothing_of_the_hosts_for_writing(shared_daemon: Daemon, shop: Path) -> None:
    """A script whose interpreter is /proc/self/exe starts init's own binary, which nobody inside can open for writing."""
    (shop / "evil").write_text("#!/proc/self/exe\n")
    (shop / "evil").chmod(0o755)
    code = """
import os, sys, time
found, until = set(), time.monotonic() + 3
while time.monotonic() < until:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) != os.getpid():
            try:
                os.open(f"/proc/{pid}/exe", os.O_WRONLY)
                found.add(f"{pid} opened")
            except OSError as error:
                found.add(error.errno)
print(sorted(map(str, found)))
"""
    shared_daemon.sandbox("run", "-d", "--name", "watcher", "--", PYTHON, "-c", code, cwd=shop)
    for _ in range(5):
        shared_daemon.sandbox("exec", "watcher", "--", str(shop / "evil"), cwd=shop, check=False)
        shared_daemon.sandbox("exec", "watcher", "--", "/proc/self/exe", "-c", "pass", cwd=shop, check=False)
    shared_daemon.sandbox("wait", "watcher", check=False)
    said = shared_daemon.sandbox("logs", "watcher").stdout
    shared_daemon.sandbox("rm", "-f", "watcher")
    assert "opened" not in said
    assert said.startswith("["), said


# -- CVE-2025-31133, -52565, -52881: mount targets and sources swapped for links while the container is being made


def test_what_masks_is_ours_and_cannot_be_swapped(walls: Walls, tmp_path: Path) -> None:
    """runc masked with the container's own /dev/null, which an image could replace by a link; we mask with files of our own."""
    code = """
found = [tried(os.unlink, "/.sandboxd/blank"), tried(os.symlink, "/proc/sys", "/.sandboxd/empty/x")]
found += [tried(os.rename, "/dev/null", "/dev/x"), tried(os.symlink, "/", "/dev/pts/0"), tried(write, "/dev/null")]
"""
    assert walls.inside(code) == ["EROFS", "EROFS", "EROFS", "EACCES", "ok"]


def test_the_terminal_is_opened_by_descriptor_and_not_by_a_path_that_can_be_swapped(shared_daemon: Daemon, shop: Path) -> None:
    """-52565 bound the console from /dev/pts/N by its path. Here no mount is made of a terminal, and there is no console."""
    code = "import os; print(os.ttyname(0), os.path.exists('/dev/console'), os.stat('/dev/tty').st_rdev == os.makedev(5, 0))"
    done = shared_daemon.sandbox("run", "--rm", "-t", "--name", "tty", "--", PYTHON, "-c", code, cwd=shop)
    assert done.stdout.split() == ["/dev/pts/0", "False", "True"]


def test_labels_and_limits_are_not_written_through_paths_of_the_env(walls: Walls) -> None:
    """-52881 had runc write /proc/self/attr/… where the container had put something else. What we write to /proc is written
    before the first program of the env runs, and its /proc can be mounted over by nobody."""
    code = """
def over():
    call("mount", b"tmpfs", b"/proc/self/attr", b"tmpfs", 0, None)
found = [tried(over), sorted(line.split()[4] for line in open("/proc/self/mountinfo") if " /proc" in line)[0]]
"""
    assert walls.inside(code) == ["EPERM", "/proc"]


# -- what flatpak and snap let through: a socket that was connected outside and is passed in


def test_nothing_can_be_received_from_outside(walls: Walls) -> None:
    """No socket of the host is in reach, so nobody outside can hand a descriptor in; the env's own passing works."""
    code = """
a, b = socket.socketpair()
socket.send_fds(a, [b"x"], [0])
found = [len(socket.recv_fds(b, 1, 1)[1]), tried(connect, 0, given["path"], socket.AF_UNIX)]
"""
    import socket

    path = str(walls.root / "outside.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        assert walls.inside(code, path=path) == [1, "ENOENT"]
        assert outside(code, path=path) == [1, "ok"]
    assert program("", {})[0] == PYTHON
