"""A router that is told to stop lets what is under way come to its end; who is gone is not waited for, nor counted twice.

So of sandboxd.router.worker, sandboxd.router.access, sandboxd.router.finding and sandboxd.router.doors.
"""

import asyncio
import os
import signal
import socket
from collections.abc import Callable
from functools import partial

import pytest

from sandboxd.routing import orders
from sandboxd.routing.keys import Door, secret_of
from sandboxd.routing.table import Route, RouteTable
from tests.router.standin import Bench, Standin, rested, settle
from tests.router.talk import Talk

UPLOAD = b"POST / HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 8\r\n\r\n"
HELD = b"GET / HTTP/1.1\r\nHost: slow.localhost\r\n\r\n"


def test_what_is_under_way_ends_and_nothing_new_begins(start: Callable[..., Bench], standin: Callable[..., Standin]) -> None:
    bench = start(drain=60.0)
    bench.push([standin("shop").endpoint()])
    with Talk(bench.connect()) as idle, Talk(bench.connect()) as busy:
        assert idle.get().status == 200
        assert busy.get().status == 200
        busy.send(UPLOAD + b"half")
        os.kill(bench.handle.pid, signal.SIGTERM)
        assert idle.at_end()  # nothing was under way on it
        with pytest.raises(ConnectionRefusedError):
            bench.connect()
        assert busy.send(b"half").answer().status == 200
        assert busy.at_end()
    bench.run(bench.handle._wait_gone())  # long before its bound


def test_the_wait_is_bounded(start: Callable[..., Bench], standin: Callable[..., Standin]) -> None:
    bench = start(drain=0.2)
    bench.push([standin("shop").endpoint()])
    with Talk(bench.connect()) as talk:
        assert talk.get().status == 200
        talk.send(UPLOAD + b"half")
        os.kill(bench.handle.pid, signal.SIGTERM)
        assert talk.at_end()
    bench.run(bench.handle._wait_gone())


def test_a_client_that_closed_is_not_waited_for_and_one_that_half_closed_is(
    bench: Bench, standin: Callable[..., Standin]
) -> None:
    shop, slow = standin("shop"), standin("slow")
    bench.push([shop.endpoint(), slow.endpoint(state="starting")])
    before = rested(bench)
    gone = [bench.connect() for _ in range(20)]
    for sock in gone:
        sock.sendall(HELD)
    with Talk(bench.connect()) as half:
        half.send(HELD).sock.shutdown(socket.SHUT_WR)
        for sock in gone:
            sock.close()
        settle(bench, before + 1)  # the one that waits is left
        bench.push([shop.endpoint(), slow.endpoint()])
        assert half.answer().status == 200


def test_a_request_that_waited_for_its_env_to_be_made_is_counted_once(bench: Bench, standin: Callable[..., Standin]) -> None:
    env = standin("shop")
    door = Door(
        host="shop.localhost",
        name="shop",
        owner=os.getuid(),
        secret=secret_of(b"s" * 32, 0, "shop"),
        keys=["token"],
        create=True,
    )
    bench.call(lambda: bench.handle.push(RouteTable(version=1, endpoints=[], routes=[], doors=[door])))

    async def asked() -> orders.Ask:
        future: asyncio.Future[orders.Ask] = asyncio.get_running_loop().create_future()
        bench.handle.on_ask = lambda ask: future.done() or future.set_result(ask)
        return await future

    with Talk(bench.connect()) as talk:
        talk.send(b"GET / HTTP/1.1\r\nHost: shop.localhost\r\nAuthorization: Bearer x\r\n\r\n")
        slot = bench.run(asked()).slot
        routes = [Route(host=f"{slot}@shop.localhost", endpoint=0)]
        for version, state in ((2, "starting"), (3, "ready")):
            endpoints = [env.endpoint(state=state)]
            table = RouteTable(version=version, endpoints=endpoints, routes=routes, doors=[door])
            bench.call(partial(bench.handle.push, table))
        bench.run(bench.handle.count())
        assert talk.answer().status == 200
        bench.run(bench.handle.count())
        assert bench.handle.counts[env.env_id]["requests"] == 1
