"""Rules: sandboxd.routing.rules, sandboxd.routing.table and sandboxd.routing.forwarded."""

from collections import Counter

import pytest

from sandboxd.routing.forwarded import is_trusted, own, told
from sandboxd.routing.rules import Choices, Rule, begins, has_cookie, has_header, stripped


def rule(endpoint: int, **how: object) -> Rule:
    """A rule of one host."""
    return Rule(host="shop.localhost", endpoint=endpoint, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("target", "path", "fits"),
    [
        (b"/api", b"/api", True),
        (b"/api/x", b"/api", True),
        (b"/api?x", b"/api", True),
        (b"/apis", b"/api", False),
        (b"/API", b"/api", False),
        (b"/%61pi", b"/api", False),
        (b"/", b"", True),
        (b"*", b"", True),
    ],
)
def test_paths_are_whole_segments_as_they_came(target: bytes, path: bytes, fits: bool) -> None:
    assert begins(target, path) is fits


def test_what_is_left_of_a_stripped_path_is_a_path() -> None:
    assert stripped(b"/api/x?y", "/api/") == b"/x?y"
    assert stripped(b"/api", "/api") == b"/"
    assert stripped(b"/api?y", "/api") == b"/?y"


def test_headers_and_cookies() -> None:
    fields = b'Host: a\r\nX-Canary:  1 \r\nCookie: a=1; canary=yes; b="2"\r\nX-Cookie: no=1\r\n'
    assert has_header(fields, "x-canary", "1")
    assert has_header(fields, "x-canary", "*")
    assert not has_header(fields, "x-canary", "11")
    assert not has_header(fields, "canary", "*")
    assert has_cookie(fields, "canary", "yes")
    assert has_cookie(fields, "b", "2")
    assert not has_cookie(fields, "no", "1")
    assert not has_cookie(fields, "anary", "yes")


def test_the_longest_path_then_the_most_conditions() -> None:
    choices = Choices(
        [
            rule(0),
            rule(1, path="/api"),
            rule(2, path="/api/v2"),
            rule(3, header={"X-A": "1"}),
            rule(4, path="/api", cookie={"c": "1"}),
        ],
        frozenset(),
    )

    def chosen(target: bytes, fields: bytes = b"") -> int:
        found = choices.choose(target, fields, 0.5)
        assert found is not None
        return found.endpoint

    assert chosen(b"/") == 0
    assert chosen(b"/api/x") == 1
    assert chosen(b"/api/v2/x", b"Cookie: c=1\r\n") == 2
    assert chosen(b"/", b"x-a: 1\r\n") == 3
    assert chosen(b"/api", b"Cookie: c=1\r\nX-A: 1\r\n") == 4
    assert Choices([rule(1, path="/api")], frozenset()).choose(b"/", b"", 0.0) is None


def test_weights_and_the_dead() -> None:
    rules = [rule(0, weight=90), rule(1, weight=10), rule(2, weight=0)]
    choices = Choices(rules, frozenset())
    found = Counter(one.endpoint for at in range(1000) if (one := choices.choose(b"/", b"", at / 1000)))
    assert found == {0: 900, 1: 100}
    assert {Choices(rules, frozenset({0})).choose(b"/", b"", at / 10).endpoint for at in range(10)} == {1}  # type: ignore[union-attr]
    assert Choices(rules, frozenset({0, 1, 2})).choose(b"/", b"", 0.0) == rules[0]


def test_where_a_request_came_from() -> None:
    assert own(b"10.0.0.1", b"shop.localhost") == (
        b"X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: shop.localhost\r\n"
        b"Forwarded: for=10.0.0.1;proto=http;host=shop.localhost\r\n\r\n"
    )
    assert own(b"::1", b"a:7070").endswith(b'Forwarded: for="[::1]";proto=http;host="a:7070"\r\n\r\n')
    assert own(b"1.2.3.4", None).endswith(b"\r\nForwarded: for=1.2.3.4;proto=http\r\n\r\n")
    assert told(b"10.0.0.1", b"a", b"9.9.9.9, ", b"for=9.9.9.9, ", b"https", b"pub") == (
        b"X-Forwarded-For: 9.9.9.9, 10.0.0.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: pub\r\n"
        b"Forwarded: for=9.9.9.9, for=10.0.0.1;proto=https;host=pub\r\n\r\n"
    )


def test_who_is_trusted() -> None:
    assert is_trusted("10.1.2.3", ("10.0.0.0/8",))
    assert is_trusted("::ffff:10.1.2.3", ("10.0.0.0/8",))
    assert not is_trusted("11.1.2.3", ("10.0.0.0/8", "::1"))
    assert is_trusted("::1", ("10.0.0.0/8", "::1"))
    assert is_trusted("fe80::1%eth0", ("fe80::/10",))
