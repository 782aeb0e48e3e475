"""ClientHellos: real ones by OpenSSL in any pieces and records, and what is none."""

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.routing import hello
from sandboxd.routing.hello import HelloError, alert, server_name


def real(name: str | None, *, alpn: tuple[str, ...] = ("h2", "http/1.1")) -> bytes:
    """What OpenSSL begins with."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.set_alpn_protocols(list(alpn))
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


def made(*extensions: bytes, head: bytes = b"\x01", tail: bytes = b"") -> bytes:
    """A hello with these extensions and nothing else of interest."""
    listed = b"".join(extensions)
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0" + len(listed).to_bytes(2, "big") + listed + tail
    message = head + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x01" + len(message).to_bytes(2, "big") + message


def named(name: bytes, *, kind: int = 0, more: bytes = b"") -> bytes:
    """A server_name extension."""
    entry = bytes((kind,)) + len(name).to_bytes(2, "big") + name + more
    listed = len(entry).to_bytes(2, "big") + entry
    return b"\0\0" + len(listed).to_bytes(2, "big") + listed


def in_records(data: bytes, size: int) -> bytes:
    """The same handshake in records of that many bytes."""
    message = data[5:]
    pieces = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces)


def refusal(data: bytes) -> int:
    with pytest.raises(HelloError) as refused:
        server_name(data)
    assert str(refused.value) == refused.value.reason != ""
    return refused.value.alert


def test_a_real_hello_in_any_pieces_and_records() -> None:
    data = real("Shop.Localhost")
    assert server_name(data) == b"shop.localhost"
    assert server_name(data + b"\x14\x03\x03\0\x01\x01") == b"shop.localhost"
    for stop in range(len(data)):
        assert server_name(data[:stop]) is None
    for size in (1, 3, 4, 5, 100, 300):
        assert server_name(in_records(data, size)) == b"shop.localhost"


def test_a_made_one() -> None:
    assert server_name(made(b"\x0a\x0a\0\0", named(b"a.localhost"), b"\0\x2b\0\x03\x02\x03\x04")) == b"a.localhost"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (real(None), hello.UNRECOGNIZED_NAME),
        (made(), hello.UNRECOGNIZED_NAME),
        (made(named(b"")), hello.UNRECOGNIZED_NAME),
        (made(named(b"a..b")), hello.UNRECOGNIZED_NAME),
        (made(named(b"a.localhost.")), hello.UNRECOGNIZED_NAME),
        (made(named(b"a\0.localhost")), hello.UNRECOGNIZED_NAME),
        (made(named(b"a/b")), hello.UNRECOGNIZED_NAME),
        (made(named(b"a.b:443")), hello.UNRECOGNIZED_NAME),
        (made(named(b"\xc3\xb6.localhost")), hello.UNRECOGNIZED_NAME),
        (made(named(b"a" * 64)), hello.UNRECOGNIZED_NAME),
        (made(named(b"a." * 140 + b"a")), hello.UNRECOGNIZED_NAME),
        (made(named(b"a"), named(b"a")), hello.DECODE_ERROR),
        (made(named(b"a", kind=1)), hello.DECODE_ERROR),
        (made(named(b"a", more=b"\0\0\x01b")), hello.DECODE_ERROR),
        (made(named(b"a")[:-1] + b""), hello.DECODE_ERROR),
        (made(named(b"a"), tail=b"x"), hello.DECODE_ERROR),
        (made(b"\0\0\0\x05\0\x02\0\0\x01"), hello.DECODE_ERROR),
        (made(b"\0\x10\xff\xff"), hello.DECODE_ERROR),
        (made(head=b"\x02"), hello.UNEXPECTED_MESSAGE),
        (b"\x17\x03\x01", hello.UNEXPECTED_MESSAGE),
        (b"\x16\x02", hello.DECODE_ERROR),
        (b"\x16\x03\x01\0\0", hello.DECODE_ERROR),
        (b"\x16\x03\x01\x40\x01", hello.DECODE_ERROR),
        (b"\x16\x03\x01\0\x04\x01\xff\xff\xff", hello.DECODE_ERROR),
        (b"\x16\x03\x01\0\x01\x01" * 3000, hello.DECODE_ERROR),
    ],
)
def test_what_is_no_hello_is_told_so(data: bytes, told: int) -> None:
    assert refusal(data) == told


def test_what_does_not_end_is_bounded() -> None:
    endless = in_records(b"\x16\x03\x01\0\0" + b"\x01\0\x40\0" + bytes(20000), 1)
    assert refusal(endless[: hello.MOST_HELLO]) == hello.DECODE_ERROR


@given(st.binary(max_size=200), st.integers(0, 300), st.binary(max_size=4))
def test_any_bytes_are_a_name_unfinished_or_refused(data: bytes, at: int, put: bytes) -> None:
    good = made(named(b"a.localhost"), b"\0\x2b\0\x03\x02\x03\x04")
    for bytes_given in (data, b"\x16\x03\x01" + data, good[:at] + put + good[at + len(put) :]):
        name, told = None, hello.DECODE_ERROR
        try:
            name = server_name(bytes_given)
        except HelloError as error:
            told = error.alert
        assert told in (hello.UNEXPECTED_MESSAGE, hello.DECODE_ERROR, hello.UNRECOGNIZED_NAME)
        assert name is None or hello.NAME.fullmatch(name)


def test_an_alert_is_one_record() -> None:
    assert alert(hello.UNRECOGNIZED_NAME) == bytes.fromhex("15030300020270")
