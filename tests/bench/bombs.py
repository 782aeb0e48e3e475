"""What a neighbour and the daemon notice of each bomb of tests/walls/bombs.py: requests through the router, control calls.

Before each bomb the same is measured with nobody else there, so that a noisy machine is noisy for both. `exceeds` counts the
calls of the control socket that took over 200 ms.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

from tests.bench.results import Row, row
from tests.daemons import Daemon
from tests.walls.bombs import BOMBS, SERVE, program
from tests.walls.envs import PYTHON


def run(args: argparse.Namespace) -> Iterable[Row]:
    """Each bomb in turn, for some seconds."""
    from sandboxd.kernel.fds import raise_limit
    from sandboxd.protocol.messages import Status

    seconds = args.seconds or 3.0
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    raise_limit()  # we pass descriptors, too
    try:
        with ExitStack() as stack:
            where = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
            daemon = Daemon()
            stack.callback(daemon.close)
            daemon.start()
            client = stack.enter_context(daemon.client())
            daemon.sandbox("run", "-d", "--name", "neighbour", "--wait", "-p", "3000", "--", PYTHON, "-c", SERVE, cwd=where)
            for name in list(BOMBS)[: args.count]:
                yield from beside(daemon, where, name, seconds, lambda: client.call(Status()))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def beside(daemon: Daemon, where: Path, name: str, seconds: float, control: Callable[[], object]) -> Iterable[Row]:
    """Both measurements without and with one bomb."""
    quiet = samples(daemon, seconds, control)
    command = ("run", "-d", "--name", "bomb", *BOMBS[name].flags, "--", PYTHON, "-c", program(name, seconds + 2))
    daemon.sandbox(*command, cwd=where)
    try:
        loud = samples(daemon, seconds, control)
    finally:
        daemon.sandbox("rm", "-f", "bomb")
    for what, alone, with_bomb in zip(("request", "control call"), quiet, loud, strict=True):
        yield row(f"{what} beside {name}", "sandboxd", with_bomb, "ms")
        yield row(f"{what} beside {name}", "alone", alone, "ms", peer=True)
    yield Row(
        f"control calls over 200 ms beside {name}", "sandboxd", slow := sum(taken > 200 for taken in loud[1]), slow, "calls"
    )


def samples(daemon: Daemon, seconds: float, control: Callable[[], object]) -> tuple[list[float], list[float]]:
    """Milliseconds of requests and of control calls, one after the other, a few hundred a second."""
    requests, calls = [], []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        begun = time.perf_counter()
        assert daemon.request("neighbour") == (200, b"ok")
        between = time.perf_counter()
        control()
        requests.append((between - begun) * 1000)
        calls.append((time.perf_counter() - between) * 1000)
        time.sleep(0.002)
    return requests, calls
