"""Upgrades and raw TCP: bytes both ways, either end may finish first.

So of sandboxd.router.tunnel and sandboxd.router.published.
"""

import socket
import sys
from collections.abc import Callable
from socket import create_connection

import pytest
from websockets.sync.client import connect

from sandboxd.routing.orders import Published
from tests.router.servers import pattern
from tests.router.standin import Bench, Standin
from tests.router.talk import Talk

WEBSOCKETS = """
from websockets.sync.server import serve

def echo(connection):
    for message in connection:
        connection.send(message)

with serve(echo, "127.0.0.1", 3000, max_size=None) as server:
    server.serve_forever()
"""
UPGRADE = b"GET /upgrade HTTP/1.1\r\nHost: shop.localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: shouting/1\r\n\r\n"


def wait_until_served(bench: Bench) -> None:
    """Until the server inside is up; it takes its time to import. It refuses what is no upgrade with a 426."""
    for _ in range(400):
        with Talk(bench.connect()) as talk:
            if talk.get().status != 502:
                return
        bench.spin(0.05)
    raise AssertionError("the server inside did not come up")


def test_websocket(bench: Bench, standin: Callable[..., Standin]) -> None:
    env = standin("shop", serve=(), run=[sys.executable, "-c", WEBSOCKETS])
    bench.push([env.endpoint()])
    wait_until_served(bench)
    with connect(f"ws://shop.localhost:{bench.port}/", sock=bench.connect(), max_size=None, compression=None) as connection:
        for message in ("hello", b"\0\xff" * 10, pattern(3_000_000), "x" * 70_000):
            connection.send(message)
            assert connection.recv() == message
    assert connection.close_code == 1000


def test_any_upgrade_with_bytes_sent_ahead(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        talk.send(UPGRADE + b"early ")
        answer = talk.answer()
        assert (answer.status, answer.fields["upgrade"], answer.fields["connection"]) == (101, "shouting/1", "Upgrade")
        assert talk.file.read(9) == b"hi:EARLY "
        talk.send(b"and late")
        assert talk.file.read(8) == b"AND LATE"
        talk.sock.shutdown(1)
        assert talk.file.read() == b"<end>"


def test_an_upgrade_that_is_refused_is_an_ordinary_answer(bench: Bench, shop: Standin) -> None:
    follower = b"GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n"
    with Talk(bench.connect()) as talk:
        talk.send(UPGRADE.replace(b"/upgrade", b"/upgrade-refused") + follower)
        assert talk.answer().body == b"not here"
        assert talk.answer().body == b"shop 2\n"


def test_an_upgrade_nobody_asked_for_is_a_502(bench: Bench, standin: Callable[..., Standin]) -> None:
    env = standin("shop", serve=[("answers", "127.0.0.1", 3000)])
    bench.push([env.endpoint()])
    with Talk(bench.connect()) as talk:
        switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
        assert talk.get("/", "shop.localhost", f"X-Answer: {switch.hex()}").status == 502


def test_upgraded_connections_count_and_are_released(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        talk.send(UPGRADE)
        talk.answer()
        assert bench.run(bench.handle.release(shop.env_id)) is True
        assert talk.file.read(3) == b"hi:"
        with pytest.raises(ConnectionResetError):
            talk.file.read()


@pytest.fixture
def published(bench: Bench, standin: Callable[..., Standin]) -> Callable[[str], Talk]:
    """Connect to a published raw port of an env; the word names the server inside."""
    env = standin("shop", serve=[("echo", "127.0.0.1", 3001), ("raw", "::1", 3002)])
    bench.push([env.endpoint()])
    ports = {"echo": 3001, "raw": 3002}

    def talk(word: str) -> Talk:
        if not any(held.port == ports[word] for held in bench.handle.published):
            port = free_port()
            bench.run(
                bench.handle.publish(
                    Published(address="127.0.0.1", host_port=port, env_id=env.env_id, service="web", port=ports[word])
                )
            )
        held = next(held for held in bench.handle.published if held.port == ports[word])
        return Talk(create_connection((held.address, held.host_port), 30))

    return talk


def test_raw_tcp_the_client_finishes_first(published: Callable[[str], Talk]) -> None:
    with published("echo") as talk:
        talk.send(b"hello")
        assert talk.file.read(5) == b"hello"
        talk.send(b" world")
        talk.sock.shutdown(1)
        assert talk.file.read() == b" world<end>"


def test_raw_tcp_the_service_finishes_first(published: Callable[[str], Talk]) -> None:
    with published("raw") as talk:
        talk.send(b"finish-first\n")
        assert talk.file.read() == b"mine"
        talk.send(pattern(500_000))
        talk.sock.shutdown(1)
        assert talk.at_end()


def test_raw_tcp_what_was_answered_before_a_close_with_unread_input_arrives(published: Callable[[str], Talk]) -> None:
    with published("raw") as talk:
        talk.send(b"send-then-close 60000\n" + pattern(100_000))
        received = b""
        try:
            while piece := talk.sock.recv(65536):
                received += piece
        except ConnectionResetError:
            pass
        assert received == pattern(60_000)


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
