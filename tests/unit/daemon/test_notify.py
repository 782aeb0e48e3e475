"""What the service manager hears, on a real datagram socket."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sandboxd.daemon.notify import Notifier
from sandboxd.lifecycle.states import State


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(10)
        yield sock


def supervisor(*states: State) -> Any:
    actors = {str(n): SimpleNamespace(record=SimpleNamespace(state=state)) for n, state in enumerate(states)}
    return SimpleNamespace(actors=actors)


def test_it_takes_its_variables_out_of_the_environment(ear: socket.socket) -> None:
    """Else whatever the daemon starts could speak in its name."""
    environ = {"NOTIFY_SOCKET": ear.getsockname(), "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid()), "PATH": "/bin"}
    notifier = Notifier.from_environ(environ)
    assert environ == {"PATH": "/bin"}
    assert notifier.watchdog == 3.0
    notifier.send("READY=1", "STATUS=here")
    assert ear.recv(100) == b"READY=1\nSTATUS=here"


def test_a_watchdog_for_another_process_is_not_ours(ear: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": ear.getsockname(), "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}
    assert Notifier.from_environ(environ).watchdog == 0.0


def test_nobody_listens_and_nothing_happens(tmp_path: Path) -> None:
    Notifier.from_environ({}).send("READY=1")
    Notifier.from_environ({"NOTIFY_SOCKET": str(tmp_path / "gone")}).send("READY=1")
    Notifier.from_environ({"NOTIFY_SOCKET": "relative"}).send("READY=1")


def test_an_abstract_name_is_reached(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind("")  # the kernel chooses an abstract name: unix(7), autobind
        name = os.fsdecode(ear.getsockname())
        ear.settimeout(10)
        Notifier("@" + name[1:], 0).send("READY=1")
        assert ear.recv(100) == b"READY=1"


def test_a_start_that_takes_its_time_is_not_ended_for_it(ear: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandboxd.daemon.notify.MORE", 0.04)

    async def main() -> list[bytes]:
        notifier = Notifier(ear.getsockname(), 0)
        loop = asyncio.get_running_loop()
        ear.setblocking(False)
        notifier.starting()
        heard = [await loop.sock_recv(ear, 200) for _ in range(3)]
        notifier.ready()
        while heard[-1] != b"READY=1":
            heard.append(await loop.sock_recv(ear, 200))
        await asyncio.sleep(0.1)  # in which ten more would have come
        with pytest.raises(BlockingIOError):
            ear.recv(200)
        notifier.starting(0)  # no longer than that in all
        with pytest.raises(BlockingIOError):
            ear.recv(200)
        return heard

    assert set(asyncio.run(main())) == {b"EXTEND_TIMEOUT_USEC=40000", b"READY=1"}


def test_the_loop_says_that_it_turns_and_what_it_does(ear: socket.socket) -> None:
    async def main() -> list[bytes]:
        envs = supervisor(State.READY, State.READY, State.FAILED)
        task = asyncio.ensure_future(Notifier(ear.getsockname(), 0.03).keep(envs))
        loop = asyncio.get_running_loop()
        ear.setblocking(False)
        heard = [await loop.sock_recv(ear, 200) for _ in range(2)]
        envs.actors.clear()
        while not heard[-1].endswith(b"STATUS=no envs"):
            heard.append(await loop.sock_recv(ear, 200))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return heard

    heard = asyncio.run(main())
    assert heard[0] == b"WATCHDOG=1\nSTATUS=2 envs alive (1 failed, 2 ready)"
    assert heard[1] == b"WATCHDOG=1"
    assert heard[-1] == b"WATCHDOG=1\nSTATUS=no envs"
