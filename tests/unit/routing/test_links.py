"""A link's token: found, taken out of the target, and nothing else let in for it."""

import pytest

from sandboxd.routing.framing import Bounds
from sandboxd.routing.links import Shown, moved, needed, shown
from sandboxd.routing.requests import Request, parse_request

TOKEN = "abcdefghijklmnop-_012345"


def request(target: str, *fields: str) -> Request:
    head = "\r\n".join([f"GET {target} HTTP/1.1", "Host: shop.localhost", *fields, "", ""]).encode()
    found = parse_request(head, len(head), Bounds())
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("target", "left"),
    [
        (f"/?sandboxd-link={TOKEN}", "/"),
        (f"/a?sandboxd-link={TOKEN}&b=1", "/a?b=1"),
        (f"/a?b=1&sandboxd-link={TOKEN}", "/a?b=1"),
        (f"/a?b=1&sandboxd-link={TOKEN}&c=2", "/a?b=1&c=2"),
    ],
)
def test_it_is_taken_out_and_becomes_a_cookie(target: str, left: str) -> None:
    found = shown(request(target), TOKEN, trusted=False)
    assert found is not None
    assert found.target == left.encode()
    line = b"Set-Cookie: sandboxd-link=%b; Path=/; HttpOnly; SameSite=Lax\r\n" % TOKEN.encode()
    assert found.cookie == line
    assert shown(request("/x", f"Cookie: a=b; sandboxd-link={TOKEN}"), TOKEN, trusted=False) == Shown(b"/x")


def test_over_tls_only_this_host_sets_it() -> None:
    secure = "X-Forwarded-Proto: https"
    found = shown(request(f"/?sandboxd-link={TOKEN}", secure), TOKEN, trusted=True)
    assert found is not None
    assert found.cookie.startswith(b"Set-Cookie: __Host-sandboxd-link=")
    assert found.cookie.endswith(b"; Secure\r\n")
    assert shown(request("/", secure, f"Cookie: __Host-sandboxd-link={TOKEN}"), TOKEN, trusted=True) == Shown(b"/")
    assert shown(request("/", secure, f"Cookie: sandboxd-link={TOKEN}"), TOKEN, trusted=True) is None


@pytest.mark.parametrize(
    ("target", "fields"),
    [
        ("/", []),
        (f"/?sandboxd-link={TOKEN}x", []),
        (f"/?sandboxd-link={TOKEN[:-1]}", []),
        (f"/?xsandboxd-link={TOKEN}", []),
        (f"/sandboxd-link={TOKEN}", []),
        ("/?sandboxd-link=", []),
        ("/", ["Cookie: sandboxd-link="]),
        ("/", [f"Cookie: sandboxd-link={TOKEN.upper()}"]),
        ("/", [f"X-Cookie: sandboxd-link={TOKEN}"]),
        ("/", [f"Referer: http://shop.localhost/?sandboxd-link={TOKEN}"]),
    ],
)
def test_nothing_else_shows_it(target: str, fields: list[str]) -> None:
    assert shown(request(target, *fields), TOKEN, trusted=False) is None


def test_no_token_is_shown_by_nothing() -> None:
    assert shown(request("/", "Cookie: sandboxd-link="), "", trusted=False) is None
    assert shown(request(f"/?sandboxd-link={TOKEN}"), "", trusted=False) is None


@pytest.mark.parametrize(("target", "place"), [(b"/a?b", "/a?b"), (b"//evil.example/", "/evil.example/"), (b"*", "/")])
def test_it_goes_on_here_and_nowhere_else(target: bytes, place: str) -> None:
    assert moved(target).field == f"Location: {place}"
    assert (moved(target).status, needed().status) == (303, 403)
