"""How long from asking for an env to its command running behind the default walls.

The command is `date`, which prints the clock as the first thing it does: the same end for every subject, with the load of
one small program in all of them, and nobody's pipes or replies in the way. `reply` is when our client knows.
"""

import argparse
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.bench.peers import ENVIRON, bwrap, filtered, has_bwrap, has_sandlock, sandlock
from tests.bench.results import Row, row
from tests.daemons import Daemon

COMMAND = ["/bin/date", "+%s%N"]
RUNNING, REPLY = "create to running", "create to reply"


def run(args: argparse.Namespace) -> Iterable[Row]:
    """One round of every subject, in an order of its own, `count` times."""
    with ExitStack() as stack:
        workspace = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        clients = {}
        for subject, pool in (("sandboxd, pool full", 8), ("sandboxd, pool empty", 0)):
            daemon = Daemon(SANDBOXD_POOL=str(pool))
            stack.callback(daemon.close)
            daemon.start()
            clients[subject] = (stack.enter_context(daemon.client()), pool)
        peers: dict[str, Callable[[], bytes]] = {"fork+exec": lambda: output_of(COMMAND)}
        if has_bwrap():
            peers["bwrap"] = lambda: output_of(bwrap(workspace, COMMAND))
        if has_sandlock():
            peers["sandlock"] = lambda: sandlock(workspace, COMMAND)
        samples: dict[tuple[str, str], list[float]] = {}
        order = [*clients, *peers]
        dice = random.Random(0)
        for _ in range(args.count or 60):
            dice.shuffle(order)  # what one leaves to the kernel to clean up, another meets: not always the same one
            for subject in order:
                settle(clients.values())
                if subject in clients:
                    running, reply = create(clients[subject][0], workspace)
                    samples.setdefault((RUNNING, subject), []).append(running)
                    samples.setdefault((REPLY, subject), []).append(reply)
                else:
                    begun = time.time_ns()
                    samples.setdefault((RUNNING, subject), []).append((int(peers[subject]()) - begun) / 1e6)
    # fork+exec is the floor, with no wall at all: shown, but nobody's rival.
    rows = [row(metric, who, times, "ms", peer=who in ("bwrap", "sandlock")) for (metric, who), times in samples.items()]
    return sorted(rows, key=lambda one: (one.metric != RUNNING, one.peer))


def settle(daemons: Iterable[tuple[Any, int]]) -> None:
    """Until no pool is being filled, which would go on beside whoever comes next, on the same cores."""
    from sandboxd.protocol.messages import Status

    for client, pool in daemons:
        while client.call(Status()).pool < pool:
            time.sleep(0.002)


def create(client: Any, workspace: Path) -> tuple[float, float]:
    """Milliseconds from the request to the command's clock, and to the reply; the env is gone afterwards."""
    from sandboxd.protocol.messages import Logs, Remove, Run, Wait
    from sandboxd.spec import EnvSpec, Service, Workspace

    spec = EnvSpec(services={"main": Service(command=COMMAND)}, workspace=Workspace(path=str(workspace)))
    begun = time.time_ns()
    env = client.call(Run(spec=spec, environ=ENVIRON, wait="started")).env
    replied = time.time_ns()
    client.call(Wait(target=env.id, until="stopped", timeout=30))
    lines = client.call(Logs(target=env.id)).lines
    client.call(Remove(target=env.id, force=True))
    return (int(lines[0].text) - begun) / 1e6, (replied - begun) / 1e6


def output_of(argv: list[str]) -> bytes:
    """What a command prints. posix_spawn from a small helper would flatter nobody: all peers start from this process."""
    read, write = os.pipe()
    pid = os.posix_spawnp(argv[0], argv, {**ENVIRON}, file_actions=[(os.POSIX_SPAWN_DUP2, write, 1), *filtered()])
    os.close(write)
    with os.fdopen(read, "rb") as file:
        text = file.read()
    _, status = os.waitpid(pid, 0)
    if status:
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), argv)
    return text
