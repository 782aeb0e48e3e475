"""How long a person waits for `sandbox ps` with 20 envs.

Held against `podman ps`; bare python and python with click show what is not ours to save.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.bench.peers import ENVIRON
from tests.bench.results import Row, row
from tests.daemons import Daemon, cli

ENVS = 20


def run(args: argparse.Namespace) -> Iterable[Row]:
    """One run of every subject after another, `count` times."""
    from sandboxd.protocol.messages import Run
    from sandboxd.spec import EnvSpec, Service, Workspace

    subjects: dict[str, list[str]] = {
        "sandbox ps": [str(cli()), "ps"],
        "python -c pass": [sys.executable, "-c", "pass"],
        "python -c 'import click'": [sys.executable, "-c", "import click"],
    }
    with ExitStack() as stack:
        workspace = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        daemon = Daemon()
        stack.callback(daemon.close)
        daemon.start()
        client = stack.enter_context(daemon.client())
        # As installed: byte code is cached on disk, which the tests' environment otherwise forbids.
        environ = {key: value for key, value in daemon.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environ["PYTHONPYCACHEPREFIX"] = str(workspace / "pycache")
        for _ in range(ENVS):
            service = Service(command=["sleep", "86400"])
            client.call(
                Run(spec=EnvSpec(services={"main": service}, workspace=Workspace(path=str(workspace))), environ=ENVIRON)
            )
        if shutil.which("podman") and subprocess.run(["podman", "ps"], capture_output=True, check=False).returncode == 0:
            subjects["podman ps"] = ["podman", "ps"]
        for command in subjects.values():
            timed(command, environ)
        samples: dict[str, list[float]] = {}
        for _ in range(args.count or 40):
            for subject, command in subjects.items():
                samples.setdefault(subject, []).append(timed(command, environ))
    return [row("wall time", subject, times, "ms", peer=subject == "podman ps") for subject, times in samples.items()]


def timed(command: Sequence[str], environ: dict[str, str]) -> float:
    """Milliseconds that a command takes; raises where it fails."""
    with open(os.devnull, "r+b") as nothing:
        actions = [(os.POSIX_SPAWN_DUP2, nothing.fileno(), number) for number in range(3)]
        begun = time.perf_counter()
        pid = os.posix_spawnp(command[0], list(command), environ, file_actions=actions)
        _, status = os.waitpid(pid, 0)
        taken = time.perf_counter() - begun
    if status:
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), list(command))
    return taken * 1000
