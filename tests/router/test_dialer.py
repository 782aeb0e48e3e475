"""What an init may hand over, and what it may do with the duplicates it keeps: nothing of it harms another env.

So of sandboxd.router.dialer, sandboxd.router.stock, sandboxd.router.backends and sandboxd.kernel.splice.
"""

import contextlib
import select
import socket
import sys
import time
from collections.abc import Callable

import pytest

from sandboxd.kernel.splice import renew, tame
from sandboxd.router.dialer import is_established
from tests.router.standin import Bench, Standin, rested, settle
from tests.router.talk import Talk

CHEATS = [
    *("of_the_host", "connected", "listening", "datagram", "unix"),
    *("no_socket", "too_many", "far_too_many", "ends", "babbling"),
]


@pytest.mark.parametrize("cheat", CHEATS)
def test_what_is_not_a_fresh_socket_of_that_env_is_refused(
    bench: Bench, standin: Callable[..., Standin], shop: Standin, cheat: str
) -> None:
    bad = standin("bad", dial=cheat)
    bench.push([bad.endpoint(), shop.endpoint()])
    before = rested(bench)
    for _ in range(20):
        with Talk(bench.connect()) as talk:
            assert talk.get(host="bad.localhost").status == 502
            assert talk.get().status == 200
    settle(bench, before + 16)


def test_an_init_that_says_nothing(start: Callable[..., Bench], standin: Callable[..., Standin]) -> None:
    bench = start(dial=0.3)
    bench.push([standin("bad", dial="silent").endpoint(), standin("shop").endpoint()])
    with Talk(bench.connect()) as waiting, Talk(bench.connect()) as talk:
        waiting.send(b"GET / HTTP/1.1\r\nHost: bad.localhost\r\n\r\n")
        assert talk.get().status == 200
        answer = waiting.answer()
    assert answer.status == 502
    assert b"in time" in answer.body


FULL = """
import socket, time
listener = socket.socket()
listener.bind(("127.0.0.1", 3000))
listener.listen(0)
time.sleep(1000)
"""


def test_a_service_that_takes_no_more_connections(start: Callable[..., Bench], standin: Callable[..., Standin]) -> None:
    """Its queue holds one: the next is not answered by its kernel at all (listen(2)), and told so within the bound."""
    bench = start(dial=0.3)
    bench.push([standin("shop", serve=(), run=[sys.executable, "-S", "-c", FULL]).endpoint()])
    with contextlib.ExitStack() as held:
        body = b""
        while b"in time" not in body:  # until then nothing listens yet, or there was room
            talk = held.enter_context(Talk(bench.connect()))
            talk.send(b"GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
            if select.select([talk.sock], [], [], 0.6)[0]:
                answer = talk.answer()
                assert answer.status == 502
                body = answer.body


def test_an_init_that_is_gone(bench: Bench, standin: Callable[..., Standin]) -> None:
    env = standin("shop")
    bench.push([env.endpoint()])
    with Talk(bench.connect()) as talk:
        assert talk.get().status == 200
        env.close()
        answer = talk.get()
        assert answer.status == 502
        other = talk.get()
        assert other.status == 502
    bench.push([env.endpoint(dial="/nowhere/dial.sock")])
    with Talk(bench.connect()) as talk:
        assert b"cannot be reached" in talk.get().body


def test_a_socket_of_another_namespace_is_not_dialled(bench: Bench, standin: Callable[..., Standin]) -> None:
    env = standin("shop")
    bench.push([env.endpoint(netns_cookie=env.cookie + 1)])
    with Talk(bench.connect()) as talk:
        assert b"not of its network namespace" in talk.get().body


@pytest.mark.parametrize("dial", ["keeping", "stealing"])
def test_kept_duplicates_do_not_stop_the_router(bench: Bench, standin: Callable[..., Standin], dial: str) -> None:
    """They make every call on the socket blocking and take its bytes away; other envs are served on all the same."""
    bad = standin("bad", dial=dial, serve=[("http", "127.0.0.1", 3000), ("raw", "127.0.0.1", 3001)])
    good = standin("shop")
    bench.push([bad.endpoint(), good.endpoint()])
    talks = [Talk(bench.connect()) for _ in range(8)]
    for talk in talks:
        talk.send(b"GET /bytes?3000000 HTTP/1.1\r\nHost: bad.localhost\r\n\r\n")
    with Talk(bench.connect()) as talk:
        for _ in range(300):
            assert talk.get().status == 200
    for talk in talks:
        talk.close()
    with Talk(bench.connect()) as talk:
        assert talk.get("/bytes?2000000").status == 200
    assert bench.run(bench.handle.release(bad.env_id)) is True  # close and shutdown do not linger for it either


def test_ready_sockets_are_let_go(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        assert talk.get().status == 200
    ready = len([what for what in bench.descriptors().values() if what.startswith("socket:")])
    assert bench.run(bench.handle.release(shop.env_id)) is True
    left = len([what for what in bench.descriptors().values() if what.startswith("socket:")])
    assert left <= ready - 3  # the connection to dial.sock and what it had supplied
    with Talk(bench.connect()) as talk:
        assert talk.get().status == 200  # released is not forbidden: the table still says it is ready


def test_an_env_that_was_started_again_is_another_one(bench: Bench, standin: Callable[..., Standin]) -> None:
    first = standin("shop")
    bench.push([first.endpoint()])
    with Talk(bench.connect()) as talk:
        assert talk.get().body == b"shop 1\n"
        second = standin("second")
        bench.push([second.endpoint(name="shop", env_id=first.env_id)])
        assert talk.get().body == b"second 1\n"  # not over the connection that is kept to the first


def test_a_service_that_has_answered_and_closed_already_is_connected() -> None:
    """Who only talks (a time server, a banner) may be done before its socket is looked at: all he said waits."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sock:
        other, _ = listener.accept()
        other.sendall(b"all")
        other.close()
        assert sock.recv(10) == b"all"
        assert sock.recv(10) == b""
        assert is_established(sock, listener.getsockname()[1])
    with socket.socket() as alone:
        assert not is_established(alone, 1)


def test_a_socket_whose_connection_both_sides_ended_is_as_new() -> None:
    """What it had not read is gone with the connection; one that stands, or that one side has not ended, is left as it is."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as sock:
        other, _ = listener.accept()
        assert not renew(sock)
        other.sendall(b"unread")
        other.close()
        ended = select.poll()
        ended.register(sock, select.POLLRDHUP)
        assert ended.poll(30_000)
        assert not renew(sock)
        sock.shutdown(socket.SHUT_RDWR)
        for _ in range(1000):  # no event tells of the last acknowledgement
            if renew(sock):
                break
            time.sleep(0.01)
        with socket.create_server(("127.0.0.1", 0)) as elsewhere:
            sock.connect(elsewhere.getsockname())
            other, _ = elsewhere.accept()
            with other:
                sock.sendall(b"asked")
                assert other.recv(16) == b"asked"
                other.sendall(b"answered")
                assert sock.recv(16) == b"answered"


def test_connections_that_a_service_ends_leave_nothing_to_those_after_them(
    bench: Bench, standin: Callable[..., Standin]
) -> None:
    """Their sockets serve others: each client has its own answer, whatever the service said behind the one before."""
    shop = standin("shop", serve=[("answers", "127.0.0.1", 3000)])
    bench.push([shop.endpoint()])
    before = len(bench.descriptors())
    for number in range(100):
        body = b"answer %d" % number
        told = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        more = [f"X-Repeat: {b'HTTP/1.1 200 OK'.hex()},{number}"] if number % 3 == 2 else []
        with Talk(bench.connect()) as talk:
            answer = talk.get("/", "shop.localhost", "Connection: close", f"X-Answer: {told.hex()}", *more)
            assert (answer.status, answer.body) == (200, body)
            assert talk.at_end()
    assert bench.run(bench.handle.release(shop.env_id)) is True
    settle(bench, before + 1)  # it asks the kernel whose a connection is by one that it keeps


def test_what_goes_into_an_env_is_not_paced() -> None:
    with socket.socket() as sock:
        tame(sock)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0") == b"reno"
