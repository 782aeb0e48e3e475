"""What a client is told when its request cannot be served, and how long things may take.

So of sandboxd.router.asking, sandboxd.router.access, sandboxd.router.closing and sandboxd.router.listener.
"""

import os
import socket
import threading
from collections.abc import Callable

import msgspec
import pytest

from tests.router.standin import Bench, Standin, rested, settle
from tests.router.talk import Answer, Talk

GET = b"GET / HTTP/1.1\r\nHost: shop.localhost\r\n"
POST = b"POST / HTTP/1.1\r\nHost: shop.localhost\r\n"
CHUNKED = b"POST /digest HTTP/1.1\r\nHost: shop.localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
HEAD = GET + b"\r\n"

# Each is refused with that status and a closed connection, and nothing of it reaches the service.
HOSTILE = {
    "both-lengths": (
        400,
        POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "two-lengths": (400, POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
    "two-equal-lengths": (400, POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
    "a-list-of-lengths": (400, POST + b"Content-Length: 3, 3\r\n\r\nabc"),
    "signed-length": (400, POST + b"Content-Length: +3\r\n\r\nabc"),
    "hex-length": (400, POST + b"Content-Length: 0x3\r\n\r\nabc"),
    "endless-length": (413, POST + b"Content-Length: 99999999999999999999\r\n\r\n"),
    "underscore-length": (400, POST + b"Content_Length: 3\r\n\r\nabc"),
    "two-codings": (400, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "odd-coding": (400, POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "coding-twice": (
        400,
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    ),
    "coding-in-1.0": (400, b"POST / HTTP/1.0\r\nHost: shop.localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "space-before-colon": (400, POST + b"Content-Length : 3\r\n\r\nabc"),
    "folded": (400, GET + b"X: a\r\n b\r\n\r\n"),
    "folded-first": (400, b"GET / HTTP/1.1\r\n Host: shop.localhost\r\n\r\n"),
    "bare-lf": (400, b"GET / HTTP/1.1\nHost: shop.localhost\n\n"),
    "bare-lf-in-fields": (400, GET + b"X: a\nTransfer-Encoding: chunked\r\n\r\n"),
    "bare-cr": (400, GET + b"X: a\rb\r\n\r\n"),
    "nul": (400, GET + b"X: a\0b\r\n\r\n"),
    "nul-in-target": (400, b"GET /\0 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n"),
    "two-spaces": (400, b"GET  / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n"),
    "no-host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "two-hosts": (400, GET + b"Host: blog.localhost\r\n\r\n"),
    "same-host-twice": (400, GET + b"host: shop.localhost\r\n\r\n"),
    "host-list": (400, b"GET / HTTP/1.1\r\nHost: shop.localhost, blog.localhost\r\n\r\n"),
    "other-authority": (400, b"GET http://blog.localhost/ HTTP/1.1\r\nHost: shop.localhost\r\n\r\n"),
    "user-in-authority": (400, b"GET http://a@shop.localhost/ HTTP/1.1\r\nHost: shop.localhost\r\n\r\n"),
    "https-form": (400, b"GET https://shop.localhost/ HTTP/1.1\r\nHost: shop.localhost\r\n\r\n"),
    "odd-target": (400, b"GET shop HTTP/1.1\r\nHost: shop.localhost\r\n\r\n"),
    "connect": (405, b"CONNECT shop.localhost:80 HTTP/1.1\r\nHost: shop.localhost:80\r\n\r\n"),
    "http-2": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "odd-version": (400, b"GET / HTTP/11\r\nHost: shop.localhost\r\n\r\n"),
    "expectation": (417, GET + b"Expect: miracles\r\n\r\n"),
    "long-line": (414, b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: shop.localhost\r\n\r\n"),
    "long-line-without-end": (414, b"GET /" + b"a" * 9000),
    "large-head": (431, GET + b"X: " + b"a" * 20000 + b"\r\n\r\n"),
    "large-head-without-end": (431, GET + b"X: a\r\n" * 3500),
    "many-fields": (431, GET + b"X: a\r\n" * 200 + b"\r\n"),
    "chunk-size-sign": (
        400,
        CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n",
    ),
    "chunk-size-hex": (
        400,
        CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n",
    ),
    "chunk-size-space": (
        400,
        CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n",
    ),
    "chunk-size-huge": (
        400,
        CHUNKED + b"" + b"f" * 17 + b"\r\nabc\r\n0\r\n\r\n",
    ),
    "chunk-too-long": (
        400,
        CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
    ),
    "chunk-bare-lf": (400, CHUNKED + b"3\nabc\n0\n\n"),
    "extension-bare-lf": (
        400,
        CHUNKED + b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    ),
    "framing-trailer": (
        400,
        CHUNKED + b"0\r\nContent-Length: 9\r\n\r\n",
    ),
}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> "object":
    """One router and one env for the whole corpus: refusing one must not harm the next."""
    directory = tmp_path_factory.mktemp("state")
    env = Standin("shop", directory / "envs")
    bench = Bench(directory)
    bench.push([env.endpoint()])
    yield bench
    bench.close()
    env.close()


@pytest.mark.parametrize("case", HOSTILE, ids=list(HOSTILE))
def test_what_could_be_read_in_two_ways_is_refused(watched: Bench, case: str) -> None:
    status, data = HOSTILE[case]
    with Talk(watched.connect()) as talk:
        # What is smuggled behind must never be answered.
        talk.send(data + b"GET /smuggled HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
        answer = talk.answer()
        assert (answer.status, answer.fields["connection"]) == (status, "close")
        assert talk.at_end()
    with Talk(watched.connect()) as talk:
        assert talk.get().body == b"shop 1\n"


def test_unknown_names_get_a_page_that_tells_nothing(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        plain = talk.get(host="nobody.localhost")
        html = talk.get("/", "nobody.localhost", "Accept: text/html,*/*")
        page = talk.get("/", "<script>.localhost", "Accept: text/html")
    assert plain.status == html.status == 404
    assert plain.fields["content-type"] == "text/plain; charset=utf-8"
    assert html.body.startswith(b"<!doctype html>")
    assert page.status == 400  # no host name at all
    for answer in (plain, html):
        assert b"shop" not in answer.body
        assert b"nobody" not in answer.body


def test_a_request_is_held_while_its_env_starts_and_then_served(bench: Bench, standin: Callable[..., Standin]) -> None:
    env = standin("shop")
    bench.push([env.endpoint(state="starting", port=None)])
    with Talk(bench.connect()) as talk, Talk(bench.connect()) as other:
        talk.send(b"POST /digest HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 5\r\n\r\nhel")
        other.send(HEAD)
        other.sock.shutdown(socket.SHUT_WR)
        bench.spin(0.1)
        bench.push([env.endpoint()])
        talk.send(b"lo")
        assert talk.answer().body.startswith(b"[5, ")
        assert other.answer().body == b"shop 1\n"
        assert other.at_end()


def test_after_the_hold_it_is_503_with_retry_after(bench: Bench, standin: Callable[..., Standin]) -> None:
    bench.push([standin("shop").endpoint(state="starting")], hold=0.5)
    with Talk(bench.connect()) as talk:
        answer = talk.get()
    assert (answer.status, answer.fields["retry-after"]) == (503, "1")
    assert b"sandbox logs -f shop" in answer.body


def test_a_held_request_hears_of_the_end(bench: Bench, standin: Callable[..., Standin]) -> None:
    env = standin("shop")
    bench.push([env.endpoint(state="starting")])
    with Talk(bench.connect()) as talk:
        talk.send(HEAD)
        bench.spin(0.1)
        bench.push([env.endpoint(state="failed", reason="web exited with code 3")])
        answer = talk.answer()
    assert answer.status == 503
    assert b"web exited with code 3" in answer.body
    assert "retry-after" not in answer.fields


def test_a_held_client_that_leaves_is_forgotten(bench: Bench, shop: Standin) -> None:
    before = rested(bench)
    bench.push([shop.endpoint(state="starting")])
    talks = [Talk(bench.connect()) for _ in range(20)]
    for talk in talks:
        talk.send(HEAD)
    bench.spin(0.1)
    for talk in talks:
        talk.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        talk.close()
    settle(bench, before + 2)


@pytest.mark.parametrize(
    ("changes", "status", "says"),
    [
        ({"state": "stopped"}, 503, b"sandbox start shop"),
        ({"state": "failed", "reason": "<b>oom</b>"}, 503, b"<b>oom</b>"),
        ({"port": None}, 502, b"listens on no port"),
        ({"port": 3999}, 502, b"Nothing listens there, neither on 127.0.0.1 nor on [::1]"),
        ({"port": 40001}, 502, b"Nothing listens there"),
    ],
)
def test_what_cannot_be_reached(
    bench: Bench, standin: Callable[..., Standin], changes: dict[str, object], status: int, says: bytes
) -> None:
    env = standin("shop")
    bench.push([env.endpoint(**changes)])
    with Talk(bench.connect()) as talk:
        answer = talk.get()
        assert answer.status == status
        assert says in answer.body
        html = talk.get("/", "shop.localhost", "Accept: text/html")
        assert b"<b>" not in html.body
        bench.push([env.endpoint()])
        assert talk.get().status == 200  # the same connection, once the env can be reached


def test_the_env_of_another_user_is_closed(bench: Bench, standin: Callable[..., Standin]) -> None:
    env = standin("shop")
    bench.push([env.endpoint(owner=os.getuid() + 1)])
    with Talk(bench.connect()) as talk:
        assert talk.get().status == 403
        bench.push([env.endpoint()])
        assert talk.get().status == 200


def test_a_client_that_is_gone_is_nobody(bench: Bench, standin: Callable[..., Standin]) -> None:
    """Its socket is an orphan then, which sock_diag reports as root's."""
    env = standin("shop")
    bench.push([env.endpoint(state="starting")])
    talk = Talk(bench.connect())
    talk.send(HEAD.replace(b"shop.localhost", b"nobody.localhost"))
    assert talk.answer().status == 404  # the router has it, and did not need its uid yet
    bench.push([env.endpoint(owner=os.getuid() + 1)])
    os.kill(bench.workers()[0], 19)
    try:
        talk.send(HEAD)
        talk.close()
    finally:
        os.kill(bench.workers()[0], 18)
    bench.spin(1.2)
    assert bench.handle.counts.get(env.env_id, {}).get("requests", 0) == 0


def test_a_process_of_an_env_on_the_host_network_reaches_no_other_env(bench: Bench, standin: Callable[..., Standin]) -> None:
    """This very process stands in for pid 1 of such an env."""
    shop = standin("shop")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        hosted = shop.endpoint(env_id="b" * 32, name="blog", dial="", netns_cookie=0, port=port, init_pid=os.getpid())
        bench.push([shop.endpoint(), hosted])
        with Talk(bench.connect()) as talk:
            assert talk.get().status == 403
            talk.send(HEAD.replace(b"shop", b"blog"))  # its own env is open to it
            sock, _ = listener.accept()
            with sock:
                assert sock.recv(10) == b"GET / HTTP"
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nme")
                assert talk.answer().body == b"me"
        bench.push([shop.endpoint(), msgspec.structs.replace(hosted, init_pid=shop.process.pid)])
        with Talk(bench.connect()) as talk:
            assert talk.get().status == 200


def test_slow_heads_are_given_up(start: Callable[..., Bench], standin: Callable[..., Standin]) -> None:
    bench = start(head=0.5)
    bench.push([standin("shop").endpoint()])
    before = rested(bench)
    with Talk(bench.connect()) as talk:
        talk.send(b"GET / HTTP/1.1\r\nHost: sh")
        stop = threading.Event()
        feeder = threading.Thread(target=trickle, args=(talk, stop))
        feeder.start()
        answer = talk.answer()
        stop.set()
        feeder.join()
        assert answer.status == 408
    settle(bench, before)


def trickle(talk: Talk, stop: threading.Event) -> None:
    """A byte now and then: it is the whole head that is timed."""
    while not stop.wait(0.05):
        try:
            talk.send(b"x")
        except OSError:
            return


def test_idle_connections_are_closed(start: Callable[..., Bench], standin: Callable[..., Standin]) -> None:
    bench = start(idle=0.3)
    bench.push([standin("shop").endpoint()])
    with Talk(bench.connect()) as used, Talk(bench.connect()) as unused:
        assert used.get().status == 200
        assert used.at_end()
        assert unused.at_end()


def test_a_body_that_stops_coming(start: Callable[..., Bench], standin: Callable[..., Standin]) -> None:
    bench = start(stall=0.3)
    bench.push([standin("shop").endpoint()])
    with Talk(bench.connect()) as talk:
        talk.send(b"POST /digest HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 100\r\n\r\nabc")
        assert talk.answer().status == 408
        assert talk.at_end()


def test_an_answer_that_is_not_taken(start: Callable[..., Bench], standin: Callable[..., Standin]) -> None:
    bench = start(stall=0.3)
    bench.push([standin("shop").endpoint()])
    with Talk(bench.connect()) as talk:
        talk.send(b"GET /bytes?200000000 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
        for wanted in (1, 0):  # the router gives up on it, by its own account
            while next(iter(bench.handle.counts.values()), {}).get("open") != wanted:
                bench.spin(0.05)
        with pytest.raises(ConnectionResetError):
            talk.file.read()


def test_more_clients_than_there_is_room_for_wait(start: Callable[..., Bench], standin: Callable[..., Standin]) -> None:
    bench = start(clients=3)
    bench.push([standin("shop").endpoint()])
    talks = [Talk(bench.connect()) for _ in range(6)]
    for talk in talks:
        assert talk.get().status == 200  # the later ones once the earlier are gone
        talk.close()


def test_odd_answers_of_services(bench: Bench, standin: Callable[..., Standin]) -> None:
    bench.push([standin("shop", serve=[("answers", "127.0.0.1", 3000)]).endpoint()])
    odd = {
        b"hello\r\n\r\n": "status line",
        b"SSH-2.0-OpenSSH_9.2\r\n": "not HTTP/1.x",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi": "without CR LF",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi": "given twice",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n": "Both Content-Length",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhi": "exactly 'chunked'",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n": "folded",
        b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n": "followed by space",
        b"HTTP/1.1 99 Low\r\n\r\n": "status line",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"a" * 70000 + b"\r\n\r\n": "too large",
        b"": "closed the connection before it answered",
        b"HTTP/1.1 200 O": "closed the connection before it answered",
    }
    for data, says in odd.items():
        answer = ask(bench, data)
        assert (answer.status, says in answer.body.decode()) == (502, True), (data[:60], answer.body)


def ask(bench: Bench, data: bytes) -> Answer:
    """What the client gets when the service answers with `data`."""
    with Talk(bench.connect()) as talk:
        # In the body's place, since a head that large would be refused itself.
        if len(data) > 5000:
            return by_length(talk, data)
        return talk.get("/", "shop.localhost", f"X-Answer: {data.hex()}")


def by_length(talk: Talk, data: bytes) -> Answer:
    """The same for a long answer: the service repeats a part of it."""
    return talk.get("/", "shop.localhost", f"X-Answer: {data[:40].hex()}", f"X-Repeat: {data[40:41].hex()},{len(data) - 40}")


def test_bytes_behind_an_answer_are_not_the_next_one(bench: Bench, standin: Callable[..., Standin]) -> None:
    bench.push([standin("shop", serve=[("answers", "127.0.0.1", 3000)]).endpoint()])
    good = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
    planted = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    with Talk(bench.connect()) as talk:
        assert talk.get("/", "shop.localhost", f"X-Answer: {(good + planted).hex()}", "X-Keep: 1").body == b"hi"
        assert talk.get("/", "shop.localhost", f"X-Answer: {good.hex()}").body == b"hi"


def test_interim_answers_without_end(bench: Bench, standin: Callable[..., Standin]) -> None:
    bench.push([standin("shop", serve=[("answers", "127.0.0.1", 3000)]).endpoint()])
    with Talk(bench.connect()) as talk:
        answer = talk.get("/", "shop.localhost", f"X-Answer: {(b'HTTP/1.1 103 E' + bytes((13, 10, 13, 10))).hex() * 100}")
        for _ in range(200):
            if answer.status != 103:
                break
            answer = talk.answer()
        assert (answer.status, b"without end" in answer.body) == (502, True)
