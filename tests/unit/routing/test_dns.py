"""DNS messages: what is asked is asked anew, and of an answer only what answers it is taken."""

import ipaddress
import struct

from hypothesis import given
from hypothesis import strategies as st

from sandboxd.routing import dns


def asked(name: str, kind: int = dns.A, *, number: int = 7, flags: int = 0x0100, opt: int = 0) -> bytes:
    """A program's query."""
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split(".") if label) + b"\0"
    extra = b"\0" + struct.pack("!HHIH", dns.OPT, opt, 0, 0) if opt else b""
    return dns.HEAD.pack(number, flags, 1, 0, 0, bool(opt)) + labels + struct.pack("!2H", kind, dns.IN) + extra


def record(owner: bytes, kind: int, body: bytes, ttl: int = 60) -> bytes:
    """One resource record."""
    return owner + struct.pack("!HHIH", kind, dns.IN, ttl, len(body)) + body


def answered(question: dns.Question, *records: bytes, flags: int = 0x8180) -> bytes:
    """A server's answer."""
    return dns.HEAD.pack(question.number, flags, 1, len(records), 0, 0) + question.raw + b"".join(records)


def question(name: str = "www.example.org", kind: int = dns.A) -> dns.Question:
    """A question read."""
    found = dns.read_question(asked(name, kind))
    assert found is not None
    return found


def test_a_question_is_read_and_asked_anew() -> None:
    found = dns.read_question(asked("WWW.Example.org", opt=1400))
    assert found is not None
    assert (found.number, found.name, found.kind, found.size) == (7, "www.example.org", dns.A, 1400)
    again = dns.read_question(dns.query(found, 99))
    assert again is not None
    assert (again.number, again.name, again.size) == (99, "www.example.org", dns.OUR_SIZE)


def test_what_is_no_question_is_none() -> None:
    for data in (
        b"",
        b"x" * 11,
        asked("a.b", flags=0x8100),
        asked("a.b", flags=0x2900),
        asked("a" * 64 + ".b"),
        asked("a.b")[:-3],
    ):
        assert dns.read_question(data) is None
    assert dns.refusal(asked("a.b", flags=0x2900)) is not None
    assert dns.refusal(asked("a.b", flags=0x8100)) is None, "an answer is not answered"


def test_addresses_come_by_their_aliases_only() -> None:
    one = question()
    alias = b"\x03cdn\x03net\0"
    told = answered(
        one,
        record(b"\xc0\x0c", dns.CNAME, alias, 30),
        record(alias, dns.A, bytes((93, 184, 216, 34))),
        record(b"\x04evil\0", dns.A, bytes((10, 0, 0, 1))),
        record(alias, dns.AAAA, bytes(16)),
    )
    assert dns.is_answer(told, one, 7)
    answer = dns.read_answer(told, one)
    assert answer is not None
    assert (answer.rcode, answer.ttl, list(map(str, answer.addresses))) == (0, 30, ["93.184.216.34"])


def test_an_answer_to_something_else_is_none() -> None:
    one = question()
    told = answered(one)
    assert not dns.is_answer(told, one, 8)
    assert not dns.is_answer(told, question("other.example"), 7)
    assert not dns.is_answer(told, question(kind=dns.AAAA), 7)
    assert not dns.is_answer(asked("www.example.org"), one, 7), "a question is none"


def test_a_reply_is_read_back() -> None:
    one = question(kind=dns.AAAA)
    address = ipaddress.ip_address("2606:2800::1")
    told = dns.reply(one, dns.NOERROR, [address], 60)
    assert dns.is_answer(told, one, 7)
    answer = dns.read_answer(told, one)
    assert answer is not None
    assert answer.addresses == [address]


def test_what_does_not_fit_a_datagram_says_so() -> None:
    one = question()
    told = dns.reply(one, dns.NOERROR, [ipaddress.ip_address("10.0.0.1")] * 100)
    cut = dns.read_answer(dns.fit(one, told), one)
    assert cut is not None
    assert cut.truncated
    assert not cut.addresses
    assert len(dns.fit(one, told)) <= dns.PLAIN_SIZE


def test_a_pointer_goes_back_only() -> None:
    one = question()
    for owner in (b"\xc0\xff", b"\xc0\x21", b"\xc1"):
        assert dns.read_answer(answered(one, record(owner, dns.A, bytes(4))), one) is None


@given(st.binary(max_size=300))
def test_any_bytes_are_a_message_or_none(junk: bytes) -> None:
    one = question()
    dns.read_question(junk)
    dns.refusal(junk)
    dns.is_answer(junk, one, 7)
    dns.read_answer(answered(one, junk), one)
    dns.read_question(asked("a.b")[:12] + junk)
