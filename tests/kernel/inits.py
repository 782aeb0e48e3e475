"""A real pid 1 for tests: `Env` starts one behind namespaces of its own, `Recorder` hears its events."""

import asyncio
import contextlib
import errno
import json
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import uvloop

from sandboxd.kernel.fds import close_all, recv
from sandboxd.launch.doorway import bind_sockets
from sandboxd.launch.initlink import InitEvent, InitLink

ROOT = Path(__file__).resolve().parent.parent.parent
CHILD = Path(__file__).with_name("init_child.py")
BOUND = 30  # seconds after which a test is stuck; nothing is asserted of time

uvloop.run(asyncio.sleep(0))  # libuv opens a pipe of its own once per process (uv__signal_global_init) and keeps it


def program(*argv: str, **more: Any) -> dict[str, Any]:
    """A ServicePlan (or exec request) of this command."""
    env = {"PATH": "/usr/bin:/bin", "HOME": "/", "TERM": "dumb"}
    return {"argv": list(argv), "env": env, "workdir": "/", "tty": False, "stdin": False, "rlimits": {}, "umask": 0o022, **more}


def shell(script: str, **more: Any) -> dict[str, Any]:
    """A ServicePlan that runs sh -c."""
    return program("/bin/sh", "-c", script, **more)


class Env:
    """One init, its directory, and what the daemon would hold of it."""

    def __init__(self, path: Path, services: dict[str, dict[str, Any]], **given: Any) -> None:
        self.dir = path / "env"
        (self.dir / "logs").mkdir(parents=True)
        start = given.pop("start", list(services))
        self.config = {
            "version": 1, "id": "ab" * 16, "name": "test", "services": services, "start": start,
            "log_limit": given.pop("log_limit", 1 << 20), "slow": given.pop("slow", {}),
        }  # fmt: skip
        attach = given.pop("attach", {})
        sockets = bind_sockets(self.dir)
        exits = os.open(self.dir / "exits", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        logs = {name: self.open_logs(name) for name in services if name not in given.get("logs", {})}
        ours, theirs = socket.socketpair()
        fds = {
            "control": sockets.control.fileno(), "dial": sockets.dial.fileno(), "exits": exits, "logs": logs, "attach": attach,
        }  # fmt: skip
        if not given.pop("dial", True):
            fds["dial"] = -1
        given.update(root=str(ROOT), config=self.config, fds=fds, report=theirs.fileno())
        passed = [fds["control"], sockets.dial.fileno(), exits, theirs.fileno()]
        passed += [fd for pair in logs.values() for fd in pair] + [fd for ends in attach.values() for fd in ends.values()]
        self.stderr = path / "stderr"
        plan = path / "plan.json"
        plan.write_text(json.dumps(given))
        with open(self.stderr, "wb") as stderr:
            self.harness = subprocess.Popen(
                [sys.executable, "-I", "-S", str(CHILD), str(plan)],
                pass_fds=passed, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr,
            )  # fmt: skip
        sockets.close()
        theirs.close()
        for fd in passed[2:3] + passed[4:]:
            os.close(fd)
        self.files: list[int] = []
        told = b""
        while bytes(told).count(b"\n") < 2:
            data, files = recv(ours, 100)
            if not data:
                self.harness.wait()
                ours.close()
                raise AssertionError(f"no init: {self.stderr.read_text()}")
            told += data
            self.files += files
        ours.close()
        words = dict(line.split() for line in told.decode().splitlines())  # from parent and child, in any order
        self.pid, self.private_before = int(words["pid"]), int(words["private"])

    def open_logs(self, service: str) -> tuple[int, int]:
        """New descriptors of a service's two log files."""
        paths = [self.dir / "logs" / f"{service}.{n}.log" for n in (0, 1)]
        first, second = (os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600) for path in paths)
        return first, second

    def log(self, service: str) -> bytes:
        """All records of a service, older file first."""
        paths = [self.dir / "logs" / f"{service}.{n}.log" for n in (0, 1)]
        return b"".join(sorted((path.read_bytes() for path in paths if path.exists()), key=lambda text: text[:30]))

    def text(self, service: str, stream: str = "stdout") -> bytes:
        """What a service wrote to a stream, put together from its records."""
        parts = []
        for record in self.log(service).split(b"\n")[:-1]:
            _, name, tag, words = record.split(b" ", 3)
            if name == stream.encode():
                parts += [words, b"\n"] if tag == b"F" else [words]
        return b"".join(parts)

    def private_kib(self) -> int:
        """Private dirty memory and page tables of init."""
        rollup, status = (bytes(os.pread(fd, 10000, 0)).decode() for fd in self.files)
        return sum(
            int(line.split()[1]) for line in (rollup + status).splitlines() if line.startswith(("Private_Dirty:", "VmPTE:"))
        )

    def children(self) -> list[int]:
        """Host pids of init's own children."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def close(self) -> None:
        """Kill init and with it all inside; nothing is left."""
        for fd in self.files:
            os.close(fd)
        if self.harness.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        self.harness.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


class Recorder:
    """Events of a link, and waiting for one."""

    def __init__(self) -> None:
        self.events: list[InitEvent] = []
        self.changed = asyncio.Event()

    def __call__(self, event: InitEvent) -> None:
        self.events.append(event)
        self.changed.set()

    async def wait(self, kind: type, match: Callable[[Any], bool] = lambda _event: True) -> Any:
        """The first event of that kind that matches."""
        try:
            async with asyncio.timeout(BOUND / 2):
                while True:
                    for event in self.events:
                        if isinstance(event, kind) and match(event):
                            return event
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            raise AssertionError(f"no {kind.__name__} among {self.events}") from None


def run(main: Coroutine[Any, Any, Any], runner: Callable[..., Any] = uvloop.run) -> Any:
    """Run on uvloop, as the daemon does, and not for ever."""

    async def bounded() -> Any:
        async with asyncio.timeout(BOUND):
            return await main

    return runner(bounded())


@contextlib.asynccontextmanager
async def connected(env: Env) -> AsyncIterator[tuple[InitLink, Recorder]]:
    """A link and what it hears."""
    recorder = Recorder()
    link = await InitLink.connect(env.dir, recorder)
    try:
        yield link, recorder
    finally:
        link.close()


async def start(env: Env, link: InitLink, name: str, plan: dict[str, Any], **more: Any) -> int:
    """Start a service with its log files."""
    logs = env.open_logs(name)
    try:
        return await link.start({"name": name, **plan}, logs=logs, **more)
    finally:
        close_all(list(logs))


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """This process may open nothing for a while; what is open stays so. The limit stays above what its user may have in flight,
    which is held against it, too (unix(7), ETOOMANYREFS)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.dup(2)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(256, *map(int, os.listdir("/proc/self/fd"))) + 1, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(2))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        close_all(taken)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for something only a look can tell."""
    while not holds():  # noqa: ASYNC110 - of files and processes there is no event to be had here
        await asyncio.sleep(0.01)


def read_some(fd: int, size: int = 1 << 16) -> bytes:
    """Read once; fails when nothing comes, since a thread that reads for ever would keep the tests from ending."""
    if not select.select([fd], [], [], BOUND)[0]:
        raise TimeoutError(f"nothing came from descriptor {fd}")
    try:
        return os.read(fd, size)
    except OSError as error:
        if error.errno == errno.EIO:  # the end of a terminal
            return b""
        raise


def read_all(fd: int) -> bytes:
    """Read to the end and close."""
    parts = []
    try:
        while data := read_some(fd):
            parts.append(data)
    finally:
        os.close(fd)
    return b"".join(parts)


async def read(fd: int) -> bytes:
    """`read_all` without holding the loop."""
    return await asyncio.to_thread(read_all, fd)


async def hear(fd: int) -> bytes:
    """`read_some` without holding the loop."""
    return await asyncio.to_thread(read_some, fd, 100)
