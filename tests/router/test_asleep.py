"""An env that is asleep: a request for it is held and not lost, and the daemon is told, once for each table.

So of sandboxd.router.worker, sandboxd.router.client, sandboxd.router.finding, and of dozing in sandboxd.router.tunnel.
"""

import socket
import struct
from collections.abc import Iterator
from socket import create_connection

import pytest

from sandboxd.routing.orders import Published
from tests.router.standin import Bench, Standin
from tests.router.talk import Talk
from tests.router.test_tunnels import UPGRADE, free_port


@pytest.fixture
def woken(bench: Bench) -> Iterator[list[str]]:
    """The envs that the router wants awake, as it tells."""
    found: list[str] = []
    bench.handle.on_wake = found.append
    yield found
    bench.handle.on_wake = None


def wait_for(bench: Bench, found: list[str], count: int) -> None:
    """Until the router has told of that many."""
    for _ in range(500):
        if len(found) >= count:
            return
        bench.spin(0.01)
    raise AssertionError(f"only {found}")


def test_a_request_is_held_and_told_once(bench: Bench, shop: Standin, woken: list[str]) -> None:
    bench.push([shop.endpoint(state="asleep")])
    with Talk(bench.connect()) as first, Talk(bench.connect()) as second:
        for talk in (first, second):
            talk.send(b"GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
        wait_for(bench, woken, 1)
        bench.spin(0.1)
        assert woken == [shop.env_id]
        bench.push([shop.endpoint(state="asleep")])  # as a daemon that came after one that had died
        wait_for(bench, woken, 2)
        bench.push([shop.endpoint(state="starting")])
        bench.push([shop.endpoint()])
        assert sorted([first.answer().body, second.answer().body]) == [b"shop 1\n", b"shop 1\n"]
    assert woken == [shop.env_id] * 2


def test_a_kept_connection_asks_again_after_its_env_fell_asleep(bench: Bench, shop: Standin, woken: list[str]) -> None:
    with Talk(bench.connect()) as talk:
        assert talk.get().body == b"shop 1\n"
        bench.push([shop.endpoint(state="asleep")])
        talk.send(b"GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
        wait_for(bench, woken, 1)
        bench.push([shop.endpoint()])
        assert talk.answer().body == b"shop 2\n"  # the connection to the service was kept, too


def test_who_is_not_its_owner_wakes_nobody(bench: Bench, shop: Standin, woken: list[str]) -> None:
    bench.push([shop.endpoint(state="asleep", owner=1)])
    with Talk(bench.connect()) as talk:
        assert talk.get().status == 403
    bench.spin(0.1)
    assert woken == []


def test_a_raw_connection_wakes_it_too(bench: Bench, shop: Standin, woken: list[str]) -> None:
    port = free_port()
    bench.run(
        bench.handle.publish(Published(address="127.0.0.1", host_port=port, env_id=shop.env_id, service="web", port=3000))
    )
    bench.push([shop.endpoint(state="asleep")])
    with Talk(create_connection(("127.0.0.1", port), 30)) as talk:
        wait_for(bench, woken, 1)
        bench.push([shop.endpoint()])
        assert talk.get().body == b"shop 1\n"


def test_the_first_byte_in_a_tunnel_wakes_it_and_silence_does_not(bench: Bench, shop: Standin, woken: list[str]) -> None:
    with Talk(bench.connect()) as talk:
        talk.send(UPGRADE)
        assert talk.answer().status == 101
        assert talk.file.read(3) == b"hi:"
        for text in (b"one", b"two"):
            woken.clear()
            bench.push([shop.endpoint(state="asleep")])
            bench.push([shop.endpoint(state="asleep")])
            bench.spin(0.1)
            assert woken == []
            talk.send(text)
            wait_for(bench, woken, 1)
            bench.push([shop.endpoint()])
            assert talk.file.read(3) == text.upper()
        bench.push([shop.endpoint(state="asleep")])
        bench.run(bench.handle.release(shop.env_id))


def test_what_is_under_way_is_counted_when_asked_for(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as asking, Talk(bench.connect()) as tunnelled, Talk(bench.connect()) as over:
        asking.send(b"GET /hang HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
        tunnelled.send(UPGRADE)
        assert tunnelled.answer().status == 101
        tunnelled.file.read(3)
        tunnelled.send(b"ping")
        tunnelled.file.read(4)
        assert over.get().status == 200
        bench.run(bench.handle.count())
        counts = bench.handle.counts[shop.env_id]
        assert (counts["busy"], counts["tunnels"], counts["open"]) == (1, 1, 3)
        assert counts["tunnelled"] >= 8
        asking.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for _ in range(200):  # a client that resets while it waits for an answer is noticed at the next tick
        bench.run(bench.handle.count())
        counts = bench.handle.counts[shop.env_id]
        if counts["busy"] == counts["tunnels"] == 0:
            return
        bench.spin(0.05)
    raise AssertionError(f"still {counts}")
