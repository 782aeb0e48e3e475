"""Requests find their envs, and each form of message passes unharmed.

So of sandboxd.router.client, sandboxd.router.exchange, sandboxd.router.upstream and sandboxd.router.bodies.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable

from tests.router.servers import pattern
from tests.router.standin import Bench, Standin, rested, settle
from tests.router.talk import Talk


def test_each_request_of_a_kept_connection_goes_where_its_host_says(bench: Bench, standin: Callable[..., Standin]) -> None:
    envs = [standin(name) for name in ("shop", "blog")]
    bench.push([env.endpoint() for env in envs])
    with Talk(bench.connect()) as talk:
        served = [talk.get(host=f"{name}.localhost").body for name in ("shop", "blog", "shop", "shop", "blog")]
    # The number is the service's own count on that connection: each is kept and used again.
    assert served == [b"shop 1\n", b"blog 1\n", b"shop 2\n", b"shop 3\n", b"blog 2\n"]


def test_no_connection_to_a_service_is_shared_between_clients_or_handed_on(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as one, Talk(bench.connect()) as two:
        for number in range(1, 4):  # of requests on its own connection, which the service counts
            assert one.get().body == two.get().body == b"shop %d\n" % number
    with Talk(bench.connect()) as three:
        assert three.get().body == b"shop 1\n"


def test_host_is_matched_in_any_spelling(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        for host in ("shop.localhost", "SHOP.Localhost", "shop.localhost:7070", "shop.localhost."):
            assert talk.get(host=host).status == 200
        assert talk.get(host="shop").status == 404
        assert talk.get(host="xshop.localhost").status == 404


def test_the_service_sees_the_host_and_where_it_came_from(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        seen = talk.get("/show", "shop.localhost:7070", "X-Forwarded-For: 10.0.0.1", "Connection: X-Secret", "X-Secret: 1").body
    assert b"Host: shop.localhost:7070\r\n" in seen
    assert b"X-Forwarded-For: 127.0.0.1\r\n" in seen  # what it says itself is not believed
    assert b"X-Forwarded-Host: shop.localhost:7070\r\n" in seen
    assert b'Forwarded: for=127.0.0.1;proto=http;host="shop.localhost:7070"\r\n' in seen
    assert b"10.0.0.1" not in seen
    assert b"X-Secret" not in seen  # named in Connection: for the hop to us alone


def test_absolute_form_becomes_origin_form(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        talk.send(b"GET http://shop.localhost/show?x=1 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
        assert talk.answer().body.startswith(b"GET /show?x=1 HTTP/1.1\r\nHost: shop.localhost\r\n")


def test_head_has_no_body_and_the_connection_goes_on(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        head = talk.get(method="HEAD")
        assert (head.status, head.fields["content-length"]) == (200, "7")
        assert talk.get().body == b"shop 2\n"


def test_answers_without_bodies(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        assert talk.get("/empty?204").status == 204
        not_modified = talk.get("/empty?304")
        assert (not_modified.status, not_modified.fields["content-length"]) == (304, "5")
        assert talk.get().body == b"shop 3\n"


def test_interim_answers_pass(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        hints = talk.get("/hints")
        assert (hints.status, hints.fields["link"]) == (103, "</a.css>")
        assert talk.answer().body == b"after hints"


def test_a_client_waits_for_100_and_gets_it(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        first = talk.get("/continued", "shop.localhost", "Content-Length: 5", "Expect: 100-continue", method="POST")
        assert first.status == 100
        talk.send(b"hello")
        assert json.loads(talk.answer().body)[:2] == [5, hashlib.sha256(b"hello").hexdigest()]
        assert talk.get().status == 200


def test_refusal_instead_of_100_ends_the_connection(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        refused = talk.get("/refused-early", "shop.localhost", "Content-Length: 5", "Expect: 100-continue", method="POST")
        assert (refused.status, refused.fields["connection"]) == (413, "close")
        assert talk.at_end()


def test_chunked_both_ways_with_trailers(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        talk.send(
            b"POST /digest HTTP/1.1\r\nHost: shop.localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"5;note=a\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n"
        )
        assert json.loads(talk.answer().body) == [11, hashlib.sha256(b"hello world").hexdigest(), ["X-Sum: 1"]]
        answer = talk.get("/chunked?1000,7")
        assert (answer.body, answer.trailers) == (pattern(1000) * 7, b"X-Sum: 7\r\n")
        assert talk.get().body == b"shop 3\n"


def test_large_chunks_are_counted_by_their_sizes(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        assert talk.get("/chunked?1000000,5").body == pattern(1000000) * 5
        block = pattern(700_000)
        talk.send(b"POST /digest HTTP/1.1\r\nHost: shop.localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(5):
            talk.send(b"%x\r\n%b\r\n" % (len(block), block))
        talk.send(b"0\r\n\r\n")
        assert json.loads(talk.answer().body)[:2] == [3_500_000, hashlib.sha256(block * 5).hexdigest()]
        assert talk.get().status == 200


def test_a_chunked_body_that_trickles(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        head = b"POST /digest HTTP/1.1\r\nHost: shop.localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        for byte in head + b"3\r\nabc\r\n1\r\nd\r\n0\r\nA: b\r\n\r\n":
            talk.send(bytes((byte,)))
        assert json.loads(talk.answer().body) == [4, hashlib.sha256(b"abcd").hexdigest(), ["A: b"]]


def test_what_is_remembered_of_a_head_is_no_stand_in_for_one_that_has_not_come(bench: Bench, shop: Standin) -> None:
    """The buffer is shared: behind the few bytes that came stand the whole heads of others, byte for byte what is awaited."""
    with Talk(bench.connect()) as talk, Talk(bench.connect()) as other:
        for number in range(6):
            assert other.get(f"/same?{number}").body == b"same%d\n" % number
            assert talk.get(f"/same?{number}").body == b"same%d\n" % number
        for number in range(3):
            assert other.get("/same?7").body == b"same7\n"
            assert talk.get(f"/trickle?{number}").body == b"same%d\n" % number
        request = b"GET /same?8 HTTP/1.1\r\nHost: shop.localhost\r\n\r\n"
        for _ in range(3):
            assert other.send(request).answer().body == b"same8\n"
            for at in range(0, len(request), 7):
                talk.send(request[at : at + 7])
                bench.spin(0.001)
            assert talk.answer().body == b"same8\n"


def test_repeated_heads_follow_the_table(bench: Bench, standin: Callable[..., Standin]) -> None:
    shop, blog = standin("shop"), standin("blog")
    bench.push([shop.endpoint(), blog.endpoint()])
    with Talk(bench.connect()) as talk:
        assert [talk.get().body for _ in range(4)] == [b"shop %d\n" % number for number in range(1, 5)]
        bench.push([blog.endpoint(name="shop"), shop.endpoint(name="blog")])
        assert talk.get().body == b"blog 1\n"
        bench.push([])
        assert talk.get().status == 404
        bench.push([shop.endpoint(owner=os.getuid() + 1)])
        assert talk.get().status == 403


def test_pipelined_requests_are_answered_in_turn(bench: Bench, standin: Callable[..., Standin]) -> None:
    envs = [standin(name) for name in ("shop", "blog")]
    bench.push([env.endpoint() for env in envs])
    one = b"GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n"
    other = b"POST /digest HTTP/1.1\r\nHost: blog.localhost\r\nContent-Length: 3\r\n\r\nabc"
    unknown = b"GET / HTTP/1.1\r\nHost: nobody.localhost\r\n\r\n"
    with Talk(bench.connect()) as talk:
        talk.send((one + other + unknown) * 20)
        for turn in range(20):
            assert talk.answer().body == b"shop %d\n" % (turn + 1)
            assert json.loads(talk.answer().body)[0] == 3
            assert talk.answer().status == 404


def test_a_thousand_pipelined_refusals_need_no_stack(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        talk.send(b"GET / HTTP/1.1\r\nHost: no.one\r\n\r\n" * 1500)
        assert [talk.answer().status for _ in range(1500)] == [404] * 1500


def test_http_1_0(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        talk.send(b"GET / HTTP/1.0\r\nHost: shop.localhost\r\n\r\n")
        assert talk.answer().body == b"shop 1\n"
        assert talk.at_end()
    with Talk(bench.connect()) as talk:
        for _ in range(2):
            talk.send(b"GET / HTTP/1.0\r\nHost: shop.localhost\r\nConnection: keep-alive\r\n\r\n")
            answer = talk.answer()
            assert (answer.body, answer.fields["connection"]) == (b"shop 1\n", "keep-alive")
    with Talk(bench.connect()) as talk:
        assert talk.send(b"GET / HTTP/1.0\r\n\r\n").answer().status == 404


def test_an_answer_that_lasts_until_close(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        answer = talk.get("/until-close?300000")
        assert (answer.fields["connection"], answer.body) == ("close", pattern(300000))


def test_streamed_pieces_arrive_when_they_are_sent(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk, Talk(bench.connect()) as other:
        talk.send(b"GET /gated HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
        talk.head()
        assert talk.file.readline() + talk.file.readline() == b"3\r\none\r\n"  # the other piece is not sent before this came
        assert other.get("/open-gate").body == b"open"
        assert talk.file.readline() + talk.file.readline() == b"3\r\ntwo\r\n"


def test_server_sent_events_and_a_client_that_leaves(bench: Bench, shop: Standin) -> None:
    before = rested(bench)
    talks = [Talk(bench.connect()) for _ in range(40)]
    for talk in talks:
        talk.send(b"GET /events HTTP/1.1\r\nHost: shop.localhost\r\nAccept: text/event-stream\r\n\r\n")
    for talk in talks:
        talk.head()
        assert [talk.file.readline() for _ in range(4)] == [b"data: 0\n", b"\n", b"data: 1\n", b"\n"]
        talk.close()
    settle(bench, before + 16)  # so many sockets may be kept ready after such a rush


def test_the_client_may_half_close_after_its_request(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        talk.send(
            b"GET /chunked?1000,100 HTTP/1.1\r\nHost: shop.localhost\r\n\r\nGET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n"
        )
        talk.sock.shutdown(1)
        assert talk.answer().body == pattern(1000) * 100
        assert talk.answer().body == b"shop 2\n"
        assert talk.at_end()


def test_a_service_that_takes_one_connection_at_a_time(bench: Bench, standin: Callable[..., Standin]) -> None:
    env = standin("shop", serve=[("single", "127.0.0.1", 3000)])
    bench.push([env.endpoint()])
    for _ in range(5):  # a connection kept by a pool, or made ahead, would block the one after it for good
        with Talk(bench.connect()) as talk:
            assert talk.get().body == b"shop 1\n"


def test_ipv4_only_ipv6_only_and_both(bench: Bench, standin: Callable[..., Standin]) -> None:
    four, six = ("http", "127.0.0.1", 3000), ("http", "::1", 3000)
    envs = [standin("four", serve=[four]), standin("six", serve=[six]), standin("both", serve=[four, six])]
    envs.append(standin("old", serve=[four], dial="no_ipv6"))
    bench.push([env.endpoint() for env in envs])
    for _ in range(2):
        for env in envs:
            with Talk(bench.connect()) as talk:
                assert talk.get(host=f"{env.name}.localhost").body == f"{env.name} 1\n".encode()


def test_ten_envs_on_one_port(bench: Bench, standin: Callable[..., Standin]) -> None:
    envs = [standin(f"twin{number}") for number in range(10)]
    bench.push([env.endpoint() for env in envs])
    with Talk(bench.connect()) as talk:
        for env in envs:
            assert re.match(rf"{env.name} \d+\n", talk.get(host=f"{env.name}.localhost").body.decode())
