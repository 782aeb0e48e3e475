"""Each bomb is stopped by a named error; a neighbour and the daemon go on; nothing stays.

Times are `tests.bench bombs`'s: here it counts that all answers come.
"""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxd.kernel.fds import raise_limit
from sandboxd.protocol.messages import Status
from tests.daemons import Daemon
from tests.walls.bombs import BOMBS, SERVE, program
from tests.walls.envs import PYTHON

# What they use up is counted for the user too, whose other tests would meet it: descriptors in flight, processes, CPU.
pytestmark = pytest.mark.alone


@pytest.fixture(scope="module", autouse=True)
def ample() -> Iterator[None]:
    """What runs the tests passes descriptors, too: it must be able to have more in flight than an env."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    raise_limit()
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture(scope="module")
def neighbour(shared_daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An env with a small server."""
    where = tmp_path_factory.mktemp("neighbour")
    shared_daemon.sandbox("run", "-d", "--name", "neighbour", "--wait", "-p", "3000", "--", PYTHON, "-c", SERVE, cwd=where)
    yield "neighbour"
    shared_daemon.sandbox("rm", "-f", "neighbour")


@pytest.mark.parametrize("name", BOMBS)
def test_bomb(shared_daemon: Daemon, neighbour: str, tmp_path: Path, name: str) -> None:
    bomb = BOMBS[name]
    run = ("run", "-d", "--name", "bomb", *bomb.flags, "--", PYTHON, "-c", program(name, 1.0))
    shared_daemon.sandbox(*run, cwd=tmp_path)
    try:
        with shared_daemon.client() as client:
            for _ in range(20):
                assert client.call(Status()).pid
                assert shared_daemon.request(neighbour) == (200, b"ok")
        assert shared_daemon.sandbox("exec", neighbour, "--", "echo", "well").stdout == "well\n"
        shared_daemon.sandbox("wait", "bomb", check=False)
        if bomb.killed:
            (found,) = shared_daemon.json("why", "bomb")
            assert bomb.killed in found["answers"][0]["text"]
        elif bomb.stopped:
            said = shared_daemon.sandbox("logs", "bomb").stdout
            (found,) = shared_daemon.json("why", "bomb")
            # What fills a tmpfs of the size of its memory limit is over that, too: whoever looks first ends it.
            over = bomb.flags == ("-m", "32m") and "memory limit" in found["answers"][0]["text"]
            assert over or any(f"stopped: {word} " in said for word in bomb.stopped.split("|")), (said, found["answers"])
        logs = [path.stat().st_size for path in (shared_daemon.dir / "envs").glob("*/logs/*")]
        assert max(logs) <= 9 << 20
    finally:
        done = shared_daemon.sandbox("rm", "-f", "--receipt", "bomb", check=False)
        assert done.returncode == 0, done.stderr + done.stdout
