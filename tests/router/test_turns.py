"""An env that bounds its connections: sandboxd.router.turns, and the master that grants them."""

import json
import os
import signal
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sandboxd.routing.orders import Published
from sandboxd.routing.table import Endpoint
from tests.router.standin import Bench, Standin
from tests.router.talk import Answer, Talk
from tests.router.test_tunnels import free_port

Start = Callable[..., Bench]
Make = Callable[..., Standin]
UPGRADE = b"GET /never HTTP/1.1\r\nHost: shop.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
NEVER = b"GET /never HTTP/1.1\r\nHost: shop.localhost\r\n\r\n"


@pytest.fixture
def shop(standin: Make) -> Standin:
    """An env named shop whose server counts."""
    return standin("shop", serve=(("counting", "127.0.0.1", 3000),))


def bounded(env: Standin, most: int, **changes: Any) -> Endpoint:
    """Its endpoint, with a bound on its connections."""
    return env.endpoint(max_connections=most, **changes)


def until(bench: Bench, env: Standin, **wanted: int) -> dict[str, int]:
    """The router's counts of the env, once they are as wanted."""
    found: dict[str, int] = {}
    for _ in range(1000):
        bench.run(bench.handle.count())
        found = bench.handle.counts.get(env.env_id, {})
        if all(found.get(name) == value for name, value in wanted.items()):
            return found
        bench.spin(0.02)
    raise AssertionError(f"{wanted} did not come: {found}")


def asked(bench: Bench, seconds: float = 0.0) -> Answer:
    """A request on a connection of its own."""
    with Talk(bench.connect()) as talk:
        return talk.get(f"/{seconds}")


@pytest.mark.parametrize(("workers", "most"), [(1, 1), (2, 1), (2, 3)])
def test_the_bound_holds_whatever_the_workers(start: Start, shop: Standin, workers: int, most: int) -> None:
    bench = start(workers=workers)
    bench.push([bounded(shop, most)])
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: asked(bench, 0.004), range(96)))
    assert {answer.status for answer in answers} == {200}
    found = [json.loads(answer.body) for answer in answers]
    assert max(at_once for at_once, _ in found) <= most
    assert sorted(number for _, number in found) == list(range(1, 97))
    assert until(bench, shop, open=0, queued=0)["refused"] == 0


def test_without_a_bound_there_are_more(start: Start, shop: Standin) -> None:
    bench = start()
    bench.push([bounded(shop, 0)])
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: asked(bench, 0.05), range(48)))
    assert max(json.loads(answer.body)[0] for answer in answers) > 3


def test_connections_are_not_kept_from_others_and_requests_of_one_client_go_on(start: Start, shop: Standin) -> None:
    bench = start()
    bench.push([bounded(shop, 1)])
    with Talk(bench.connect()) as one, Talk(bench.connect()) as two:
        for number in range(1, 9, 2):
            assert json.loads(one.get("/0").body) == [1, number]
            assert json.loads(two.get("/0").body) == [1, number + 1]
        one.send(b"GET /0 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n" * 3)  # in one go: each takes its turn
        assert [json.loads(one.answer().body)[1] for _ in range(3)] == [9, 10, 11]
        assert until(bench, shop, open=0)["requests"] == 11


def test_first_come_first_served(start: Start, shop: Standin) -> None:
    bench = start(workers=2)
    bench.push([bounded(shop, 1)])
    talks = [Talk(bench.connect()) for _ in range(8)]
    with Talk(bench.connect()) as first:
        first.send(NEVER)
        until(bench, shop, open=1)
        for number, talk in enumerate(talks, 1):
            talk.send(b"GET /0 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
            until(bench, shop, queued=number)
    assert [json.loads(talk.answer().body)[1] for talk in talks] == list(range(2, 10))
    for talk in talks:
        talk.close()


def test_past_the_queue_is_refused_at_once_and_who_waits_too_long_in_the_end(start: Start, shop: Standin) -> None:
    bench = start(workers=2, queued=2, queue=2.0)
    bench.push([bounded(shop, 1)])
    with Talk(bench.connect()) as holds, Talk(bench.connect()) as one, Talk(bench.connect()) as two:
        holds.send(NEVER)
        until(bench, shop, open=1)
        one.send(b"GET /0 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
        two.send(b"GET /0 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
        until(bench, shop, queued=2)
        answer = asked(bench)
        assert (answer.status, answer.fields["retry-after"]) == (503, "5")
        assert b"shop is busy" in answer.body
        assert b"sandbox update --max-connections 2 shop" in answer.body
        for talk in (one, two):
            late = talk.answer()
            assert (late.status, late.fields["retry-after"]) == (503, "5")
            assert b"none became free within 2 s" in late.body
        found = until(bench, shop, queued=0, refused=3)
        assert found["open"] == 1
    until(bench, shop, open=0)
    assert asked(bench).status == 200  # the places of those that waited in vain are nobody's


def test_a_websocket_has_its_place_until_it_ends_and_who_goes_away_leaves_the_queue(start: Start, shop: Standin) -> None:
    bench = start()
    bench.push([bounded(shop, 1)])
    with Talk(bench.connect()) as socket_, Talk(bench.connect()) as gone, Talk(bench.connect()) as stays:
        assert socket_.send(UPGRADE).answer().status == 101
        gone.send(b"GET /0 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
        until(bench, shop, queued=1)
        stays.send(b"GET /0 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
        until(bench, shop, queued=2)
        gone.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.close()
        until(bench, shop, queued=1)
        socket_.close()
        assert json.loads(stays.answer().body) == [1, 2]


def test_a_worker_that_is_killed_gives_its_connections_back(start: Start, shop: Standin) -> None:
    bench = start(workers=2)
    bench.push([bounded(shop, 2)])
    holding = [Talk(bench.connect()) for _ in range(2)]
    for number, talk in enumerate(holding, 1):
        talk.send(NEVER)
        until(bench, shop, open=number)
    for pid in bench.workers():
        os.kill(pid, signal.SIGKILL)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: asked(bench, 0.01), range(16)))
    assert {answer.status for answer in answers} == {200}
    for talk in holding:
        talk.close()


def test_raw_connections_wait_as_well(start: Start, shop: Standin) -> None:
    bench = start()
    bench.push([bounded(shop, 1)])
    port = free_port()
    bench.run(
        bench.handle.publish(Published(address="127.0.0.1", host_port=port, env_id=shop.env_id, service="web", port=3000))
    )
    with socket.create_connection(("127.0.0.1", port), 30) as raw:
        raw.sendall(NEVER)
        until(bench, shop, open=1, tunnels=1)
        with Talk(bench.connect()) as talk, Talk(socket.create_connection(("127.0.0.1", port), 30)) as other:
            until(bench, shop, queued=1)  # before it sent anything
            other.send(b"GET /0 HTTP/1.1\r\nHost: shop.localhost\r\nConnection: close\r\n\r\n")
            talk.send(b"GET /0 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
            until(bench, shop, queued=2, open=1)
            raw.close()
            assert json.loads(other.answer().body)[0] == 1
            other.close()
            assert json.loads(talk.answer().body)[0] == 1


def test_a_tunnel_has_its_place_until_the_socket_to_the_service_is_closed(start: Start, shop: Standin) -> None:
    bench = start()
    bench.push([bounded(shop, 1)])
    port = free_port()
    bench.run(
        bench.handle.publish(Published(address="127.0.0.1", host_port=port, env_id=shop.env_id, service="web", port=3000))
    )
    raw = socket.create_connection(("127.0.0.1", port), 30)
    with Talk(bench.connect()) as waits:
        raw.sendall(NEVER)
        until(bench, shop, open=1, tunnelled=len(NEVER))
        os.killpg(shop.process.pid, signal.SIGSTOP)
        more = bytes(300_000)  # than the service's kernel takes while nobody reads, and less than ours does
        raw.sendall(more)
        until(bench, shop, tunnelled=len(NEVER) + len(more))
        waits.send(b"GET /0 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
        until(bench, shop, queued=1)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.close()
        until(bench, shop, tunnels=0)
        bench.spin(0.3)
        assert until(bench, shop, tunnels=0)["queued"] == 1
        os.killpg(shop.process.pid, signal.SIGCONT)  # it takes what waits for it, and then the reset
        assert waits.answer().status == 200
    until(bench, shop, open=0, queued=0)


def test_a_bound_may_change_while_somebody_waits_and_an_env_may_go(start: Start, shop: Standin) -> None:
    bench = start()
    bench.push([bounded(shop, 1)])
    with Talk(bench.connect()) as holds, Talk(bench.connect()) as waits, Talk(bench.connect()) as last:
        holds.send(NEVER)
        until(bench, shop, open=1)
        waits.send(b"GET /0 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
        until(bench, shop, queued=1)
        assert bench.change(endpoints={0: bounded(shop, 2)}) is True
        assert waits.answer().status == 200
        assert bench.change(endpoints={0: bounded(shop, 1)}) is True
        last.send(b"GET /0 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
        until(bench, shop, queued=1)
        assert bench.run(bench.handle.release(shop.env_id)) is True
        assert holds.answer().status == 503
        assert b"shop is stopping" in last.answer().body
        until(bench, shop, queued=0, open=0)
