"""Landlock behind the namespaces: a second wall, seen by itself where the first one has a hole or is not there.

Each control is the same attack on the same plan without its Landlock step.
"""

import os
import socket
from pathlib import Path

import pytest
from msgspec.structs import replace

from sandboxd.errors import LaunchFailed, WallUnavailable
from sandboxd.isolation.facts import WALLS
from sandboxd.isolation.steps import Bind, Prove, Rules
from sandboxd.launch.walls import PROOFS
from sandboxd.spec import Isolation, Mount, Network, Service
from tests.require import require
from tests.walls.envs import Walls, program, without


@pytest.fixture(autouse=True)
def _landlock() -> None:
    require("landlock")


# What a hole in the mount wall looks like: a place in the view that no plan put there. Landlock knows nothing of it.
READ_ALL = """
found = [tried(read, given["dir"] + "/secret"), tried(os.listdir, given["dir"]), tried(write, given["dir"] + "/secret")]
found += [tried(read, given["own"]), tried(write, given["own"])]
"""


def test_a_hole_in_the_view_leads_to_nothing(walls: Walls, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    own = walls.shop / "own"
    own.write_text("x")
    made = walls.planned(program(READ_ALL, {"dir": "/srv/hole", "own": str(own)}))
    hole = Bind(str(tmp_path), "/srv/hole", readonly=False)
    steps = [*made.steps[:1], hole, *made.steps[1:]]
    with_hole = replace(made, steps=steps)
    for plan, expected in (
        (with_hole, ["EACCES", "ok", "EACCES", "ok", "ok"]),
        (without(with_hole, "landlock"), ["ok", "ok", "ok", "ok", "ok"]),
    ):
        env = walls.launch(plan)
        try:
            assert env.found() == expected
        finally:
            env.close()


def test_a_descriptor_of_the_hosts_tree_leads_nowhere(walls: Walls, tmp_path: Path) -> None:
    """As CVE-2024-21626: whoever gets hold of one outside finds every name below it closed."""
    (tmp_path / "secret").write_text("s")
    code = """
with socket.socket(socket.AF_UNIX) as server:
    server.bind(given["at"])
    server.listen()
    peer, _ = server.accept()
_, fds, _, _ = socket.recv_fds(peer, 1, 1)
def opened(name, flags, mode=0o600):
    os.close(os.open(name, flags, mode, dir_fd=fds[0]))
found = [tried(opened, "secret", os.O_RDONLY), tried(opened, "..", os.O_RDONLY), tried(opened, "new", os.O_CREAT | os.O_WRONLY)]
found += [tried(os.mkdir, "new-dir", dir_fd=fds[0]), tried(os.unlink, "secret", dir_fd=fds[0])]
"""

    def attack(lacking: str) -> list[str]:
        at = walls.shop / "door"
        made = walls.planned(program(code, {"at": str(at)}))
        env = walls.launch(without(made, lacking) if lacking else made)
        try:
            while not at.exists():
                os.sched_yield()
            with socket.socket(socket.AF_UNIX) as client:
                while client.connect_ex(str(at)):
                    os.sched_yield()
                directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    socket.send_fds(client, [b"x"], [directory])
                finally:
                    os.close(directory)
                found: list[str] = env.found()
                return found
        finally:
            env.close()
            at.unlink(missing_ok=True)

    assert attack("") == ["EACCES"] * 5
    assert attack("landlock") == ["ok"] * 5


MOUNTS = """
uid, gid = os.getuid(), os.getgid()
found = [tried(call, "unshare", 0x10000000 | 0x20000)]
for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
    with open("/proc/self/" + name, "w") as file:
        file.write(text)
found += [tried(call, "mount", b"tmpfs", b"/run", b"tmpfs", 0, None), tried(call, "pivot_root", b"/tmp", b"/tmp")]
found += [tried(call, "syscall", 428, -100, b"/tmp", 1)]
"""


def test_nobody_mounts_any_more(walls: Walls) -> None:
    """Even with the capabilities of a user namespace made inside, which seccomp and a sysctl keep it from besides."""
    assert walls.inside(MOUNTS, lacking="seccomp")[:3] == ["ok", "EPERM", "EPERM"]
    assert walls.inside(MOUNTS, parts={"isolation": Isolation(nested=True)})[:2] == ["ok", "ok"]


ABSTRACT = """
def reach():
    connect(None, given["name"], socket.AF_UNIX)
server = socket.socket(socket.AF_UNIX)
server.bind("\\0own")
server.listen()
found = [tried(reach), tried(connect, None, "\\0own", socket.AF_UNIX)]
"""


def test_abstract_sockets_of_the_host_are_out_of_reach_on_its_network(walls: Walls) -> None:
    if walls.host.landlock < 6:
        pytest.skip(f"Landlock ABI {walls.host.landlock} has no scopes")
    parts = {"network": Network(mode="host")}
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("")
        server.listen()
        name = server.getsockname().decode()
        assert walls.inside(ABSTRACT, parts=parts, name=name) == ["EPERM", "ok"]
        assert walls.inside(ABSTRACT, parts=parts, lacking="landlock", name=name) == ["ok", "ok"]


BIND = """
def listen(port):
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
        server.listen()
found = [tried(listen, port) for port in given["ports"]]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver:
    found.append(tried(resolver.bind, ("127.0.0.1", 0)))
"""


def test_on_the_hosts_network_an_env_listens_on_its_own_port_only(walls: Walls) -> None:
    if walls.host.landlock < 4:
        pytest.skip(f"Landlock ABI {walls.host.landlock} knows no ports")
    free = [socket.socket() for _ in range(3)]
    for sock in free:
        sock.bind(("127.0.0.1", 0))
    own, said, foreign = ports = [sock.getsockname()[1] for sock in free]
    for sock in free:
        sock.close()
    service = Service(command=program(BIND, {"ports": [*ports, 0]}), port=own, env={"PORT": str(said)})
    made = walls.planned_of({"web": service}, network=Network(mode="host"))
    for plan, expected in ((made, ["ok", "ok", "EACCES", "EACCES", "ok"]), (without(made, "landlock"), ["ok"] * 5)):
        env = walls.launch(plan)
        try:
            assert env.found() == expected
        finally:
            env.close()
    assert walls.inside(BIND, ports=[foreign, 0]) == ["ok", "ok", "ok"], "a network of its own is all its own"


NEIGHBOURS = """
import fcntl, multiprocessing, pty, shutil, termios
home, shop = os.environ["HOME"], os.getcwd()
for place in (home, shop, "/tmp", "/var/tmp", "/dev/shm", "/run"):
    a, b = place + "/a/deep", place + "/b"
    os.makedirs(a); os.makedirs(b)
    write(a + "/file"); os.rename(a + "/file", b + "/file"); os.link(b + "/file", a + "/again"); os.symlink("file", b + "/link")
    os.truncate(b + "/file", 0); os.mkfifo(b + "/fifo"); shutil.copy("/bin/true", b + "/true")
    assert os.spawnl(os.P_WAIT, b + "/true", "true") == 0
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(b + "/sock"); server.listen()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(b + "/sock")
    os.rename(a, b + "/moved"); shutil.rmtree(b)
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, b"\\1\\0\\1\\0\\0\\0\\0\\0")
    with open("/dev/tty", "w") as tty, open(os.ttyname(0), "w") as again:
        tty.write("t" if tty.isatty() and again.isatty() else "f")
    os._exit(0)
said = os.read(terminal, 1).decode()
os.waitpid(pid, 0)
child = os.fork()
if child == 0:
    time.sleep(60)
os.kill(child, 9)
with open("/dev/null", "w") as null, open("/proc/self/oom_score_adj", "w") as adjust:
    null.write("x"); adjust.write("500")
found = [said, os.waitpid(child, 0)[1], sorted(os.listdir("/"))[:1], open("/proc/stat").read(3)]
"""


def test_what_programs_do_all_day_works(walls: Walls) -> None:
    assert walls.inside(NEIGHBOURS) == ["t", 9, [".sandboxd"], "cpu"]


def test_mounts_that_were_asked_for_are_open_as_asked(walls: Walls, tmp_path: Path) -> None:
    for name in ("rw", "ro"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")
    (tmp_path / "single").write_text("x")
    mounts = [
        Mount(source=str(tmp_path / "rw"), target="/srv/rw"),
        Mount(source=str(tmp_path / "single"), target="/etc/passwd"),
    ]
    mounts.append(Mount(source=str(tmp_path / "ro"), target="/srv/ro", readonly=True))
    code = "found = [tried(write, path) for path in given['paths']] + [tried(read, '/srv/ro/file')]"
    paths = ["/srv/rw/file", "/srv/rw/new", "/etc/passwd", "/srv/ro/file"]
    assert walls.inside(code, parts={"mounts": mounts}, paths=paths) == ["ok", "ok", "ok", "EROFS", "ok"]


def test_services_of_one_env_reach_each_other(walls: Walls) -> None:
    """One domain for all: signals, abstract sockets, and a debugger."""
    code = """
import subprocess
child = subprocess.Popen(["sleep", "60"])
def trace(pid):
    call("ptrace", 0x4206, pid, None, None)
def own():
    connect(None, "\\0first", socket.AF_UNIX)
first = int(open(given["pid"]).read())
found = [tried(os.kill, first, 0), tried(own), tried(trace, child.pid), tried(trace, first)]
child.kill()
"""
    pid = walls.shop / "first.pid"
    server = """
server = socket.socket(socket.AF_UNIX)
server.bind("\\0first")
server.listen()
with open(given["pid"] + ".new", "w") as file:
    file.write(str(os.getpid()))
os.rename(given["pid"] + ".new", given["pid"])
time.sleep(60)
"""
    first = program(server, {"pid": str(pid)})
    second = ["/bin/sh", "-c", f'while ! [ -e {pid} ]; do sleep 0.05; done; exec "$@"', "sh", *program(code, {"pid": str(pid)})]
    env = walls.launch(walls.planned_of({"other": Service(command=first), "web": Service(command=second)}))
    try:
        assert env.found() == ["ok", "ok", "ok", "ok"]
    finally:
        env.close()
        pid.unlink(missing_ok=True)


def test_the_wall_is_proven_or_there_is_no_env(walls: Walls) -> None:
    made = walls.planned(["true"])
    assert "landlock" in made.walls
    unraised = [step for step in made.steps if step.__struct_config__.tag != "landlock"]
    plan = replace(made, steps=unraised)
    with pytest.raises(
        WallUnavailable, match=r"its landlock wall was raised and does not hold: .* could be read \(ok\)"
    ) as not_held:
        walls.launch(plan)
    assert not_held.value.details["wall"] == "landlock"
    assert not_held.value.hint
    unproven = [*made.steps[:-1], Prove([wall for wall, info in made.walls.items() if info.demanded and wall != "landlock"])]
    plan = replace(made, steps=unproven)
    with pytest.raises(WallUnavailable, match="landlock wall of env shop was not proven"):
        walls.launch(plan)


def test_every_wall_has_a_proof() -> None:
    assert set(WALLS) <= set(PROOFS)


def test_a_rule_for_what_is_not_there_is_no_env(walls: Walls) -> None:
    made = walls.planned(["true"])
    steps = [Rules([("/nowhere", 4)], []) if isinstance(step, Rules) else step for step in made.steps]
    plan = replace(made, steps=steps)
    with pytest.raises(LaunchFailed, match="add the Landlock rules"):
        walls.launch(plan)
