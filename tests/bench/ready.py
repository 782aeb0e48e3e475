"""How long from asking for an env with a tiny web server to its first answer with status 200.

The server is busybox httpd, a static C program, so that its own start hides nothing. Everybody is asked as soon as somebody
can ask: ours by name through the router, once the reply says that there is such an env (it holds the request until something
listens); bwrap at its port, which is tried until it answers (every 0.2 ms): it has no way in, so it keeps the host's network,
and is spared making one. `told that it runs`: who waits for that before the first request, to hear of a command that is none.
"""

import argparse
import contextlib
import http.client
import os
import signal
import socket
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.bench.peers import ENVIRON, bwrap, filtered, has_bwrap
from tests.bench.results import Row, row
from tests.daemons import Daemon

METRIC = "create to first 200"
POOL = 4  # the usual one; each round begins with a full one, as of somebody who comes now and then


def begun(stack: ExitStack) -> tuple[Daemon, Any, Path]:
    """A daemon, a client of it and a workspace with a page, until the stack is closed."""
    workspace = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
    (workspace / "index.html").write_text("ready\n")
    daemon = Daemon(SANDBOXD_POOL=str(POOL))
    stack.callback(daemon.close)
    daemon.start()
    return daemon, stack.enter_context(daemon.client()), workspace


def run(args: argparse.Namespace) -> Iterable[Row]:
    """One round of every subject after another, `count` times."""
    samples: dict[str, list[float]] = {}
    with ExitStack() as stack:
        daemon, client, workspace = begun(stack)
        for _ in range(args.count or 40):
            samples.setdefault("sandboxd", []).append(ours(daemon, client, workspace))
            samples.setdefault("sandboxd, told that it runs", []).append(ours(daemon, client, workspace, wait="started"))
            if has_bwrap():
                samples.setdefault("bwrap", []).append(theirs(workspace, walls=True))
            samples.setdefault("fork+exec", []).append(theirs(workspace, walls=False))
    return [row(METRIC, subject, times, "ms", peer=subject == "bwrap") for subject, times in samples.items()]


def server(workspace: Path, port: int) -> list[str]:
    """The tiny server's argv."""
    return ["/bin/busybox", "httpd", "-f", "-p", f"127.0.0.1:{port}", "-h", str(workspace)]


def ours(daemon: Daemon, client: Any, workspace: Path, *, wait: str = "created") -> float:
    """Milliseconds for an env; the pool is full before."""
    from sandboxd.protocol.messages import Remove, Run, Status
    from sandboxd.spec import EnvSpec, Service, Workspace

    while client.call(Status()).pool < POOL:
        time.sleep(0.002)
    service = Service(command=server(workspace, 8080), port=8080)
    spec = EnvSpec(services={"web": service}, workspace=Workspace(path=str(workspace)))
    begun = time.perf_counter()
    env = client.call(Run(spec=spec, environ=ENVIRON, wait=wait)).env
    status = answer(daemon.port, f"{env.name}.localhost")
    taken = time.perf_counter() - begun
    assert status == 200, status
    client.call(Remove(target=env.id, force=True))
    return taken * 1000


def theirs(workspace: Path, *, walls: bool) -> float:
    """Milliseconds for the server alone, or behind bwrap."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    argv = server(workspace, port)
    if walls:
        argv = bwrap(workspace, argv, share_net=True)
    begun = time.perf_counter()
    pid = os.posix_spawnp(argv[0], argv, {**ENVIRON}, file_actions=filtered())
    try:
        while True:
            with contextlib.suppress(ConnectionError):
                assert answer(port, "localhost") == 200
                break
            time.sleep(0.0002)
        return (time.perf_counter() - begun) * 1000
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def answer(port: int, host: str) -> int:
    """Status of one GET on a connection of its own; raises ConnectionError."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/index.html", headers={"Host": host})
        return connection.getresponse().status
    finally:
        connection.close()
