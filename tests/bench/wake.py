"""`wake`: from the first byte of a request for an env that sleeps to its 200; suspended, and stopped for being idle.

Held against the same request to an env that is awake, and against a plain `start` of a stopped one followed by the request.
The server is busybox httpd, as in `ready`: its own start hides nothing. Each in turn, in the same rounds.
"""

import argparse
import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from tests.bench.peers import ENVIRON
from tests.bench.ready import POOL, answer, begun, server
from tests.bench.results import Row, row
from tests.daemons import Daemon

REST = 1.0  # seconds: what was stopped for being idle has rested as long, and caches have forgotten it


def run(args: argparse.Namespace) -> Iterable[Row]:
    """`count` rounds (30)."""
    from sandboxd.protocol.messages import Run, Suspend
    from sandboxd.spec import EnvSpec, Idle, Lifecycle, Service, Workspace

    awake, suspended, stopped, started = [], [], [], []
    with ExitStack() as stack:
        daemon, client, workspace = begun(stack)
        for name, idle in (("sleeps", None), ("stops", Idle(stop=REST)), ("starts", None)):
            spec = EnvSpec(
                name=name,
                services={"web": Service(command=server(workspace, 8080), port=8080)},
                workspace=Workspace(path=str(workspace)),
                lifecycle=Lifecycle(idle=idle),
            )
            client.call(Run(spec=spec, environ=ENVIRON, wait="ready"))
        for _ in range(args.count or 30):
            awake.append(asked(daemon, "sleeps"))
            client.call(Suspend(target="sleeps"))
            suspended.append(asked(daemon, "sleeps"))
            wait_until_stopped(client, "stops")
            stopped.append(asked(daemon, "stops"))
            started.append(start(daemon, client, "starts"))
    return [
        row("first byte to 200", "awake", awake, "ms"),
        row("first byte to 200", "suspended", suspended, "ms"),
        row("stopped, to 200", "woken by the request", stopped, "ms"),
        row("stopped, to 200", "start, then the request", started, "ms", peer=True),
    ]


def asked(daemon: Daemon, name: str) -> float:
    """Milliseconds of one request on a connection of its own."""
    begun = time.perf_counter()
    assert answer(daemon.port, f"{name}.localhost") == 200
    return (time.perf_counter() - begun) * 1000


def wait_until_stopped(client: Any, name: str) -> None:
    """Until nobody has used it for long enough, and the pool is full."""
    from sandboxd.protocol.messages import Inspect, Status

    while client.call(Inspect(target=name)).env.state != "stopped" or client.call(Status()).pool < POOL:
        time.sleep(0.05)


def start(daemon: Daemon, client: Any, name: str) -> float:
    """Milliseconds of a plain start and a request, of what rested as long as the other."""
    from sandboxd.protocol.messages import Start, Status, Stop

    client.call(Stop(target=name))
    time.sleep(REST)
    while client.call(Status()).pool < POOL:
        time.sleep(0.002)
    begun = time.perf_counter()
    client.call(Start(target=name))
    assert answer(daemon.port, f"{name}.localhost") == 200
    return (time.perf_counter() - begun) * 1000
