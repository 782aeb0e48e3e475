"""Nothing leaks: 300 envs come and go, and processes, mounts, sockets, descriptors and files are as they were before."""

import os
from pathlib import Path
from typing import Any

import pytest

from sandboxd.protocol.messages import Remove, Run, Status, Wait
from sandboxd.spec import EnvSpec, Service, Workspace
from tests.census import differences, settled
from tests.daemons import PATIENCE, Daemon

CYCLES = 300
ENVIRON = {"PATH": os.environ["PATH"]}
# An env may end by itself, be removed while it runs, fork more than it waits for, or listen and be routed.
COMMANDS: list[tuple[str | list[str], int | None]] = [
    (["true"], None),
    ("exec sleep 1000", None),
    ("sleep 1000 & sleep 1000 & setsid sleep 1000 & wait", None),
    (["python3", "-m", "http.server", "--bind", "127.0.0.1", "3000"], 3000),
]


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


def has_folded(client: Any) -> bool:
    """Whether the journal's log was taken into its database. That needs a second descriptor, which sqlite keeps for the next
    time, since to close it would let go of all locks of the process (os_unix.c, setPendingFd)."""
    place = Path(f"/proc/{client.call(Status()).pid}/fd")
    return [link.readlink().name for link in place.iterdir() if link.is_symlink()].count("state.db") > 1


@pytest.mark.timeout(600)  # the pools have to come to rest, before and after
def test_300_cycles_leave_no_trace(daemon: Daemon, tmp_path: Path) -> None:
    with daemon.client() as client:
        number = 0
        while number < 2 * len(COMMANDS) or not has_folded(client):  # what is made once, on first use, is no leak
            assert number < CYCLES
            cycle(daemon, client, tmp_path, number)
            number += 1
        before = settled(daemon, client, None)
        assert not before["routes"]
        for number in range(CYCLES):
            cycle(daemon, client, tmp_path, number)
        assert differences(before, settled(daemon, client, before)) == {}
    assert list(tmp_path.iterdir()) == []
