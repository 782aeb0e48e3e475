"""How soon an env that is overloaded has the replicas it needs: part of `scale-out`.

Requests stand at a server that never answers, more than one replica is to have; timed is how long from the first of them until
all replicas that they call for are ready, each a sandbox of its own in which an interpreter has started.
"""

import socket
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.bench.peers import ENVIRON
from tests.bench.results import Row, row
from tests.daemons import Daemon

REPLICAS = 3
EACH = 2  # connections that one is to have
SERVER = """
import socket
kept, server = [], socket.create_server(("127.0.0.1", 3000))
while True: kept.append(server.accept())
"""


def run(daemon: Daemon, client: Any, workspace: Path, rounds: int) -> Iterable[Row]:
    """One env after another."""
    from sandboxd.protocol.messages import Remove, Run
    from sandboxd.spec import EnvSpec, Replicas, Service, Workspace

    times = []
    for number in range(rounds):
        spec = EnvSpec(
            name=f"load{number}",
            services={"web": Service(command=["python3", "-c", SERVER], port=3000)},
            workspace=Workspace(path=str(workspace)),
            scale=Replicas(min=1, max=REPLICAS, target_connections=EACH),
        )
        client.call(Run(spec=spec, environ=ENVIRON, wait="ready"))
        with ExitStack() as stack:
            begun = time.perf_counter()
            for _ in range(REPLICAS * EACH):
                sock = stack.enter_context(socket.create_connection(("127.0.0.1", daemon.port), 30))
                sock.sendall(f"GET / HTTP/1.1\r\nHost: load{number}.localhost\r\n\r\n".encode())
            while ready(client, f"load{number}") < REPLICAS:
                time.sleep(0.005)
            times.append((time.perf_counter() - begun) * 1000)
        client.call(Remove(target=f"load{number}", force=True))
    return [row(f"overload to {REPLICAS} replicas ready", "sandboxd", times, "ms")]


def ready(client: Any, name: str) -> int:
    """How many of its replicas are."""
    from sandboxd.protocol.messages import Inspect

    found: int = client.call(Inspect(target=name)).env.scale.ready
    return found
