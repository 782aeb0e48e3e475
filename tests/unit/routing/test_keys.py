"""Keys of requests: what is found, what is forged, what is told of a secret."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.routing.framing import Bounds
from sandboxd.routing.keys import (
    Door,
    cookie_name,
    cookie_value,
    find_key,
    may_create,
    minted,
    named_key,
    network_of,
    secret_of,
    slot_of,
    source_of,
)
from sandboxd.routing.requests import Request, parse_request

SECRET = secret_of(b"s" * 32, 1000, "shop")
CHANCE = bytes(range(16))


def door(*keys, **more):
    return Door(host="shop.localhost", name="shop", owner=1000, secret=SECRET, keys=list(keys), **more)


def request(*lines, target="/"):
    head = "".join(f"{line}\r\n" for line in (f"GET {target} HTTP/1.1", "Host: shop.localhost", *lines)).encode() + b"\r\n"
    return parse_request(head, len(head), Bounds())


def found(at, *lines, target="/", label="", source="10.0.0.1", trusted=False):
    return find_key(at, label, request(*lines, target=target), source, trusted=trusted, chance=CHANCE)


def key(*args, **more):
    made = found(*args, **more)
    return None if made is None else made.key


@pytest.mark.parametrize(
    ("keys", "lines", "more", "expected"),
    [
        (["ip"], [], {}, "ip:10.0.0.1"),
        (["host"], [], {"label": "pr-42"}, "host:pr-42"),
        (["host"], [], {}, None),
        (["path"], [], {"target": "/tenant/x?y=1"}, "path:tenant"),
        (["path"], [], {"target": "/tenant?y=1"}, "path:tenant"),
        (["path"], [], {"target": "/"}, None),
        (["path"], [], {"target": "//x"}, None),
        (["header:X-Tenant"], ["x-tenant:  blue "], {}, "header:blue"),
        (["header:X-Tenant"], ["X-Tenant: a", "X-Tenant: b"], {}, None),
        (["header:X-Tenant"], ["X-Tenant: "], {}, None),
        (["header:X-Tenant"], ["X-Tenant: " + "a" * 257], {}, None),
        (["header:X-Tenant"], ["X-Tenant: \xe9"], {}, None),
        (["token"], ["Authorization: Basic abc"], {}, None),
        (["token", "ip"], [], {}, "ip:10.0.0.1"),
        (["header:X-Tenant", "ip"], ["X-Tenant: blue"], {}, "header:blue"),
        (["ip"], [], {"label": "x"}, None),
        (["host", "ip"], [], {"label": "x"}, "host:x"),
    ],
)
def test_what_is_found(keys, lines, more, expected):
    assert key(door(*keys), *lines, **more) == expected


def test_a_tls_hello_has_its_name_alone():
    hello = Request(b"", b"/", b"1", b"", 0, False, b"a.shop.localhost")

    def of(*keys, label="a"):
        made = find_key(door(*keys), label, hello, "10.0.0.1", trusted=False, chance=CHANCE)
        return made and made.key

    assert of("sni") == "sni:a"
    assert of("host", "sni") == "host:a"
    assert of("cookie", "path", "token", "header:X", label="") is None  # nothing is minted that nobody could be handed
    assert of("ip", label="") == "ip:10.0.0.1"
    assert key(door("sni"), label="a") is None  # of a plain request
    assert named_key(door("sni"), "a") == "sni:a"


def test_a_token_is_known_by_its_hash_alone():
    named = key(door("token"), "Authorization: bearer s3cret")
    assert re.fullmatch(r"token:[0-9a-f]{32}", named)
    assert named == key(door("token"), "Authorization: Bearer s3cret") == named_key(door("token"), "s3cret")
    assert named != key(door("token"), "Authorization: Bearer s3creT")
    other = Door(host="x.localhost", name="x", owner=1000, secret=secret_of(b"s" * 32, 1000, "x"), keys=["token"])
    assert named != key(other, "Authorization: Bearer s3cret")
    two = key(door("token"), "Authorization: Bearer s3cret", "Authorization: Bearer other")
    assert two is None


def test_a_cookie_is_minted_where_there_is_none_and_known_again():
    made = found(door("token", "cookie"))
    assert made.key == f"cookie:{CHANCE.hex()}"
    line = made.cookie.decode()
    assert line.endswith("; Path=/; HttpOnly; SameSite=Lax\r\n")
    shown = line.removeprefix("Set-Cookie: ").partition(";")[0]
    again = found(door("token", "cookie"), f"Cookie: a=b; {shown};c=d")
    assert (again.key, again.cookie) == (made.key, b"")


@given(st.binary(min_size=16, max_size=16), st.integers(0, 64), st.sampled_from("0123456789abcdef.-g"))
def test_no_changed_cookie_is_a_key(chance, place, other):
    at = door("cookie")
    name, value = minted(at, chance)
    text = value.decode()
    forged = text[:place] + other + text[place + 1 :]
    made = found(at, f"Cookie: sandboxd-shop={forged}")
    assert (made.key == name) == (forged == text)
    assert bool(made.cookie) == (forged != text)


def test_the_first_true_one_of_several_cookies_counts():
    at = door("cookie")
    name, value = minted(at, b"x" * 16)
    lines = [f"Cookie: sandboxd-shop=forged; sandboxd-shop={value.decode()}"]
    assert key(at, *lines) == name
    assert key(at, "Cookie: sandboxd-shop=forged", f"cookie: sandboxd-shop={value.decode()}") == name


def test_behind_tls_only_a_cookie_of_this_very_host_counts():
    at = door("cookie")
    _, value = minted(at, CHANCE)
    secure = ["X-Forwarded-Proto: https"]
    made = found(at, *secure, trusted=True)
    assert made.cookie.startswith(b"Set-Cookie: __Host-sandboxd-shop=")
    assert made.cookie.endswith(b"; Secure\r\n")
    assert found(at, *secure, f"Cookie: sandboxd-shop={value.decode()}", trusted=True).cookie
    assert not found(at, *secure, f"Cookie: __Host-sandboxd-shop={value.decode()}", trusted=True).cookie
    assert b"Secure" not in found(at, *secure).cookie  # who says so is not believed


def test_no_kind_can_name_a_key_of_another():
    at = door("header:X-Key", "cookie")
    name, _ = minted(at, CHANCE)
    claimed = key(at, f"X-Key: {name}")
    assert claimed == f"header:{name}" != name
    assert slot_of(SECRET, claimed) != slot_of(SECRET, name)


def test_who_may_have_an_env_made():
    assert may_create(door("cookie", "ip"), "cookie:abc")
    assert not may_create(door("cookie", "ip"), "ip:10.0.0.1")
    assert may_create(door("ip", create=True), "ip:10.0.0.1")


@pytest.mark.parametrize(
    ("keys", "text", "expected"),
    [
        (["host"], "pr-42", "host:pr-42"),
        (["host"], "PR_42", None),
        (["host"], "host:pr-42", "host:pr-42"),
        (["ip"], "::0001", "ip:::1"),
        (["ip"], "ip:10.0.0.1", "ip:10.0.0.1"),
        (["ip"], "nine", None),
        (["path"], "a/b", None),
        (["path", "header:X-T"], "header:b c", "header:b c"),
        (["header:X-T"], "other:b", "header:other:b"),
        (["header:X-T"], "a\r\nb", None),
        (["token"], "a b", None),
        (["cookie"], "a" * 32, f"cookie:{'a' * 32}"),
        (["cookie"], "", None),
    ],
)
def test_keys_as_they_are_named(keys, text, expected):
    assert named_key(door(*keys), text) == expected


def test_a_session_may_have_any_name():
    at = door("cookie")
    name = named_key(at, "alice")
    assert re.fullmatch(r"cookie:[0-9a-f]{32}", name)
    value = cookie_value(SECRET, name.partition(":")[2]).decode()
    assert key(at, f"Cookie: {cookie_name(at, secure=False).decode()}={value}") == name


@pytest.mark.parametrize(
    ("peer", "forwarded", "trusted", "expected"),
    [
        ("10.0.0.1", b"", False, "10.0.0.1"),
        ("10.0.0.1", b"1.2.3.4, ", False, "10.0.0.1"),
        ("10.0.0.1", b"9.9.9.9, 1.2.3.4, ", True, "1.2.3.4"),
        ("10.0.0.1", b"unknown, ", True, "10.0.0.1"),
        ("::ffff:10.0.0.1", b"", False, "10.0.0.1"),
    ],
)
def test_where_a_request_comes_from(peer, forwarded, trusted, expected):
    assert source_of(peer, forwarded, trusted=trusted) == expected


def test_a_host_of_ipv6_counts_as_its_network():
    assert network_of("2001:db8:1:2:3::4") == network_of("2001:db8:1:2::9") == "2001:db8:1:2::/64"
    assert network_of("10.0.0.1") == "10.0.0.1"
    assert network_of("fe80::1%eth0") == "fe80::1%eth0" or network_of("fe80::1%eth0").endswith("/64")
