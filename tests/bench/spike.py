"""`spike`: so many new keys at once, each until its first 200. How long for one, how long for all, who got no answer.

Ours is a template whose key is the host name: the router holds each request while its env is made. Held against the usual way
with the same server: a Node proxy that starts one behind bwrap's walls, or in a podman container, for each new host name. The
servers are busybox httpd, so that their own start hides nothing, and a Python application, with and without 20 kept warm. Of
busybox also with a template that expects the burst: places are ready, no env is.
"""

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tests.bench.peers import ENVIRON, bwrap, filter_program, has_bwrap
from tests.bench.results import Row, row
from tests.daemons import Daemon

ROUNDS = 3
WARM = 20
FIRST_PORT = 20_000
PATIENCE = 120.0
PORT = "@PORT@"
APP = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"ready\\n")
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("127.0.0.1", @PORT@), Handler).serve_forever()
"""
Server = Callable[[Path], list[str]]


class Burst(NamedTuple):
    """Milliseconds for each that was answered, for all, and how many were not."""

    times: list[float]
    total: float
    lost: int


def run(args: argparse.Namespace) -> Iterable[Row]:
    """`count` keys at once (200)."""
    count = args.count or 200
    with ExitStack() as stack:
        stack.enter_context(no_pause())
        workspace = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        (workspace / "index.html").write_text("ready\n")
        rows: list[Row] = []
        most = ROUNDS if count > WARM else 1
        for name, server, warm, rounds in (("busybox", busybox, [0], most), ("Python", python, [0, WARM], 1)):
            subjects: dict[str, Callable[[], Burst]] = {
                f"sandboxd, warm = {kept}": partial(ours, workspace, server, count, kept) for kept in warm
            }
            if server is busybox:
                subjects[f"sandboxd, warm = 0, burst = {count}"] = partial(ours, workspace, server, count, 0, expected=count)
            if shutil.which("node"):
                subjects |= peers(workspace, server, count)
            bursts: dict[str, list[Burst]] = {subject: [] for subject in subjects}
            for _ in range(rounds):
                for subject, burst in subjects.items():
                    bursts[subject].append(burst())
            rows += [line for subject, found in bursts.items() for line in of_bursts(f"{count} x {name}", subject, found)]
        return sorted(rows, key=lambda one: one.metric)


def of_bursts(what: str, subject: str, bursts: Sequence[Burst]) -> list[Row]:
    """Ours are the subjects, the others peers."""
    peer = not subject.startswith("sandboxd")
    return [
        row(f"{what}: total", subject, [one.total for one in bursts], "ms", peer=peer),
        row(f"{what}: first 200 of one", subject, [each for one in bursts for each in one.times] or [0.0], "ms", peer=peer),
        row(f"{what}: lost", subject, [float(one.lost) for one in bursts], "requests"),
    ]


def busybox(workspace: Path) -> list[str]:
    """A static C program."""
    return ["/bin/busybox", "httpd", "-f", "-p", f"127.0.0.1:{PORT}", "-h", str(workspace)]


def python(workspace: Path) -> list[str]:
    """A small application."""
    return ["/usr/bin/python3", "-c", APP]


def on(port: int, argv: Sequence[str]) -> list[str]:
    """The argv with its port."""
    return [word.replace(PORT, str(port)) for word in argv]


def ours(workspace: Path, server: Server, count: int, warm: int, *, expected: int = 0) -> Burst:
    """A daemon of its own, whose template has no env yet but those that are kept warm; nothing may be left of it. expected: the
    burst that the template tells of."""
    from sandboxd.protocol.messages import List, Register, Templates, Unregister
    from sandboxd.spec import EnvSpec, OnDemand, Service, Workspace

    daemon = Daemon(SANDBOXD_MAX_ENVS=str(2 * count + WARM), SANDBOXD_QUEUE=str(count), SANDBOXD_POOL_MEMORY="4g")
    try:
        daemon.start()
        with daemon.client() as client:
            spec = EnvSpec(
                name="spike",
                services={"web": Service(command=on(8080, server(workspace)), port=8080)},
                workspace=Workspace(path=str(workspace)),
                on_demand=OnDemand(key="host", create=True, max=count + WARM, rate=0, warm=warm, burst=expected),
            )
            client.call(Register(spec=spec, environ=ENVIRON))
            rest(lambda: client.call(Templates()).templates[0].warm_ready >= warm)
            rest(lambda: client.call(Templates()).templates[0].burst_ready >= expected)
            found = burst(daemon.port, [f"k{number}.spike.localhost" for number in range(count)])
            client.call(Unregister(name="spike", force=True))
            rest(lambda: not client.call(List(all=True)).envs)
            return found
    finally:
        daemon.close()  # and asserts that nothing is left


def peers(workspace: Path, server: Server, count: int) -> dict[str, Callable[[], Burst]]:
    """The same server behind a proxy that starts it."""
    plain = server(workspace)
    found = {}
    if has_bwrap():
        found["bwrap behind a Node proxy"] = lambda: theirs(bwrap(workspace, plain, share_net=True), count)
    if has_podman(workspace):
        command = [*podman(workspace), *plain]
        found["podman run behind a Node proxy"] = lambda: theirs(command, count, filtered=False)
    return found


def podman(workspace: Path) -> list[str]:
    """A container of the host's own root, as no image may be fetched."""
    return ["podman", "run", "--rm", "--network=host", "-v", f"{workspace}:{workspace}", "--rootfs", "/:O"]


def has_podman(workspace: Path) -> bool:
    """Whether it runs anything here."""
    if shutil.which("podman") is None:
        return False
    done = subprocess.run([*podman(workspace), "/bin/true"], capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        sys.stderr.write(f"podman does not run here and is left out: {done.stderr.strip()[-200:]}\n")
    return done.returncode == 0


@contextmanager
def no_pause() -> Iterator[None]:
    """Rootless podman leaves a process that keeps its namespaces (`catatonit -P`): it goes, unless it was there before."""
    before = pausing()
    try:
        yield
    finally:
        for process in pausing() - before:
            process.terminate()


def pausing() -> set[psutil.Process]:
    """Those of our user."""
    found = set()
    for process in psutil.process_iter(["cmdline", "uids"]):
        words, uids = process.info["cmdline"] or [], process.info["uids"]
        if uids and uids.real == os.getuid() and [os.path.basename(word) for word in words] == ["catatonit", "-P"]:
            found.add(process)
    return found


def theirs(argv: list[str], count: int, *, filtered: bool = True) -> Burst:
    """A proxy of its own, which starts argv for each new host name."""
    with ExitStack() as stack:
        program = "-"
        if filtered:
            file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="bench-"))
            file.write(os.pread(filter_program(), 1 << 20, 0))
            file.flush()
            program = file.name
        port = stack.enter_context(proxy(program, argv))
        return burst(port, [f"k{number}.spike.localhost" for number in range(count)])


@contextmanager
def proxy(program: str, argv: list[str]) -> Iterator[int]:
    """The proxy's port; with it all that it started ends."""
    script = str(Path(__file__).with_name("spike_proxy.js"))
    command = ["node", script, str(FIRST_PORT - 1), str(FIRST_PORT), program, *argv]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            yield FIRST_PORT - 1
        finally:
            os.killpg(child.pid, signal.SIGKILL)  # bwrap dies with its parent, and with bwrap its pid namespace


def burst(port: int, hosts: Sequence[str]) -> Burst:
    """One request for each host, all at once, each on a connection of its own."""

    async def everyone() -> list[float | None]:
        return await asyncio.gather(*(one(port, host) for host in hosts))

    begun = time.perf_counter()
    found = asyncio.run(everyone())
    total = (time.perf_counter() - begun) * 1000
    times = [taken for taken in found if taken is not None]
    return Burst(times, total, len(found) - len(times))


async def one(port: int, host: str) -> float | None:
    """Milliseconds until its 200; None for any other answer, or none."""
    begun = time.perf_counter()
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(f"GET /index.html HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
                line = await reader.readline()
                await reader.read()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    return (time.perf_counter() - begun) * 1000 if line.split()[1:2] == [b"200"] else None


def rest(is_so: Callable[[], Any]) -> None:
    """Wait until it is so."""
    while not is_so():
        time.sleep(0.05)
