"""Ends in the middle: resets of either side reach the other, after the bytes before them, and nothing stays open.

So of sandboxd.router.loop and of the relay.
"""

import socket
import struct
from collections.abc import Callable

import pytest

from sandboxd.routing.orders import Published
from tests.router.servers import pattern
from tests.router.standin import Bench, Standin, rested, settle
from tests.router.talk import Talk
from tests.router.test_tunnels import free_port

CLIENTS = 60


def reset(talk: Talk) -> None:
    """Close with a reset."""
    talk.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    talk.close()


def rest_of(talk: Talk) -> tuple[bytes, bool]:
    """All that comes, and whether a reset ended it."""
    data = b""
    try:
        while piece := talk.file.read1(65536):
            data += piece
    except ConnectionResetError:
        return data, True
    return data, False


@pytest.mark.parametrize("count", [10, 3000, 90_000])
def test_a_service_that_resets_after_data(bench: Bench, shop: Standin, count: int) -> None:
    before = rested(bench)
    talks = [Talk(bench.connect()) for _ in range(CLIENTS)]
    for talk in talks:
        talk.send(b"GET /cut-off-stream?%d HTTP/1.1\r\nHost: shop.localhost\r\n\r\n" % count)
    for talk in talks:
        assert b"Connection: close" in talk.head()
        # A body that lasts until the end of the connection: only the reset tells that this was not its end.
        assert rest_of(talk) == (pattern(count), True)
        talk.close()
    settle(bench, before + 16)


def test_a_service_that_resets_within_a_sized_body(bench: Bench, shop: Standin) -> None:
    before = rested(bench)
    for _ in range(5):
        with Talk(bench.connect()) as talk:
            talk.send(b"GET /cut-off?5000 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
            talk.head()
            assert rest_of(talk) == (pattern(5000), True)
    settle(bench, before + 16)


def test_raw_tcp_resets_after_data(bench: Bench, standin: Callable[..., Standin]) -> None:
    env = standin("shop", serve=[("http", "127.0.0.1", 3000), ("raw", "127.0.0.1", 3002)])
    bench.push([env.endpoint()])
    port = free_port()
    bench.run(bench.handle.publish(Published(address="127.0.0.1", host_port=port, env_id=env.env_id, service="web", port=3002)))
    before = rested(bench)
    talks = [Talk(socket.create_connection(("127.0.0.1", port), 30)) for _ in range(CLIENTS)]
    for talk in talks:
        talk.send(b"reset-after 20000\n")
    for talk in talks:
        assert rest_of(talk) == (pattern(20000), True)
        talk.close()
    settle(bench, before + 16)


@pytest.mark.parametrize("path", ["/events", "/bytes?50000000", "/hang", "/gated"])
def test_clients_that_reset(bench: Bench, shop: Standin, path: str) -> None:
    before = rested(bench)
    talks = [Talk(bench.connect()) for _ in range(CLIENTS)]
    for talk in talks:
        talk.send(f"GET {path} HTTP/1.1\r\nHost: shop.localhost\r\n\r\n".encode())
    if path != "/hang":
        for talk in talks:
            talk.head()
    for talk in talks:
        reset(talk)
    settle(bench, before + 32)  # ready sockets and pipes


def test_clients_that_reset_in_the_middle_of_an_upload(bench: Bench, shop: Standin) -> None:
    before = rested(bench)
    talks = [Talk(bench.connect()) for _ in range(CLIENTS)]
    for talk in talks:
        talk.send(b"POST /digest HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 1000000\r\n\r\n" + pattern(300_000))
    for talk in talks:
        reset(talk)
    settle(bench, before + 32)


def test_a_refusal_in_the_middle_of_an_upload_is_heard(bench: Bench, shop: Standin) -> None:
    before = rested(bench)
    for path in ("/refused-early", "/refused-then-reset"):
        for _ in range(8):
            with Talk(bench.connect()) as talk:
                talk.send(f"POST {path} HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 50000000\r\n\r\n".encode())
                try:
                    for _ in range(50):
                        talk.send(pattern(100_000))
                except OSError:
                    pass  # nobody reads it; the answer is what counts
                assert talk.answer().status == 413
    settle(bench, before + 32)


def test_a_service_that_closes_without_an_answer_is_a_502(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        answer = talk.get("/no-answer")
        assert answer.status == 502
        assert b"closed the connection before it answered" in answer.body
        assert talk.get().status == 200  # the client's own connection is none the worse


def test_a_kept_connection_that_ran_out_is_dialled_again_for_what_may_be_repeated(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        assert talk.get("/once").body == b"shop 1"
        assert talk.get("/once").body == b"shop 1"  # the service took the second one and closed: a new connection, unnoticed
        posted = talk.get("/", "shop.localhost", "Content-Length: 0", method="POST")
        assert posted.status == 502  # it may have been carried out; nobody but the client may decide to repeat it
