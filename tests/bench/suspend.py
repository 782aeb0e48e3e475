"""`suspend`: how long it takes until nothing of an env runs, and until it runs again, among many envs.

Each env is a shell with a child. Measured is the whole way from the client's call to its answer: journal, signals, and the look
that nothing runs. A call that only asks stands beside it. No peer: what others suspend are machines, or cgroups of root's.
"""

import argparse
import tempfile
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.bench.peers import ENVIRON
from tests.bench.results import Row, row
from tests.daemons import Daemon

COMMAND = "sleep 86400; true"
ROUNDS = 3


def run(args: argparse.Namespace) -> Iterable[Row]:
    """Start `count` envs (100), then suspend and resume each, three times."""
    from sandboxd.protocol.messages import Inspect, Resume, Suspend

    with ExitStack() as stack:
        workspace = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        daemon = Daemon()
        stack.callback(daemon.close)
        daemon.start()
        client = stack.enter_context(daemon.client())
        ids = [start(client, Path(workspace)) for _ in range(args.count or 100)]
        suspends, resumes, asks = [], [], []
        for _ in range(ROUNDS):
            suspends += [timed(client, Suspend(target=env_id)) for env_id in ids]
            asks += [timed(client, Inspect(target=env_id)) for env_id in ids]
            resumes += [timed(client, Resume(target=env_id)) for env_id in ids]
        metric = f"at {len(ids)} envs of two processes"
        return [
            row(f"suspend {metric}", "sandboxd", suspends, "ms"),
            row(f"resume {metric}", "sandboxd", resumes, "ms"),
            row(f"inspect {metric}", "sandboxd", asks, "ms"),
        ]


def start(client: Any, workspace: Path) -> str:
    """An env that sleeps."""
    from sandboxd.protocol.messages import Run
    from sandboxd.spec import EnvSpec, Service, Workspace

    spec = EnvSpec(services={"main": Service(command=COMMAND)}, workspace=Workspace(path=str(workspace)))
    env_id: str = client.call(Run(spec=spec, environ=ENVIRON, wait="ready")).env.id
    return env_id


def timed(client: Any, params: Any) -> float:
    """Milliseconds of one call."""
    begun = time.perf_counter()
    client.call(params)
    return (time.perf_counter() - begun) * 1000
