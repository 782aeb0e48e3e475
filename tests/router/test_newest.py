"""Who was told that an env runs and asks for it at once is not sent away by an older table: sandboxd.router.newest.

The master is stopped in its tracks while the table is on its way, so that the request overtakes it for certain.
"""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sandboxd.routing.orders import Published
from sandboxd.routing.table import Route, RouteTable
from tests.router.standin import Bench, Standin
from tests.router.talk import Talk
from tests.router.test_tunnels import free_port
from tests.unit.routing.test_hello import real

REQUEST = b"GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n"


@contextmanager
def held_up(bench: Bench) -> Iterator[None]:
    """The router's master does nothing meanwhile."""
    os.kill(bench.handle.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(bench.handle.pid, signal.SIGCONT)


def table(version: int, *envs: Any) -> RouteTable:
    """One that names each by its own name."""
    routes = [Route(host=f"{one.name}.localhost", endpoint=number) for number, one in enumerate(envs)]
    return RouteTable(version=version, endpoints=list(envs), routes=routes)


@pytest.mark.parametrize("before", [{"state": "stopped"}, {"state": "failed"}, None])
def test_nobody_is_sent_away_by_an_older_table(
    bench: Bench, standin: Callable[..., Standin], before: dict[str, str] | None
) -> None:
    shop, other = standin("shop"), standin("other")
    sealed = standin("sealed", serve=[("echo", "127.0.0.1", 3000)])
    bench.push([other.endpoint(), *([one.endpoint(**before) for one in (shop, sealed)] if before else [])])
    port, hello = free_port(), real("sealed.localhost")
    bench.run(
        bench.handle.publish(Published(address="127.0.0.1", host_port=port, env_id=shop.env_id, service="web", port=3000))
    )
    with Talk(bench.connect()) as plain, Talk(bench.connect()) as tls:
        with held_up(bench):
            bench.call(lambda: bench.handle.push(table(9, other.endpoint(), shop.endpoint(), sealed.endpoint())))
            plain.send(REQUEST)
            tls.send(hello)
            raw = Talk(socket.create_connection(("127.0.0.1", port), 30))
            with Talk(bench.connect()) as later:
                assert later.get(host="other.localhost").status == 200  # so the worker has seen the three before it
        assert plain.answer().status == 200
        assert tls.file.read(len(hello)) == hello
        with raw:
            assert raw.get().status == 200


def test_what_is_stopped_is_asked_for_once_and_told(bench: Bench, shop: Standin) -> None:
    bench.push([shop.endpoint(state="stopped")])
    with Talk(bench.connect()) as talk:
        for _ in range(3):  # the same request, and another connection's, each by the newest table
            assert talk.get().status == 503
        with held_up(bench):
            talk.send(REQUEST)
            bench.call(lambda: bench.handle.push(table(8, shop.endpoint(state="failed"))))
            bench.call(lambda: bench.handle.push(table(9, shop.endpoint(state="stopped", reason="Its lease is over."))))
        assert b"Its lease is over." in talk.answer().body


def test_an_answer_waits_for_a_table_that_the_router_does_not_take_yet(bench: Bench, shop: Standin) -> None:
    many = [shop.endpoint(env_id=f"{number:032x}", name=f"n{number}") for number in range(4000)]
    with held_up(bench):
        bench.call(lambda: bench.handle.push(table(9, *many)))  # more than a socket holds
        assert bench.run(bench.handle.flushed.func(0.01)) is False
    assert bench.run(bench.handle.flushed()) is True
    bench.push([shop.endpoint()])
