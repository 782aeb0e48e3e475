"""A router becomes another program in its own process: who is connected is served on, who comes is served by the new one.

So of sandboxd.router.handover and sandboxd.router.process.
"""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from sandboxd.daemon.pumping import readable
from sandboxd.router.handover import Estate, Heir, become, inherited, taken_up
from sandboxd.router.starting import module_path, program
from sandboxd.routing import orders
from sandboxd.routing.framing import Bounds
from sandboxd.routing.turns import Claim, Standing
from tests.daemons import PATIENCE
from tests.router.standin import Bench, Standin
from tests.router.talk import Talk
from tests.router.test_turns import NEVER, until


def renew(bench: Bench, command: list[str] | None = None) -> None:
    """Have the bench's router become another, and speak with that."""
    renewed = bench.run(bench.handle._renewed(command or program(Bounds(), 1)))
    assert renewed is not None
    bench.handle = renewed


async def gone(pid: int) -> None:
    """Wait for a process to have ended; a pidfd is readable then (pidfd_open(2))."""
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        try:
            await asyncio.wait_for(readable(fd), PATIENCE)
        finally:
            os.close(fd)


def test_an_estate_is_taken_up_as_it_was_left() -> None:
    port = orders.Published(address="127.0.0.1", host_port=5432, env_id="a" * 32, service="db", port=5432)
    heirs = [Heir(number=0, pid=7, fd=9, begun=b"\x00\xff{"), Heir(number=-2, pid=8, fd=10)]
    turns = Standing({"a" * 32: 1}, {"a" * 32: ([Claim(0, 3)], [Claim(0, 4), Claim(0, 5)])})
    estate = Estate(ports=[(port, 11)], workers=heirs, numbers=42, turns=turns)
    memory = os.memfd_create("estate")
    os.write(memory, msgspec.json.encode(estate))
    os.lseek(memory, 0, os.SEEK_SET)
    assert taken_up(memory) == estate


def test_what_cannot_be_executed_changes_nothing() -> None:
    ours, theirs = socket.socketpair()
    order = orders.Replace(order=1, command=["/nonexistent/python"], path=module_path())
    with ours, theirs:
        with pytest.raises(FileNotFoundError):
            become(order, [ours], theirs, Estate())
        assert not os.get_inheritable(ours.fileno())
        assert not os.get_inheritable(theirs.fileno())


def test_an_inherited_socket_is_inherited_no_further() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        os.set_inheritable(ours.fileno(), True)
        with inherited(ours.detach()) as sock:
            assert not os.get_inheritable(sock.fileno())


def test_a_router_that_cannot_become_another_serves_on(bench: Bench, shop: Standin) -> None:
    before = bench.handle
    with Talk(bench.connect()) as talk:
        assert talk.get().status == 200
        renew(bench, ["/nonexistent/python"])
        assert bench.handle is before
        assert talk.get().status == 200


def test_who_is_connected_hears_that_the_next_answer_is_the_last(bench: Bench, shop: Standin) -> None:
    pid, workers = bench.handle.pid, bench.workers()
    with Talk(bench.connect()) as kept:
        assert kept.get().body == b"shop 1\n"
        renew(bench)
        assert (bench.handle.pid, bench.workers()) == (pid, workers)  # until there is a table
        assert kept.get().body == b"shop 2\n"
        bench.push([shop.endpoint()])
        last = kept.get()
        assert (last.status, last.fields.get("connection")) == (200, "close")
        assert kept.file.read() == b""
    with Talk(bench.connect()) as talk:
        fresh = talk.get()
        assert (fresh.status, fresh.fields.get("connection")) == (200, None)
        assert talk.get().status == 200
    for pid in workers:  # those have nobody left
        bench.run(gone(pid))


def test_what_is_under_way_ends_under_the_new_program(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        talk.send(b"POST / HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 8\r\n\r\nhalf")
        renew(bench)
        bench.push([shop.endpoint()])
        assert talk.send(b"half").answer().status == 200


def test_a_new_table_reaches_those_who_serve_on(bench: Bench, standin: Callable[..., Standin]) -> None:
    """A request on a connection of before finds an env that was made after."""
    shop, late = standin("shop"), standin("late")
    bench.push([shop.endpoint()])
    with Talk(bench.connect()) as talk:
        assert talk.get().status == 200
        renew(bench)
        bench.push([shop.endpoint(), late.endpoint()])
        assert talk.get(host="late.localhost").body.startswith(b"late")


def test_it_can_become_another_again_and_again(bench: Bench, shop: Standin, tmp_path: Path) -> None:
    pid = bench.handle.pid
    talks = []
    try:
        for _ in range(3):
            talks.append(Talk(bench.connect()))
            assert talks[-1].get().status == 200
            renew(bench)
            bench.push([shop.endpoint()])
        assert bench.handle.pid == pid
        assert [talk.get().fields.get("connection") for talk in talks] == ["close"] * 3
    finally:
        for talk in talks:
            talk.close()


def test_who_has_a_connection_and_who_waits_for_one_keep_their_turn(bench: Bench, standin: Callable[..., Standin]) -> None:
    """The only one that there may be is held by a request of before; the next of before, and one of after, come after it."""
    env = standin("shop", serve=(("counting", "127.0.0.1", 3000),))
    table = [env.endpoint(max_connections=1)]
    bench.push(table)
    with Talk(bench.connect()) as first, Talk(bench.connect()) as second, Talk(bench.connect()) as third:
        first.send(NEVER)
        until(bench, env, open=1)
        second.send(b"GET /0 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
        until(bench, env, queued=1)
        renew(bench)
        bench.push(table)
        third.send(b"GET /0 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
        until(bench, env, open=1, queued=2)
        first.close()
        assert [json.loads(talk.answer().body)[1] for talk in (second, third)] == [2, 3]
