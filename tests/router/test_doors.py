"""Requests that wait for envs which are yet to be made: sandboxd.router.doors.

Each is answered by the change of the table that brings its own env, and asks again where that goes.
"""

import asyncio
import os
from collections.abc import Callable

from msgspec.structs import replace

from sandboxd.routing.keys import Door
from sandboxd.routing.orders import Ask
from sandboxd.routing.table import Change, RouteTable
from tests.router.standin import Bench, Standin
from tests.router.talk import Talk
from tests.router.test_newest import held_up

DOOR = Door(host="shop.localhost", name="shop", owner=os.getuid(), secret="00" * 32, keys=["host"], create=True)


def test_a_change_ends_the_wait_of_those_whose_env_it_brings(bench: Bench, standin: Callable[..., Standin]) -> None:
    envs = [standin("one"), standin("two")]
    asks: asyncio.Queue[Ask] = asyncio.Queue()
    bench.handle.on_ask = asks.put_nowait
    bench.call(lambda: bench.handle.push(RouteTable(version=100, endpoints=[], routes=[], doors=[DOOR])))
    talks = [Talk(bench.connect()).send(b"GET / HTTP/1.1\r\nHost: %s.shop.localhost\r\n\r\n" % key) for key in (b"a", b"b")]

    async def both() -> dict[str, str]:
        found: dict[str, str] = {}
        while len(found) < 2:
            ask = await asyncio.wait_for(asks.get(), 30)
            found[ask.key] = f"{ask.slot}@shop.localhost"
        return found

    slots = bench.run(both())
    hosts = [slots["host:a"], slots["host:b"]]

    def change(version: int, number: int, **parts: str) -> None:
        made = Change(
            base=version - 1,
            version=version,
            endpoints={number: envs[number].endpoint(**parts)},
            routes={hosts[number]: number},
        )
        assert bench.call(lambda: bench.handle.change(made))

    change(101, 1, state="starting")
    change(102, 0)
    assert talks[0].answer().status == 200
    gone = Change(base=102, version=103, dropped=[1], unrouted=[hosts[1]], gone=[envs[1].env_id])
    assert bench.call(lambda: bench.handle.change(gone))
    again = bench.run(next_of(asks, hosts[1]))  # it failed before it was there, and another is asked for
    assert again.key == "host:b"
    change(104, 1)
    assert talks[1].answer().status == 200
    for talk in talks:
        talk.close()


async def next_of(asks: "asyncio.Queue[Ask]", host: str) -> Ask:
    """The next one for that slot."""
    while True:
        ask = await asyncio.wait_for(asks.get(), 30)
        if f"{ask.slot}@shop.localhost" == host:
            return ask


def test_no_key_is_missed_by_an_older_table(bench: Bench, shop: Standin) -> None:
    asks: asyncio.Queue[Ask] = asyncio.Queue()
    bench.handle.on_ask = asks.put_nowait
    before, after = (replace(DOOR, keys=[kind]) for kind in ("header:X-Other", "header:X-User"))
    bench.call(lambda: bench.handle.push(RouteTable(version=200, endpoints=[], routes=[], doors=[before])))
    bench.run(bench.handle.count())  # the workers have it
    with Talk(bench.connect()) as talk:
        assert talk.get().status == 400
        with held_up(bench):
            bench.call(lambda: bench.handle.push(RouteTable(version=201, endpoints=[], routes=[], doors=[after])))
            talk.send(b"GET / HTTP/1.1\r\nHost: shop.localhost\r\nX-User: a\r\n\r\n")
        slot = bench.run(asyncio.wait_for(asks.get(), 30)).slot
        brought = Change(base=201, version=202, endpoints={0: shop.endpoint()}, routes={f"{slot}@shop.localhost": 0})
        assert bench.call(lambda: bench.handle.change(brought))
        assert talk.answer().status == 200
