"""Envs behind their walls without a daemon: launcher, plan and init as they are, and code that runs inside and outside.

A wall's test is a triple: the attack fails inside with the named errno, the same attack works (or fails otherwise) without
the wall, and the allowed neighbour works inside. The code of both is Python that sets `found`; `tried(f, *args)` gives "ok"
or an errno's name.
"""

import asyncio
import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import msgspec

from sandboxd.isolation.plan import LaunchPlan, plan
from sandboxd.isolation.steps import Prove, Sysctl
from sandboxd.launch.client import Launched, Launcher
from sandboxd.launch.parcel import InitFds
from sandboxd.launch.probes import look_at, probe_host
from sandboxd.spec import EnvSpec, Service, Workspace

PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin") or "python3"
TIMEOUT = 60.0
HEAD = """
import ctypes, errno, json, os, signal, socket, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
given = json.loads({given!r})
def tried(action, *arguments, **named):
    try:
        action(*arguments, **named)
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    return "ok"
def call(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)
def write(path, text="x"):
    with open(path, "a") as file:
        file.write(text)
def read(path):
    with open(path, "rb") as file:
        file.read(1)
def connect(port, address="127.0.0.1", family=socket.AF_INET):
    with socket.socket(family) as client:
        client.settimeout(5)
        client.connect((address, port) if family != socket.AF_UNIX else address)
found = None
"""
TAIL = '\nos.write(1, b"\\n" + json.dumps(found).encode() + b"\\n")\n'


def program(code: str, given: dict[str, Any]) -> list[str]:
    """The command that runs the code."""
    return [PYTHON, "-I", "-S", "-c", HEAD.format(given=json.dumps(given)) + code + TAIL]


def outside(code: str, **given: Any) -> Any:
    """What the code finds on the host, with no wall at all."""
    done = subprocess.run(
        program(code, given), capture_output=True, text=True, timeout=TIMEOUT, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def without(made: LaunchPlan, wall: str) -> LaunchPlan:
    """The same plan with one wall of the second kind (landlock, seccomp) neither raised nor demanded: for the control.

    With seccomp goes the setting that closes user namespaces besides.
    """
    closed = Sysctl("user/max_user_namespaces", "0") if wall == "seccomp" else None
    base = [step for step in made.base if step != closed]
    steps = [step for step in made.steps if step.__struct_config__.tag != wall]
    proof = steps.pop()
    assert isinstance(proof, Prove)
    steps.append(Prove([name for name in proof.walls if name != wall]))
    walls = {**made.walls, wall: msgspec.structs.replace(made.walls[wall], demanded=False)}
    return msgspec.structs.replace(made, base=base, steps=steps, walls=walls)


def wait_dead(pidfd: int) -> None:
    """Wait for the end of a process; its pidfd becomes readable."""
    ready, _, _ = select.select([pidfd], [], [], TIMEOUT)
    assert ready, "it did not end"


class Inside:
    """A launched env: its pid 1, and what its first service says."""

    def __init__(self, launched: Launched, ends: dict[str, int], sockets: list[socket.socket], last: int) -> None:
        self.launched = launched
        self.last = last
        self.ends = ends
        self.sockets = sockets

    def lines(self, stream: str = "stdout", count: int = 0) -> list[str]:
        """Output up to `count` lines, or with 0 to its end."""
        text, until = b"", time.monotonic() + TIMEOUT
        while not count or text.count(b"\n") < count:
            ready, _, _ = select.select([self.ends[stream]], [], [], until - time.monotonic())
            assert ready, f"nothing more after {text!r}"
            data = os.read(self.ends[stream], 65536)
            if not data:
                break
            text += data
        return text.decode().splitlines()

    def found(self) -> Any:
        """What the code found."""
        lines = self.lines()
        assert lines, "\n".join(self.lines("stderr"))
        return json.loads(lines[-1])

    def is_alive(self) -> bool:
        """Whether pid 1 runs."""
        return not select.select([self.launched.pidfd], [], [], 0)[0]

    def close(self) -> None:
        """Kill it whole."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.launched.pidfd, self.last)
        wait_dead(self.launched.pidfd)
        os.close(self.launched.pidfd)
        if self.launched.diag >= 0:
            os.close(self.launched.diag)
        for fd in self.ends.values():
            os.close(fd)
        for sock in self.sockets:
            sock.close()


class Walls:
    """A launcher, a home, a workspace and a state directory of the test's own."""

    def __init__(self, root: Path, *, pool: int = 0, init: str = "sandboxd.launch.init") -> None:
        self.root = root = Path(os.path.realpath(root))
        self.home, self.state, self.shop = root / "home", root / "state", root / "home" / "src" / "shop"
        for directory in (self.home, self.state, self.shop):
            directory.mkdir(parents=True, exist_ok=True)
        self.count = 0
        self.log = self.state / "launcher.log"
        self.runner = asyncio.Runner()
        self.host = probe_host()
        start = Launcher.start(pool=pool, log=self.log, host=self.host, init=init, path=str(Path(__file__).parent))
        self.launcher = self.runner.run(start)

    def close(self) -> None:
        """End the launcher; what it logged is for the test to see."""
        self.launcher.close()
        self.runner.close()
        said = self.log.read_text()
        assert not said, said

    def env_dir(self) -> Path:
        """A directory for one more env."""
        self.count += 1
        directory = self.state / "envs" / f"{self.count:032x}"
        (directory / "home" / "tmp").mkdir(parents=True)
        return directory

    def planned(
        self, command: list[str], *, workspace: Path | None = None, env_dir: Path | None = None, **parts: Any
    ) -> LaunchPlan:
        """The plan of an env with one service; `environ` is the caller's."""
        return self.planned_of({"web": Service(command=command)}, workspace=workspace, env_dir=env_dir, **parts)

    def planned_of(
        self, services: dict[str, Service], *, workspace: Path | None = None, env_dir: Path | None = None, **parts: Any
    ) -> LaunchPlan:
        """The plan of an env with those services; what "web" says is heard."""
        environ = {"HOME": str(self.home), "PATH": "/usr/bin:/bin", **parts.pop("environ", {})}
        spec = EnvSpec(services=services, workspace=Workspace(path=str(workspace or self.shop)), **parts)
        directory = env_dir or self.env_dir()
        place = look_at(spec, environ=environ, env_dir=directory, uid=os.geteuid())
        uid, gid = os.geteuid(), os.getegid()
        return plan(spec, id=directory.name, name="shop", host=self.host, place=place, environ=environ, uid=uid, gid=gid)

    def launch(self, made: LaunchPlan) -> Inside:
        """An env of that plan."""
        control, dial = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        read_out, write_out = os.pipe()
        read_err, write_err = os.pipe()
        files = [os.open(self.root, os.O_TMPFILE | os.O_RDWR, 0o600) for _ in range(3)]
        try:
            for sock in (control, dial):
                sock.bind(b"")  # an abstract address that the kernel picks
                sock.listen()
            given = InitFds(
                control=control.fileno(),
                dial=dial.fileno(),
                exits=files[0],
                logs={"web": (files[1], files[2])},
                attach={"web": {"stdout": write_out, "stderr": write_err}},
            )
            launched = self.runner.run(self.launcher.launch(made, lambda _: given))
        except BaseException:
            for end in (read_out, read_err):
                os.close(end)
            for sock in (control, dial):
                sock.close()
            raise
        finally:
            for fd in [write_out, write_err, *files]:
                os.close(fd)
        last = signal.SIGKILL if made.profile.namespaces else signal.SIGTERM
        return Inside(launched, {"stdout": read_out, "stderr": read_err}, [control, dial], last)

    def inside(self, code: str, *, parts: dict[str, Any] | None = None, lacking: str = "", **given: Any) -> Any:
        """What the code finds in an env of its own. lacking: the wall that it is to be without."""
        made = self.planned(program(code, given), **(parts or {}))
        env = self.launch(without(made, lacking) if lacking else made)
        try:
            return env.found()
        finally:
            env.close()
