"""What an idle env costs beyond its application, and what the daemon costs with many of them.

Every env writes 1,000 log lines and then sleeps. Private dirty pages and page tables are those of its pid 1, which is not
dumpable: only root may read them (`--as USER`), else the number is an upper bound and its metric says so.
"""

import argparse
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from tests.bench.memory import private
from tests.bench.peers import ENVIRON
from tests.bench.results import Row, row
from tests.daemons import Daemon

COMMAND = "i=0; while [ $i -lt 1000 ]; do echo this is line $i of a thousand; i=$((i+1)); done; exec sleep 86400"
MB = 1e6


def run(args: argparse.Namespace) -> Iterable[Row]:
    """Start `count` envs (200), give them twice `seconds` to come to rest, watch for `seconds` (10).

    To rest, because the daemon looks at an env at growing intervals once its CPU time stands still.
    """
    with ExitStack() as stack:
        workspace = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        daemon = Daemon()
        stack.callback(daemon.close)
        daemon.start()
        client = stack.enter_context(daemon.client())
        pids = [start(client, workspace) for _ in range(args.count or 200)]
        seconds = args.seconds or 10.0
        time.sleep(2 * seconds)
        return [*of_envs(pids), *of_daemon(client, len(pids), seconds)]


def start(client: Any, workspace: Path) -> int:
    """An env that has written its lines and sleeps; the pid of its pid 1."""
    from sandboxd.protocol.messages import Inspect, Run
    from sandboxd.spec import EnvSpec, Service, Workspace

    spec = EnvSpec(services={"main": Service(command=COMMAND)}, workspace=Workspace(path=str(workspace)))
    env = client.call(Run(spec=spec, environ=ENVIRON, wait="ready")).env
    while "999" not in last_line(client, env.id):
        time.sleep(0.005)
    pid: int | None = client.call(Inspect(target=env.id)).env.pid
    assert pid
    return pid


def last_line(client: Any, target: str) -> str:
    """The newest line of an env's log."""
    from sandboxd.protocol.messages import Logs

    lines = client.call(Logs(target=target, tail=1)).lines
    return lines[-1].text if lines else ""


def of_envs(pids: list[int]) -> list[Row]:
    """Private memory of each env's pid 1."""
    found = [private(pid) for pid in pids]
    bound = "" if all(one.exact for one in found) else ", upper bound (run by root with --as USER for the exact number)"
    return [
        row(f"pid 1: private dirty + page tables{bound}", "sandboxd", [(one.dirty + one.tables) / MB for one in found], "MB"),
        row(f"pid 1: private dirty{bound}", "sandboxd", [one.dirty / MB for one in found], "MB"),
        row("pid 1: page tables", "sandboxd", [one.tables / MB for one in found], "MB"),
    ]


def of_daemon(client: Any, envs: int, seconds: float) -> list[Row]:
    """Memory of our own processes, and the daemon's CPU time while nothing happens."""
    from sandboxd.protocol.messages import Status

    status = client.call(Status())
    processes = {"daemon": status.pid, "router": status.router_pid, "launcher": status.launcher_pid}
    alive = {name: psutil.Process(pid) for name, pid in processes.items() if pid}
    cpu: dict[str, list[float]] = {name: [] for name in alive}
    for _ in range(5):
        before = {name: sum(process.cpu_times()[:2]) for name, process in alive.items()}
        time.sleep(seconds / 5)
        for name, process in alive.items():
            cpu[name].append((sum(process.cpu_times()[:2]) - before[name]) / (seconds / 5) * 100)
    rows = []
    for name, process in alive.items():
        rows.append(row(f"memory (RSS) at {envs} idle envs", name, [process.memory_info().rss / MB], "MB"))
        rows.append(row(f"CPU at {envs} idle envs", name, cpu[name], "% of a core"))
    return sorted(rows, key=lambda one: one.metric, reverse=True)
