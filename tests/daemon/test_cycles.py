"""Nothing leaks: 300 envs come and go, and processes, mounts, sockets, descriptors and files are as they were before.

What the kernel takes down in its own time (network namespaces, sockets) is waited for within a bound; what is left after
that is a leak.
"""

import os
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

from sandboxd.protocol.messages import List, Remove, Run, Status, Wait
from sandboxd.spec import EnvSpec, Service, Workspace
from tests.conftest import mounts
from tests.daemons import PATIENCE, Daemon

CYCLES = 300
READY = re.compile(r"\.ready-[0-9a-f]{32}")
ENVIRON = {"PATH": os.environ["PATH"]}
# An env may end by itself, be removed while it runs, fork more than it waits for, or listen and be routed.
COMMANDS: list[tuple[str | list[str], int | None]] = [
    (["true"], None),
    ("exec sleep 1000", None),
    ("sleep 1000 & sleep 1000 & setsid sleep 1000 & wait", None),
    (["python3", "-m", "http.server", "--bind", "127.0.0.1", "3000"], 3000),
]


def census(daemon: Daemon, client: Any) -> dict[str, object]:
    """Everything countable that belongs to this daemon."""
    status = client.call(Status())
    ours = {"daemon": status.pid, "launcher": status.launcher_pid, "router": status.router_pid}
    return {
        "processes": Counter(name.partition(":")[0] for _, _, name in daemon.keeper.settle(0)),
        "mounts": (
            mounts(),
            {name: len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines()) for name, pid in ours.items()},
        ),
        "descriptors": {name: descriptors(pid) for name, pid in ours.items()},
        # places made ahead have names of chance: they are counted
        "files": Counter(READY.sub(".ready", str(path.relative_to(daemon.dir))) for path in daemon.dir.rglob("*")),
        "pool": status.pool,
    }


def descriptors(pid: int) -> Counter[str]:
    """A process's open descriptors by kind: socket, pipe, anon_inode:[pidfd], or the file's name."""
    found: Counter[str] = Counter()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        what = os.readlink(fd)
        found[READY.sub(".ready", what) if what.startswith(("/", "anon_inode")) else what.partition(":")[0]] += 1
    return found


def cycle(daemon: Daemon, client: Any, workspace: Path, number: int) -> None:
    """One env from its creation to its removal."""
    command, port = COMMANDS[number % len(COMMANDS)]
    spec = EnvSpec(services={"main": Service(command=command, port=port)}, workspace=Workspace(path=str(workspace)))
    env = client.call(Run(spec=spec, environ=ENVIRON, wait="started")).env
    if command == ["true"]:
        client.call(Wait(target=env.id, until="stopped", timeout=PATIENCE))
    if port:
        assert daemon.request(env.name)[0] == 200
    receipt = client.call(Remove(target=env.id, force=True)).receipt
    assert not receipt.leaked


def test_300_cycles_leave_no_trace(daemon: Daemon, tmp_path: Path) -> None:
    with daemon.client() as client:
        for number in range(2 * len(COMMANDS)):  # what is made once, on first use, is no leak
            cycle(daemon, client, tmp_path, number)
        before = settled(daemon, client, None)
        for number in range(CYCLES):
            cycle(daemon, client, tmp_path, number)
        after = settled(daemon, client, before)
        assert client.call(List(all=True)).envs == []
        assert after == before
    assert list(tmp_path.iterdir()) == []


def settled(daemon: Daemon, client: Any, wanted: dict[str, object] | None) -> dict[str, object]:
    """The census once it is as wanted (None: once it stands still), or as it is when patience ends."""
    deadline = time.monotonic() + PATIENCE
    last = census(daemon, client)
    while time.monotonic() < deadline:
        if last == wanted:
            break
        time.sleep(0.5)
        now = census(daemon, client)
        if wanted is None and now == last:
            break
        last = now
    return last
