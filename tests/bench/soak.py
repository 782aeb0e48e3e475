"""`soak`: envs are created, serve a request and are removed, again and again; what is left, and how memory grows.

Everything that can be counted is counted before and after (tests.census): a difference is a leak. Memory of each of our
processes is read twenty times on the way and a line is laid through the second half of it, since allocators take what they
will ever take in the first.
"""

import argparse
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from tests.bench.peers import ENVIRON
from tests.bench.ready import answer, begun, server
from tests.bench.results import Row, row
from tests.bench.scale_out import processes
from tests.census import differences, settled
from tests.daemons import Daemon

LOOKS = 20
WARM_UP = 50
MB = 1e6
Points = dict[str, list[tuple[int, float]]]


def run(args: argparse.Namespace) -> Iterable[Row]:
    """`count` cycles (10,000)."""
    count = args.count or 10_000
    with ExitStack() as stack:
        daemon, client, workspace = begun(stack)
        for _ in range(min(WARM_UP, count)):  # what is made once, on first use, is no leak
            cycle(daemon, client, workspace)
        before = settled(daemon, client, None)
        ours = processes(client)
        points: Points = {}
        times = []
        for number in range(count):
            if number % max(1, count // LOOKS) == 0:
                look(points, ours, number)
            times.append(cycle(daemon, client, workspace))
        look(points, ours, count)
        left = differences(before, settled(daemon, client, before))
        for kind, what in left.items():
            sys.stderr.write(f"left behind: {kind}: {what}\n")
        assert [one.pid for several in processes(client).values() for one in several] == [
            one.pid for several in ours.values() for one in several
        ], "a process of ours was replaced"
    return [
        *of_cycles(times, count),
        *of_memory(points),
        *[row("left behind", kind, [total(left, kind)], "") for kind in before],
    ]


def total(left: dict[str, dict[str, int]], kind: str) -> int:
    """How many of a kind there are more, or less."""
    return sum(abs(number) for number in left.get(kind, {}).values())


def cycle(daemon: Daemon, client: Any, workspace: Path) -> float:
    """Milliseconds of one env from its creation over one answer to its removal."""
    from sandboxd.protocol.messages import Remove, Run
    from sandboxd.spec import EnvSpec, Service, Workspace

    begun = time.perf_counter()
    service = Service(command=server(workspace, 8080), port=8080)
    spec = EnvSpec(services={"web": service}, workspace=Workspace(path=str(workspace)))
    env = client.call(Run(spec=spec, environ=ENVIRON, wait="started")).env
    assert answer(daemon.port, f"{env.name}.localhost") == 200
    receipt = client.call(Remove(target=env.id, force=True)).receipt
    assert not receipt.leaked, receipt
    return (time.perf_counter() - begun) * 1000


def look(points: Points, ours: dict[str, list[psutil.Process]], number: int) -> None:
    """Memory of each of our processes now (MB)."""
    for name, several in ours.items():
        for index, one in enumerate(several):
            subject = name if len(several) == 1 else f"{name} {'master' if index == 0 else f'worker {index}'}"
            points.setdefault(subject, []).append((number, one.memory_info().rss / MB))


def of_cycles(times: list[float], count: int) -> list[Row]:
    """How long one took, at the beginning and at the end."""
    tenth = max(1, count // 10)
    return [
        row("a cycle", f"all {count}", times, "ms"),
        row("a cycle", "first tenth", times[:tenth], "ms"),
        row("a cycle", "last tenth", times[-tenth:], "ms"),
    ]


def of_memory(points: Points) -> list[Row]:
    """Where each process's memory began and ended, and how it grew per 1,000 cycles in the second half."""
    rows = []
    for name, seen in points.items():
        rows.append(row("memory (RSS) at the beginning", name, [seen[0][1]], "MB"))
        rows.append(row("memory (RSS) at the end", name, [seen[-1][1]], "MB"))
        rows.append(row("memory per 1,000 cycles, second half", name, [slope(seen[len(seen) // 2 :]) * 1000], "MB"))
    return sorted(rows, key=lambda one: one.metric)


def slope(points: list[tuple[int, float]]) -> float:
    """Of the line of least squares."""
    if len(points) < 2:
        return 0.0
    x = sum(at for at, _ in points) / len(points)
    y = sum(value for _, value in points) / len(points)
    return sum((at - x) * (value - y) for at, value in points) / sum((at - x) ** 2 for at, _ in points)
