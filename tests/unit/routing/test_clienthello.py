"""The name in a TLS client's first bytes: of a real client, cut anywhere, and broken anyhow."""

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.routing.clienthello import HelloError, server_name


def hello(name: str | None) -> bytes:
    """What OpenSSL says first."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_the_name_of_a_real_client() -> None:
    assert server_name(hello("Api.Example.org")) == "api.example.org"
    assert server_name(hello(None)) == ""


def test_it_waits_for_every_byte() -> None:
    whole = hello("api.example.org")
    for end in range(len(whole)):
        assert server_name(whole[:end]) is None
    assert server_name(whole + b"more") == "api.example.org"


def test_a_hello_in_several_records() -> None:
    whole = hello("api.example.org")
    body = whole[5:]
    cut = b"".join(whole[:3] + len(part).to_bytes(2, "big") + part for part in (body[:7], body[7:90], body[90:]))
    assert server_name(cut) == "api.example.org"


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", b"SSH-2.0-x\r\n", b"\x16\x02\x00", b"\x80\x2e\x01"])
def test_what_is_no_tls_names_nobody(data: bytes) -> None:
    assert server_name(data) == ""


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff",
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
        b"\x16\x03\x01\x00\x04\x01\x00\x00\x00",
        b"\x16\x03\x01\x00\x01\x01\x17\x03\x03\x00\x01\x00",
    ],
)
def test_what_begins_as_tls_and_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(HelloError):
        server_name(data)


@given(st.binary(max_size=200), st.integers(0, 500))
def test_nothing_else_comes_of_any_bytes(junk: bytes, at: int) -> None:
    whole = bytearray(hello("api.example.org"))
    whole[at : at + len(junk)] = junk
    for data in (junk, bytes(whole), b"\x16\x03\x01" + junk):
        try:
            assert server_name(data) is None or isinstance(server_name(data), str)
        except HelloError:
            continue
