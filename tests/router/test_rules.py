"""Requests told apart by more than their host, and what services are told of where they came from."""

import socket
from collections import Counter
from collections.abc import Callable

import pytest

from sandboxd.routing.rules import Rule
from tests.router.standin import Bench, Standin
from tests.router.talk import Talk

SHOP = "shop.localhost"


def test_each_request_goes_by_path_header_and_cookie(bench: Bench, standin: Callable[..., Standin]) -> None:
    envs = [standin(name) for name in ("shop", "api", "beta", "mine")]
    bench.push(
        [env.endpoint() for env in envs],
        rules=[
            Rule(host=SHOP, endpoint=1, path="/api", strip=True),
            Rule(host=SHOP, endpoint=2, header={"X-Beta": "1"}),
            Rule(host=SHOP, endpoint=3, cookie={"who": "me"}),
        ],
    )
    with Talk(bench.connect()) as talk:
        for _ in range(3):  # the same heads again: what is remembered of one is no answer for another
            assert talk.get("/", SHOP).body.startswith(b"shop ")
            assert talk.get("/api", SHOP).body.startswith(b"api ")
            assert talk.get("/apis", SHOP).status in (200, 404)
            assert talk.get("/", SHOP, "X-Beta: 1").body.startswith(b"beta ")
            assert talk.get("/", SHOP, "Cookie: a=b; who=me").body.startswith(b"mine ")
        seen = talk.get("/api/show?x=1", SHOP).body
    assert seen.startswith(b"GET /show?x=1 HTTP/1.1\r\n")


def test_weights_are_shares_and_the_stopped_get_none(bench: Bench, standin: Callable[..., Standin]) -> None:
    envs = [standin(name) for name in ("shop", "next")]
    rules = [Rule(host=SHOP, endpoint=1, weight=100)]
    bench.push([env.endpoint() for env in envs], rules=rules)
    with Talk(bench.connect()) as talk:
        found = Counter(talk.get("/", SHOP).body.split()[0] for _ in range(200))
        assert min(found[b"shop"], found[b"next"]) > 50
        bench.push([envs[0].endpoint(), envs[1].endpoint(state="stopped")], rules=rules)
        assert {talk.get("/", SHOP).body.split()[0] for _ in range(20)} == {b"shop"}


def test_a_name_that_only_a_rule_has(bench: Bench, shop: Standin) -> None:
    bench.push([shop.endpoint()], rules=[Rule(host="pub.example", endpoint=0, path="/open")])
    with Talk(bench.connect()) as talk:
        assert talk.get("/open", "pub.example").status in (200, 404)
        assert talk.get("/open", "pub.example").head.find(b"sandboxd") < 0
        assert talk.get("/", "pub.example").status == 404


def test_a_rule_asks_who_may_come_in_as_a_name_does(bench: Bench, shop: Standin) -> None:
    bench.push(
        [shop.endpoint(), shop.endpoint(owner=12345, service="b")],
        hosts={SHOP: 0},
        rules=[Rule(host=SHOP, endpoint=1, path="/b")],
    )
    with Talk(bench.connect()) as talk:
        assert talk.get("/", SHOP).status == 200
        assert talk.get("/b", SHOP).status == 403


def test_a_listed_proxy_is_believed(start: Callable[..., Bench], standin: Callable[..., Standin]) -> None:
    bench = start(trusted=("127.0.0.0/8",))
    bench.push([standin("shop").endpoint()])
    fields = ["X-Forwarded-For: 10.0.0.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: pub", "Forwarded: for=10.0.0.1"]
    with Talk(bench.connect()) as talk:
        seen = talk.get("/show", SHOP, *fields).body
    assert b"X-Forwarded-For: 10.0.0.1, 127.0.0.1\r\n" in seen
    assert b"X-Forwarded-Proto: https\r\nX-Forwarded-Host: pub\r\n" in seen
    assert b"Forwarded: for=10.0.0.1, for=127.0.0.1;proto=https;host=pub\r\n" in seen
    assert seen.lower().count(b"forwarded-for") == 1


def test_one_address_takes_no_more_than_its_share(start: Callable[..., Bench], standin: Callable[..., Standin]) -> None:
    bench = start(per_source=3)
    bench.push([standin("shop").endpoint()])
    talks = [Talk(bench.connect()) for _ in range(3)]
    assert [talk.get("/", SHOP).status for talk in talks] == [200] * 3
    with pytest.raises((ConnectionResetError, BrokenPipeError)), Talk(bench.connect()) as more:
        more.get("/", SHOP)
    other = socket.create_connection(("127.0.0.1", bench.port), 30, source_address=("127.0.0.2", 0))
    with Talk(other) as talk:  # others are not held up
        assert talk.get("/", SHOP).status == 200
    assert talks[0].get("/", SHOP).status == 200
    for talk in talks:
        talk.close()
    while True:  # what was let go of is free again, once the router has seen it go
        try:
            with Talk(bench.connect()) as talk:
                assert talk.get("/", SHOP).status == 200
            break
        except (ConnectionResetError, BrokenPipeError):
            bench.spin(0.02)


def test_a_trusted_proxy_has_no_share(start: Callable[..., Bench], standin: Callable[..., Standin]) -> None:
    bench = start(per_source=1, trusted=("127.0.0.1",))
    bench.push([standin("shop").endpoint()])
    with Talk(bench.connect()) as one, Talk(bench.connect()) as two:
        assert (one.get("/", SHOP).status, two.get("/", SHOP).status) == (200, 200)
