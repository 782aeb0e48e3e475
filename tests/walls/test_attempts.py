"""Every attempt to get out is a triple: blocked inside, the same works where that wall is missing, its neighbour works inside.

A real daemon and real envs, made by the command line; probe.py runs all rows of one place in one go.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import run_daemon
from tests.daemons import Daemon
from tests.walls.attempts import CAPABLE, OTHER, OUTSIDE, ROUTED, Attempt, filled, told
from tests.walls.envs import PYTHON
from tests.walls.table_files import FILES
from tests.walls.table_kernel import KERNEL
from tests.walls.table_network import NETWORK
from tests.walls.table_processes import PROCESSES

ATTEMPTS = [*FILES, *PROCESSES, *KERNEL, *NETWORK]
PROBE = Path(__file__).with_name("probe.py")
BYSTANDER = "import ctypes, time; ctypes.CDLL(None).prctl(0x59616d61, -1, 0, 0, 0); print(flush=True); time.sleep(600)"
SERVE = "import socket, time; s = socket.create_server(('127.0.0.1', 3000)); open('data', 'w'); time.sleep(600)"
INSIDE = ("inside",)


def test_there_are_enough() -> None:
    names = [attempt.name for attempt in ATTEMPTS]
    assert len(names) >= 150
    assert len(set(names)) == len(names)
    assert not [row.name for row in ATTEMPTS if {*row.blocked.split("|")} & {*row.works.split("|")}], (
        "such a row proves nothing"
    )


class World:
    """What there is to get at, and the answers of every place."""

    def __init__(self, daemon: Daemon, root: Path) -> None:
        self.daemon = daemon
        self.root = root
        self.home = root / "home"
        self.shop, self.other = self.home / "src" / "shop", self.home / "src" / "other"
        self.closing = contextlib.ExitStack()
        self.known: dict[str, Any] = {}
        self.walls: dict[str, Any] = {}

    def build(self) -> None:
        """Secrets, sockets, processes, and an env to spy on."""
        for name in (".ssh/id_ed25519", ".aws/credentials", ".gnupg/key", "src/else/notes", "src/shop/main.py",
                     "src/shop/second.py", "src/shop/sandbox.toml", "src/shop/.envrc", "src/shop/.git/config",
                     "src/shop/.git/hooks/sample", "src/shop/.git/objects/one", "src/shop/src/x", "src/other/data",
                     "tools/bin/tool", "tools/pyvenv.cfg"):  # fmt: skip
            path = self.home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("#!/bin/sh\nexit 0\n" if name == "tools/bin/tool" else "")
        (self.home / "tools/bin/tool").chmod(0o755)
        (self.shop / "probe.py").write_text(PROBE.read_text())
        run = self.daemon.sandbox
        run("run", "-d", "--name", "other", "--", PYTHON, "-c", SERVE, cwd=self.other)
        run("wait", "--for", "ready", "other")
        (other,) = json.loads(run("inspect", "other").stdout)
        run("exec", "other", "--", "sh", "-c", "touch ~/kept")
        run("run", "-d", "--name", "shop", "--", "sleep", "600", cwd=self.shop)
        (shop,) = json.loads(run("inspect", "shop").stdout)
        self.walls = shop["walls"]
        self.sockets()
        self.processes(other)
        state = self.daemon.dir
        self.known |= {
            "home": self.home, "workspace": self.shop, "other_workspace": self.other, "tools": self.home / "tools",
            "state": state, "other_dir": state / "envs" / other["id"], "other_home": state / "envs" / other["id"] / "home",
            "env_dir": state / "envs" / shop["id"], "uid": os.getuid(), "host_tmp": self.root / "in-tmp",
        }  # fmt: skip
        (self.root / "in-tmp").touch()
        shm = Path(f"/dev/shm/sandboxd-walls-{os.getpid()}")
        shm.touch()
        self.closing.callback(shm.unlink)
        self.known["host_shm"] = shm
        self.known["disk"] = next((node.name for node in Path("/dev").iterdir() if node.is_block_device()), "none")
        self.known = {name: str(value) if isinstance(value, Path) else value for name, value in self.known.items()}

    def sockets(self) -> None:
        """Servers of the host: on loopback, abstract, and in the file system."""
        where = self.root / "sockets"
        where.mkdir()
        self.known["sockets"] = where
        self.known["abstract"] = f"\0sandboxd-walls-{os.getpid()}"
        for address in (self.known["abstract"], *(str(where / name) for name in ("docker.sock", "bus", "X0")),
                        str(self.home / ".ssh/agent")):  # fmt: skip
            server = self.closing.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(address)
            server.listen(64)
        everywhere = self.closing.enter_context(socket.create_server(("", 0), backlog=64))
        self.known["anywhere"] = everywhere.getsockname()[1]
        greeting = threading.Thread(target=greet, args=(everywhere,))
        greeting.start()
        self.closing.callback(greeting.join)
        self.closing.callback(everywhere.shutdown, socket.SHUT_RDWR)
        self.known["address"] = own_address()
        self.known["router"] = self.daemon.port
        for family, address, suffix in ((socket.AF_INET, "127.0.0.1", ""), (socket.AF_INET6, "::1", "6")):
            tcp = self.closing.enter_context(socket.create_server((address, 0), family=family, backlog=64))
            udp = self.closing.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            udp.bind((address, 0))
            self.known |= {"tcp" + suffix: tcp.getsockname()[1], "udp" + suffix: udp.getsockname()[1]}
            answering = threading.Thread(target=echo, args=(udp,))
            answering.start()
            self.closing.callback(answering.join)
            self.closing.callback(stop_echo, udp.getsockname(), family)

    def processes(self, other: dict[str, Any]) -> None:
        """A bystander on the host, our own parts, and a process of the other env."""
        python = self.root / "python"  # a copy that is ours, so that only what guards pid 1 keeps it from being written
        shutil.copy(os.path.realpath(PYTHON), python)
        bystander = subprocess.Popen([python, "-I", "-S", "-c", BYSTANDER], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        self.closing.enter_context(bystander)
        self.closing.callback(bystander.kill)
        assert bystander.stdout is not None
        bystander.stdout.readline()
        assert self.daemon.process is not None
        daemon = self.daemon.process.pid
        parts = {Path(f"/proc/{pid}/comm").read_text().strip(): pid for pid in descendants(daemon)}
        self.known |= {"bystander": bystander.pid, "daemon_pid": daemon, "launcher_pid": parts["sandboxd-launcher"[:15]]}
        self.known["router_pid"] = next(pid for name, pid in parts.items() if "router" in name)
        self.known["other_pid"] = other["services"][0]["pid"]

    def answers(self, place: tuple[str, ...], rows: list[list[Any]]) -> list[Any]:
        """What came of those attempts in a place."""
        is_env = place not in (OUTSIDE, CAPABLE, ROUTED)
        known = self.known | {"init": 1 if is_env else self.known["bystander"]}
        cwd = self.other if place == OTHER else self.shop
        (cwd / "attempts.json").write_text(json.dumps(filled(rows, known)))
        (cwd / "probe.py").write_text(PROBE.read_text())
        argv = [PYTHON, "-I", "-S", "probe.py", "attempts.json"]
        environ = {**self.daemon.environ, "PATH": f"{self.home}/tools/bin:{self.daemon.environ['PATH']}"}
        if place in (INSIDE, OTHER):
            done = self.daemon.sandbox("exec", "shop" if place == INSIDE else "other", "--", *argv, cwd=cwd, timeout=120)
        elif is_env:
            flags = filled(list(place), known)
            self.daemon.environ = environ
            done = self.daemon.sandbox("run", "--rm", *flags, "--", *argv, cwd=cwd, timeout=120)
        else:
            how = [] if place == OUTSIDE else list(place)
            done = self.daemon.keeper.run([*argv, *how], environ, cwd=cwd, timeout=120)
        assert done.returncode == 0, done.stderr
        found: list[Any] = json.loads(done.stdout.splitlines()[-1])
        return found


def descendants(pid: int) -> Iterator[int]:
    """Every process below one."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield int(child)
            yield from descendants(int(child))


def own_address() -> str:
    """An address of this host's that is not loopback, or loopback where there is none (then the control says so)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(sock.getsockname()[0])


def echo(udp: socket.socket) -> None:
    """Answer packets until an empty one comes."""
    while True:
        data, peer = udp.recvfrom(16)
        if not data:
            return
        udp.sendto(data, peer)


def greet(server: socket.socket) -> None:
    """Say something to whoever comes, until it is shut down."""
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"x")


def stop_echo(address: Any, family: int) -> None:
    """End an echo."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"", address)


class Answers:
    """Outcomes by place and row."""

    def __init__(self, world: World) -> None:
        self.walls = world.walls
        self.found: dict[tuple[str, tuple[str, ...]], str] = {}
        places: dict[tuple[str, ...], list[tuple[str, list[Any]]]] = {INSIDE: [], ("neighbours",): []}
        for row in ATTEMPTS:
            places[INSIDE].append((row.name, row.act))
            places[("neighbours",)].append((row.name, row.neighbour))
            places.setdefault(row.without, []).append((row.name, row.act))
        for place, rows in places.items():
            acts = [act for _, act in rows]
            outcomes = world.answers(INSIDE if place == ("neighbours",) else place, acts)
            for (name, _), outcome in zip(rows, outcomes, strict=True):
                self.found[name, place] = told(outcome)

    def of(self, row: Attempt, place: tuple[str, ...]) -> str:
        """One outcome."""
        return self.found[row.name, place]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    """All places, probed once."""
    root = tmp_path_factory.mktemp("attempts")
    tools = f"{root}/home/tools/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
    for daemon in run_daemon(HOME=str(root / "home"), PATH=tools):
        (root / "home").mkdir()
        world = World(daemon, root)
        with world.closing:
            world.build()
            yield Answers(world)


@pytest.mark.parametrize("row", ATTEMPTS, ids=[row.name for row in ATTEMPTS])
def test_attempt(answers: Answers, row: Attempt) -> None:
    if row.wall and not answers.walls[row.wall]["enforced"]:
        pytest.skip(f"no {row.wall} wall here: {answers.walls[row.wall]['reason']}")
    inside, control, neighbour = (answers.of(row, place) for place in (INSIDE, row.without, ("neighbours",)))
    assert inside in row.blocked.split("|"), f"inside it came to {inside}, not {row.blocked}"
    assert control in row.works.split("|"), f"without the wall ({' '.join(row.without)}) it came to {control}"
    assert neighbour == "ok", f"the allowed neighbour {row.neighbour} came to {neighbour}"
