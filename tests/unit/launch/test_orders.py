"""Orders to the launcher: few messages for many, none that waits, all in their order. Counted at the other end of the socket,
which keeps messages apart (SOCK_SEQPACKET)."""

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import Iterator

import pytest

from sandboxd.errors import ProtocolViolation
from sandboxd.launch import line
from sandboxd.launch.client import CROWD, Launcher, usual
from sandboxd.launch.orders import Orders


@contextlib.contextmanager
def launcher() -> Iterator[tuple[Launcher, socket.socket]]:
    """The daemon's side of one, without a program that would answer; and that program's end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    with theirs, subprocess.Popen(["sleep", "1000"]) as process:
        found = Launcher(process, ours, pool=0)
        try:
            yield found, theirs
        finally:
            found.close()


def messages(sock: socket.socket) -> list[list[bytes]]:
    """The frames of each message that has come."""
    found = []
    while True:
        try:
            data = sock.recv(1 << 22)
        except BlockingIOError:
            return found
        frames = []
        while data:
            length = int.from_bytes(data[:4], "little")
            frames.append(data[4 : 4 + length])
            data = data[4 + length :]
        found.append(frames)


def test_orders_of_one_turn_go_together_and_the_first_at_once() -> None:
    async def main() -> None:
        with launcher() as (daemon, program):
            shape = usual(None)
            taken: list[object] = []
            daemon.ask(shape, taken.append, is_awaited=False)
            assert [len(frames) for frames in messages(program)] == [1]  # before the turn is over
            for _ in range(12):
                daemon.ask(shape, taken.append, is_awaited=False)
            assert [len(frames) for frames in messages(program)] == [1, 2, 4]  # so that it never waits for the rest
            await asyncio.sleep(0)
            assert [len(frames) for frames in messages(program)] == [5]
            daemon.ask(shape, taken.append, is_awaited=False)
            assert [len(frames) for frames in messages(program)] == [1]  # another turn
            await asyncio.sleep(0)
            assert messages(program) == []
            assert taken == []
        assert len(taken) == 14  # whoever was not answered is told that there is no launcher any more

    asyncio.run(main())


def test_who_waits_goes_before_the_pool() -> None:
    async def main() -> None:
        with launcher() as (daemon, program):
            daemon.shape, daemon.usual, daemon.launching = usual(None), 4, CROWD
            daemon.fill()
            assert messages(program) == []
            daemon.launching -= 1
            daemon.fill()
            daemon.fill()
            assert [len(frames) for frames in messages(program)] == [1]  # and the next when this one is ready

    asyncio.run(main())


def test_orders_keep_their_order() -> None:
    async def main() -> None:
        found: list[bytes] = []
        orders = Orders(asyncio.get_running_loop(), found.append)
        for number in range(50):
            orders.put(b"%d," % number)
        await asyncio.sleep(0)
        assert b"".join(found) == b"".join(b"%d," % number for number in range(50))
        assert [message.count(b",") for message in found] == [1, 1, 2, 4, 8, 16, 18]

    asyncio.run(main())


def test_an_order_over_the_cap_is_none() -> None:
    with pytest.raises(ProtocolViolation):
        line.framed(bytes(line.OUT_LIMIT + 1))
