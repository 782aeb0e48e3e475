"""What a program says to a proxy: fed whole and byte by byte, the same comes of it."""

import pytest

from sandboxd.routing.proxying import DENIED, GRANTED, MOST_HEAD, UNREACHABLE, Asked, Conversation, Refused

SOCKS_OK = b"\5\0\0\1\0\0\0\0\0\0"
HELLO = b"\5\1\0"


def fed(data: bytes, step: int) -> tuple[bytes, Asked | None]:
    """What it answered, and where to."""
    talk, said = Conversation(), b""
    for at in range(0, len(data), step):
        said += talk.feed(data[at : at + step])
    return said, talk.asked


@pytest.mark.parametrize("step", [1, 7, 1 << 16])
@pytest.mark.parametrize(
    ("data", "said", "asked"),
    [
        (b"CONNECT A.example.:443 HTTP/1.1\r\nHost: x\r\n\r\n", b"", Asked("a.example", 443, GRANTED, b"")),
        (b"CONNECT [::1]:443 HTTP/1.1\r\n\r\n", b"", Asked("::1", 443, GRANTED, b"")),
        (
            b"GET http://a.example/x?y HTTP/1.1\r\nHost: liar\r\nProxy-Connection: keep-alive\r\nA: b\r\n\r\n",
            b"",
            Asked("a.example", 80, b"", b"GET /x?y HTTP/1.1\r\nHost: a.example\r\nA: b\r\nConnection: close\r\n\r\n"),
        ),
        (
            b"GET http://a.example:81?y HTTP/1.0\r\n\r\n",
            b"",
            Asked("a.example", 81, b"", b"GET /?y HTTP/1.0\r\nHost: a.example:81\r\nConnection: close\r\n\r\n"),
        ),
        (HELLO + b"\5\1\0\3\x09a.example\1\xbb", b"\5\0", Asked("a.example", 443, SOCKS_OK, b"")),
        (HELLO + b"\5\1\0\1\x0a\0\0\1\0\x50", b"\5\0", Asked("10.0.0.1", 80, SOCKS_OK, b"")),
        (b"\5\2\2\0" + b"\5\1\0\4" + bytes(15) + b"\1\0\x50", b"\5\0", Asked("::1", 80, SOCKS_OK, b"")),
        (HELLO + b"\5\1\0\3\x09a.exa", b"\5\0", None),
        (b"CONNECT a.example:443 HTTP/1.1\r\n", b"", None),
    ],
)
def test_each_language_is_understood(data: bytes, said: bytes, asked: Asked | None, step: int) -> None:
    assert fed(data, step) == (said, asked)


def test_a_body_goes_along() -> None:
    _, asked = fed(b"POST http://a/ HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi", 1 << 16)
    assert asked is not None
    assert asked.first.endswith(b"\r\n\r\nhi")


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"),
        (b"GET ftp://a/ HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"),
        (b"CONNECT a HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"),
        (b"CONNECT a:0 HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"),
        (b"CONNECT a:70000 HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"),
        (b"CONNECT a:443 HTTP/1.1\r\n\r\nearly", b"HTTP/1.1 400"),
        (b"CONNECT u@a:443 HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"),
        (b"GET http://a/ HTTP/1.1\r\n folded: x\r\n\r\n", b"HTTP/1.1 400"),
        (b"GET http://a/ HTTP/1.1\r\nA: " + b"x" * MOST_HEAD, b"HTTP/1.1 400"),
        (b"\0\0\r\n\r\n", b"HTTP/1.1 400"),
        (b"\5\1\2", b"\5\xff"),
        (HELLO + b"\5\2\0\1\x0a\0\0\1\0\x50", b"\5\7"),
        (HELLO + b"\5\1\0\7\x0a\0\0\1\0\x50", b"\5\7"),
        (HELLO + b"\5\1\0\3\x03a b\0\x50", b"\5\7"),
        (HELLO + b"\5\1\0\1\x0a\0\0\1\0\0", b"\5\7"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_its_language(data: bytes, reply: bytes) -> None:
    with pytest.raises(Refused) as refused:
        fed(data, 1 << 16)
    assert refused.value.reply.startswith(reply)


def test_a_denial_is_told_in_its_language() -> None:
    socks, http = Conversation(), Conversation()
    socks.feed(HELLO + b"\5\1\0\1\x0a\0\0\1\0\x50")
    http.feed(b"CONNECT a:443 HTTP/1.1\r\n\r\n")
    assert (socks.refusal(DENIED, "x")[1], socks.refusal(UNREACHABLE, "x")[1]) == (2, 4)
    told = http.refusal(DENIED, "no rule gives it")
    assert told.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert told.endswith(b"\r\n\r\nsandboxd: no rule gives it\n")
