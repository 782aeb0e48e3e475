"""The same request over and over on one connection, each answer its own: sandboxd.router.repeating."""

import socket
from collections.abc import Callable
from functools import partial

import pytest

from tests.router.servers import SERIES
from tests.router.standin import Bench, Standin
from tests.router.talk import Talk

REQUEST = b"GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n"


def body_of(pieces: tuple[bytes, ...]) -> bytes:
    """What a client is to make of one of SERIES."""
    body = b"".join(pieces).rpartition(b"\r\n\r\n")[2]
    return body or b"jj"


@pytest.mark.parametrize(("room", "varied"), [(None, False), (4096, False), (None, True)])
def test_each_answer_is_its_own(bench: Bench, standin: Callable[..., Standin], room: int | None, varied: bool) -> None:
    env = standin("shop", serve=[("series", "127.0.0.1", 3000)])
    bench.push([env.endpoint()])
    sock = bench.connect()
    if room is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)  # then the larger answers do not go out at once
    with Talk(sock) as talk:
        for number, pieces in enumerate(SERIES):
            request = REQUEST.replace(b"GET /", b"GET /%03d" % number) if varied else REQUEST
            answer = talk.send(request).answer()
            while answer.status == 100:
                answer = talk.answer()
            assert (answer.status, answer.body) == (404 if b" 404 " in pieces[0] else 200, body_of(pieces))
    bench.run(bench.handle.count())
    assert bench.handle.counts[env.env_id]["requests"] == len(SERIES)


def test_bytes_and_requests_are_counted_alike(bench: Bench, shop: Standin) -> None:
    counts = []
    with Talk(bench.connect()) as talk:
        for _ in range(6):
            assert talk.get().status == 200
            bench.run(bench.handle.count())
            found = bench.handle.counts[shop.env_id]
            counts.append((found["requests"], found["bytes_in"], found["bytes_out"]))
    first = counts[0]
    assert counts == [tuple(number * time for number in first) for time in range(1, 7)]


def test_a_table_between_two_of_them_is_obeyed(bench: Bench, standin: Callable[..., Standin]) -> None:
    shop, blog = standin("shop"), standin("blog")
    send = partial(bench.push, [shop.endpoint(), blog.endpoint()])
    send()
    with Talk(bench.connect()) as talk:
        for to, name in ((0, b"shop"), (1, b"blog"), (0, b"shop")):
            send(hosts={"shop.localhost": to})
            for _ in range(4):
                assert talk.send(REQUEST).answer().body.startswith(name)
        bench.push([shop.endpoint(state="stopped")])
        assert talk.send(REQUEST).answer().status == 503


def test_others_in_between_are_not_taken_for_it(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        for method, fields, status in (
            ("HEAD", (), 200),
            ("GET", ("Connection: keep-alive",), 200),
            ("POST", ("Content-Length: 0",), 200),
            ("GET", ("Content-Length: x",), 400),
        ):
            for _ in range(4):
                assert talk.get().body.startswith(b"shop")
            answer = talk.get("/", "shop.localhost", *fields, method=method)
            assert answer.status == status
            assert (answer.body == b"") == (method == "HEAD")
        assert talk.at_end()


def test_who_is_told_to_go_takes_his_last_answer(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        for _ in range(4):
            talk.send(REQUEST).answer()
        bench.run(bench.handle.release(shop.env_id))
        assert talk.send(REQUEST).answer().body == b"shop 1\n"  # over another connection
