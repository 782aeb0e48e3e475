"""`scale-out`: many idle envs on one daemon. What the last hundred cost each, against the first hundred; and what all cost. And
how soon one env that is overloaded has more replicas (`overload`).

Each env is a `sleep`, so all that is measured is ours. An env's cost is the time until it has started and the CPU time that
daemon, launcher and router spend on it: the second is what a busy machine does not blur. Memory of an env is that of its
pid 1 beyond its application, exact for root (`--as USER`).
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from tests.bench import overload
from tests.bench.memory import private
from tests.bench.peers import ENVIRON
from tests.bench.results import Row, row
from tests.daemons import Daemon

HUNDRED = 100
MB = 1e6
LISTINGS = 7


def run(args: argparse.Namespace) -> Iterable[Row]:
    """Start `count` envs (500) one after another, then watch the daemon for `seconds` (10)."""
    count = args.count or 500
    with ExitStack() as stack:
        workspace = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        daemon = Daemon(SANDBOXD_MAX_ENVS=str(count + HUNDRED))
        stack.callback(daemon.close)
        daemon.start()
        client = stack.enter_context(daemon.client())
        ours = processes(client)
        sooner = list(overload.run(daemon, client, workspace, max(1, min(10, count // HUNDRED))))
        start(client, workspace)  # what is made once, on first use, is nobody's cost
        hundreds = [Hundred(client, workspace, ours, min(HUNDRED, count - begun)) for begun in range(0, count, HUNDRED)]
        pids = hundreds[0].pids + hundreds[-1].pids
        rows = [*sooner, *of_hundreds(hundreds), *of_ps(daemon, client, count), *of_memory(ours, pids, count)]
        time.sleep(2 * (args.seconds or 10.0))  # the daemon looks seldom at what stands still
        return [*rows, *of_idling(ours, args.seconds or 10.0, count)]


class Hundred:
    """So many envs, each with how long it took, and the CPU time of each of our processes for all of them (milliseconds)."""

    def __init__(self, client: Any, workspace: Path, ours: dict[str, list[psutil.Process]], count: int) -> None:
        before = cpu(ours)
        self.pids: list[int] = []
        self.times: list[float] = []
        for _ in range(count):
            begun = time.perf_counter()
            self.pids.append(start(client, workspace))
            self.times.append((time.perf_counter() - begun) * 1000)
        self.cpu = {name: (used - before[name]) * 1000 / count for name, used in cpu(ours).items()}


def start(client: Any, workspace: Path) -> int:
    """An env that has started; the pid of its pid 1."""
    from sandboxd.protocol.messages import Run
    from sandboxd.spec import EnvSpec, Service, Workspace

    spec = EnvSpec(services={"main": Service(command=["sleep", "86400"])}, workspace=Workspace(path=str(workspace)))
    pid: int | None = client.call(Run(spec=spec, environ=ENVIRON, wait="started")).env.pid
    assert pid
    return pid


def processes(client: Any) -> dict[str, list[psutil.Process]]:
    """Our own processes, by what they are."""
    from sandboxd.protocol.messages import Status

    status = client.call(Status())
    router = psutil.Process(status.router_pid)
    return {
        "daemon": [psutil.Process(status.pid)],
        "launcher": [psutil.Process(status.launcher_pid)],
        "router": [router, *router.children()],
    }


def cpu(ours: dict[str, list[psutil.Process]]) -> dict[str, float]:
    """Seconds of CPU time that each has used."""
    return {name: sum(sum(one.cpu_times()[:2]) for one in several) for name, several in ours.items()}


def of_hundreds(hundreds: list[Hundred]) -> list[Row]:
    """Each hundred, and the last beside the first: `ratio` is of their medians."""
    rows = [
        row("create to started", f"envs {begun * HUNDRED + 1} and on", one.times, "ms") for begun, one in enumerate(hundreds)
    ]
    first, last = hundreds[0], hundreds[-1]
    rows.append(row("last hundred / first", "create to started", [middle(last) / middle(first)], "ratio"))
    for name in first.cpu:
        rows.append(row("CPU time per env, first hundred", name, [first.cpu[name]], "ms"))
        rows.append(row("CPU time per env, last hundred", name, [last.cpu[name]], "ms"))
    spent = [sum(one.cpu.values()) for one in (first, last)]
    rows.append(row("last hundred / first", "CPU time", [spent[1] / spent[0] if spent[0] else 1.0], "ratio"))
    return rows


def middle(hundred: Hundred) -> float:
    """The median of its times."""
    return statistics.median(hundred.times)


def of_ps(daemon: Daemon, client: Any, count: int) -> list[Row]:
    """How long `ps` takes: the request alone, and the command."""
    from sandboxd.protocol.messages import List

    asked, command = [], []
    for _ in range(LISTINGS):
        begun = time.perf_counter()
        assert len(client.call(List()).envs) > count
        asked.append((time.perf_counter() - begun) * 1000)
        begun = time.perf_counter()
        daemon.sandbox("ps")
        command.append((time.perf_counter() - begun) * 1000)
    return [row(f"ps of {count} envs", "the request", asked, "ms"), row(f"ps of {count} envs", "sandbox ps", command, "ms")]


def of_memory(ours: dict[str, list[psutil.Process]], pids: list[int], count: int) -> list[Row]:
    """Of each pid 1, and of our own processes per env."""
    found = [private(pid) for pid in pids]
    bound = "" if all(one.exact for one in found) else ", upper bound (run by root with --as USER for the exact number)"
    rows = [row(f"pid 1: private dirty + page tables{bound}", "sandboxd", [(p.dirty + p.tables) / MB for p in found], "MB")]
    for name, several in ours.items():
        rows.append(row(f"memory (RSS) at {count} envs", name, [one.memory_info().rss / MB for one in several], "MB"))
    return rows


def of_idling(ours: dict[str, list[psutil.Process]], seconds: float, count: int) -> list[Row]:
    """CPU time of each while nothing happens."""
    before = cpu(ours)
    time.sleep(seconds)
    used = cpu(ours)
    return [
        row(f"CPU at {count} idle envs", name, [(used[name] - before[name]) / seconds * 100], "% of a core") for name in ours
    ]
