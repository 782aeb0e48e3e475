"""Isolation landlock and none: no namespaces, so what holds is what each program took upon itself, and what is left is ended.

Each attack on `landlock` is made at `none` too, where it works.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandboxd.launch.guard import below
from sandboxd.spec import Isolation, Network, Service
from tests.daemons import ROOT
from tests.require import require
from tests.walls.envs import Walls, program, wait_dead


@pytest.fixture(scope="module")
def walls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walls]:
    """As of conftest, on a host that need not have user namespaces."""
    require("landlock", "unprivileged")
    made = Walls(tmp_path_factory.mktemp("levels"))
    yield made
    made.close()


def parts(level: Any) -> dict[str, Any]:
    return {"isolation": Isolation(level=level), "network": Network(mode="host")}


def at(walls: Walls, level: str, code: str, **given: Any) -> Any:
    return walls.inside(code, parts=parts(level), **given)


FILES = """
found = [tried(read, given["secret"]), tried(os.listdir, given["home"]), tried(write, given["secret"]), tried(os.listdir, "/")]
found += [tried(os.truncate, given["secret"], 0), tried(os.unlink, given["secret"]), tried(write, given["tmp"])]
found += [tried(os.listdir, "/dev/shm"), tried(write, "/proc/self/oom_score_adj", "500")]
"""
NEIGHBOURS = """
import shutil
os.makedirs("a/deep"); write("a/deep/file"); os.makedirs("b"); os.rename("a/deep/file", "b/file"); os.truncate("b/file", 0)
shutil.copy("/bin/true", "b/true")
found = [os.spawnl(os.P_WAIT, "b/true", "true"), tried(write, "/dev/null"), tried(read, "/etc/passwd")]
found += [tried(read, "/proc/self/maps")]
found += [tried(write, os.environ["HOME"] + "/x"), tried(write, os.environ["TMPDIR"] + "/x")]
found.append(os.environ["HOME"] == given["env_home"])
shutil.rmtree("a"); shutil.rmtree("b")
"""


def test_files_that_are_not_its_own_are_closed(walls: Walls, tmp_path: Path) -> None:
    def attempt(level: str) -> list[str]:
        secret = walls.home / ".ssh-id"
        secret.write_text("key")
        found: list[str] = at(walls, level, FILES, secret=str(secret), home=str(walls.home), tmp=str(tmp_path / "x"))
        assert secret.exists() is (level == "landlock")
        return found

    assert attempt("landlock") == ["EACCES"] * 9
    assert attempt("none") == ["ok"] * 9


@pytest.mark.parametrize("level", ["landlock", "none"])
def test_what_is_its_own_is_open(walls: Walls, level: str) -> None:
    env_dir = walls.env_dir()
    code = program(NEIGHBOURS, {"env_home": str(env_dir / "home")})
    env = walls.launch(walls.planned(code, env_dir=env_dir, **parts(level)))
    try:
        assert env.found() == [0, "ok", "ok", "ok", "ok", "ok", True]
    finally:
        env.close()


PROCESSES = """
pid = given["pid"]
found = [tried(read, f"/proc/{pid}/environ"), tried(os.readlink, f"/proc/{pid}/fd/1"), tried(read, f"/proc/{pid}/maps")]
found += [tried(call, "ptrace", 0x4206, pid, None, None), tried(os.kill, pid, 0)]
"""


def test_the_users_other_processes_are_out_of_reach(walls: Walls) -> None:
    victim = subprocess.Popen(["sleep", "300"])
    try:
        read_environ, fds, mem, trace, kill = at(walls, "landlock", PROCESSES, pid=victim.pid)
        assert {read_environ, fds, mem, trace} <= {"EACCES", "EPERM"}
        assert kill == ("EPERM" if walls.host.landlock >= 6 else "ok")
        found = at(walls, "none", PROCESSES, pid=victim.pid)
        assert (found[0], found[1], found[4]) == ("ok", "ok", "ok")
    finally:
        victim.kill()
        victim.wait()


PORTS = """
def listen(port):
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
found = [tried(listen, given["own"]), tried(listen, given["other"])]
"""


def test_it_listens_on_its_own_port_only(walls: Walls) -> None:
    if walls.host.landlock < 4:
        pytest.skip(f"Landlock ABI {walls.host.landlock} knows no ports")
    free = [socket.socket() for _ in range(2)]
    for sock in free:
        sock.bind(("127.0.0.1", 0))
    own, other = (sock.getsockname()[1] for sock in free)
    for sock in free:
        sock.close()
    for level, expected in (("landlock", ["ok", "EACCES"]), ("none", ["ok", "ok"])):
        service = Service(command=program(PORTS, {"own": own, "other": other}), env={"PORT": str(own)})
        env = walls.launch(walls.planned_of({"web": service}, **parts(level)))
        try:
            assert env.found() == expected
        finally:
            env.close()


CALLS = """
import resource
found = [tried(connect, None, given["door"], socket.AF_UNIX), tried(resource.prlimit, given["pid"], resource.RLIMIT_NOFILE)]
found += [tried(os.setpriority, os.PRIO_PROCESS, given["pid"], 19), tried(os.sched_setaffinity, given["pid"], {0})]
pair = socket.socketpair()
found += [tried(pair[0].send, b"x"), tried(resource.prlimit, 0, resource.RLIMIT_NOFILE)]
"""


def test_services_of_the_machine_and_limits_of_others_are_out_of_reach(walls: Walls, tmp_path: Path) -> None:
    """A path socket is as good as the program behind it: `systemd-run --user` wrote outside (below the ABI that knows them)."""
    victim = subprocess.Popen(["sleep", "300"])
    try:
        with socket.socket(socket.AF_UNIX) as door:
            door.bind(str(tmp_path / "door"))
            door.listen()
            given = {"door": str(tmp_path / "door"), "pid": victim.pid}
            closed = "EPERM" if walls.host.landlock < 9 else "EACCES"
            assert at(walls, "landlock", CALLS, **given) == [closed, "EPERM", "EPERM", "EPERM", "ok", "ok"]
            assert at(walls, "none", CALLS, **given) == ["ok"] * 6
    finally:
        victim.kill()
        victim.wait()


INIT = """
init = os.getppid()
found = [tried(os.kill, init, 9), tried(read, f"/proc/{init}/mem"), open("/proc/self/status").read().count("NoNewPrivs:\\t1")]
"""


def test_init_stands_outside(walls: Walls) -> None:
    if walls.host.landlock < 6:
        pytest.skip(f"Landlock ABI {walls.host.landlock} has no scope for signals")
    kill, mem, sealed = at(walls, "landlock", INIT)
    assert (kill, sealed) == ("EPERM", 1)
    assert mem in ("EACCES", "EPERM")


STRAYS = """
ready, here = os.pipe()
def stray(depth):
    if os.fork() == 0:
        os.setsid()
        if depth:
            stray(depth - 1)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.close(1)
        os.close(2)
        os.write(here, b"x")
        time.sleep(600)
        os._exit(0)
for _ in range(4):
    stray(3)
up = 0
while up < 16:
    up += len(os.read(ready, 16))
os.write(1, b"up\\n")
while True:
    if os.fork() == 0:
        os._exit(0)
    os.wait()
"""


@pytest.mark.parametrize("end", ["asked", "init killed", "guard killed"])
@pytest.mark.parametrize("level", ["landlock", "none"])
def test_nothing_is_left_whoever_ends_first(walls: Walls, level: str, end: str) -> None:
    """Programs that forked twice, each in a session of its own, while another forks all the time."""
    env = walls.launch(walls.planned(program(STRAYS, {}), **parts(level)))
    tree: list[int] = []
    try:
        assert env.lines(count=1) == ["up"]
        init = env.launched.pid
        guard = int(Path(f"/proc/{init}/stat").read_text().rpartition(")")[2].split()[1])
        tree += [process for process in map(opened, below(guard)) if process is not None]
        assert len(tree) >= 1 + 1 + 16
        if end != "asked":
            os.kill(init if end == "init killed" else guard, signal.SIGKILL)
        for process in tree if end != "asked" else []:
            wait_dead(process)
    finally:
        env.close()
        for process in tree:
            wait_dead(process)
            os.close(process)


def opened(pid: int) -> int | None:
    """A pidfd, unless it ended meanwhile: some of them are forked to end at once."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


# The same where user namespaces are switched off: in one of the test's own, in which there can be no further one.
WITHOUT = """
import json, os, sys
from pathlib import Path
from sandboxd.kernel import namespaces
uid, gid = os.getuid(), os.getgid()
namespaces.unshare(namespaces.NEWUSER)
namespaces.write_proc("/proc/self/setgroups", b"deny")
namespaces.write_proc("/proc/self/uid_map", b"%d %d 1" % (uid, uid))
namespaces.write_proc("/proc/self/gid_map", b"%d %d 1" % (gid, gid))
namespaces.write_proc("/proc/sys/user/max_user_namespaces", b"0")
from sandboxd.errors import WallUnavailable
from sandboxd.launch.guard import below
from sandboxd.spec import Isolation, Network
from tests.walls.envs import Walls
walls = Walls(Path(sys.argv[1]))
try:
    walls.planned(["true"])
    refused = None
except WallUnavailable as error:
    refused = [error.details["wall"], error.hint]
found = walls.inside("found = [tried(os.listdir, '/'), tried(write, 'x'), tried(read, '/etc/passwd')]",
                     parts={"isolation": Isolation(level="landlock"), "network": Network(mode="host")})
walls.close()
print(json.dumps([refused, found]))
"""


def test_on_a_host_without_user_namespaces(tmp_path: Path) -> None:
    require("userns", "landlock", "unprivileged")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    (wall, hint), found = json.loads(done.stdout)
    assert wall == "user"
    assert "sysctl -w user.max_user_namespaces" in hint
    assert "--isolation landlock works here" in hint
    assert found == ["EACCES", "ok", "ok"]
