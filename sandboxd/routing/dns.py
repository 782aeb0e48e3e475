"""DNS messages (RFC 1035, 6891): what a program asks, what is asked of the host's resolver in its place, what is answered.

Pure. Nothing is passed on as it came: a question is read and written anew, and of an answer about addresses only the addresses
are taken. Hostile input is normal: lengths are checked, pointers go backwards only, counts are capped. None means: no such
message.
"""

import ipaddress
import struct
from typing import NamedTuple

A, AAAA, CNAME, OPT, SVCB, HTTPS, ANY, AXFR, IXFR = 1, 28, 5, 41, 64, 65, 255, 252, 251
IN = 1
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
HEAD = struct.Struct("!6H")
PLAIN_SIZE, OUR_SIZE, MOST_SIZE = 512, 1232, 65535  # without EDNS; what fits everywhere (dnsflagday.net/2020)
MOST_RECORDS, MOST_POINTERS = 256, 64

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Question(NamedTuple):
    """number: its id. name: lower case, without the last dot. raw: name, type and class as they stood. size: of an answer."""

    number: int
    name: str
    kind: int
    raw: bytes
    size: int


class Answer(NamedTuple):
    """rcode; truncated; addresses, the time that they hold, in seconds."""

    rcode: int
    truncated: bool
    addresses: list[Address]
    ttl: int


def read_name(data: bytes, at: int) -> tuple[str, int]:
    """A name and where it ended; raises ValueError."""
    labels: list[str] = []
    end, followed, total = -1, 0, 0
    while True:
        if at >= len(data):
            raise ValueError("a name is cut short")
        length = data[at]
        if length & 0xC0 == 0xC0:
            if at + 1 >= len(data):
                raise ValueError("a pointer is cut short")
            to = (length & 0x3F) << 8 | data[at + 1]
            end = at + 2 if end < 0 else end
            followed += 1
            if to >= at or followed > MOST_POINTERS:
                raise ValueError("a pointer leads nowhere")
            at = to
            continue
        if length & 0xC0 or at + 1 + length > len(data):
            raise ValueError("a label that is none")
        at += 1 + length
        if not length:
            return ".".join(labels).lower(), at if end < 0 else end
        total += 1 + length
        if total > 254:
            raise ValueError("a name is too long")
        label = data[at - length : at].decode("ascii", "replace")
        labels.append(label.replace(".", "\ufffd"))


def read_question(data: bytes) -> Question | None:
    """A program's query: one question, of the Internet's class."""
    if len(data) < HEAD.size or len(data) > MOST_SIZE:
        return None
    number, flags, questions, answers, _, more = HEAD.unpack_from(data)
    if flags & 0xF800 or questions != 1 or answers or more > 2:
        return None
    try:
        name, at = read_name(data, HEAD.size)
        kind, group = struct.unpack_from("!2H", data, at)
    except (ValueError, struct.error):
        return None
    if group != IN or "\ufffd" in name:
        return None
    return Question(number, name, kind, data[HEAD.size : at + 4], size_in(data, at + 4))


def size_in(data: bytes, at: int) -> int:
    """The size of answers that an OPT record right behind the question allows."""
    if data[at : at + 3] == b"\0\0\x29" and len(data) >= at + 11:
        return max(PLAIN_SIZE, min(int.from_bytes(data[at + 3 : at + 5], "big"), 4096))
    return PLAIN_SIZE


def query(question: Question, number: int) -> bytes:
    """The same question, asked in our name."""
    opt = b"\0" + struct.pack("!HHIH", OPT, OUR_SIZE, 0, 0)
    return HEAD.pack(number, 0x0100, 1, 0, 0, 1) + question.raw + opt


def is_answer(data: bytes, question: Question, number: int) -> bool:
    """Whether it answers exactly that."""
    if len(data) < HEAD.size:
        return False
    got, flags, questions, _, _, _ = HEAD.unpack_from(data)
    if got != number or not flags & 0x8000 or questions != 1:
        return False
    try:
        name, at = read_name(data, HEAD.size)
    except ValueError:
        return False
    return name == question.name and data[at : at + 4] == question.raw[-4:]


def read_answer(data: bytes, question: Question) -> Answer | None:
    """Rcode and addresses of an answer, those only that the question's name leads to, by its aliases in order."""
    _, flags, _, count, _, _ = HEAD.unpack_from(data)
    at, names, ttl = HEAD.size + len(question.raw), {question.name}, 3600
    found: list[Address] = []
    try:
        _, at = read_name(data, HEAD.size)
        at += 4
        for _ in range(min(count, MOST_RECORDS)):
            name, at = read_name(data, at)
            kind, group, lives, length = struct.unpack_from("!HHIH", data, at)
            at += 10
            body = data[at : at + length]
            if len(body) != length:
                break
            if group == IN and name in names:
                if kind == CNAME:
                    names.add(read_name(data, at)[0])
                elif kind == question.kind and (kind, length) in ((A, 4), (AAAA, 16)):
                    found.append(ipaddress.ip_address(body))
                ttl = min(ttl, lives)
            at += length
    except (ValueError, struct.error):
        if not flags & 0x0200:
            return None
    return Answer(flags & 0xF, bool(flags & 0x0200), found, ttl)


def reply(question: Question, rcode: int, addresses: list[Address] | None = None, ttl: int = 0) -> bytes:
    """An answer of our own."""
    records = [
        b"\xc0\x0c" + struct.pack("!HHIH", question.kind, IN, ttl, len(address.packed)) + address.packed
        for address in addresses or []
    ]
    return HEAD.pack(question.number, 0x8180 | rcode, 1, len(records), 0, 0) + question.raw + b"".join(records)


def refusal(data: bytes) -> bytes | None:
    """What is told to who asks something else; None where there is nobody to tell."""
    if len(data) < HEAD.size or data[2] & 0x80:
        return None
    return HEAD.pack(int.from_bytes(data[:2], "big"), 0x8180 | (NOTIMP if data[2] & 0x78 else FORMERR), 0, 0, 0, 0)


def fit(question: Question, message: bytes) -> bytes:
    """For a datagram: what is longer than the program takes is cut to the question, and it asks again by TCP."""
    if len(message) <= question.size:
        return message
    head = bytearray(message[: HEAD.size])
    head[2] |= 0x02
    return HEAD.pack(question.number, int.from_bytes(head[2:4], "big"), 1, 0, 0, 0) + question.raw


def renumbered(message: bytes, question: Question) -> bytes:
    """An answer to our query as one to the program's."""
    return question.number.to_bytes(2, "big") + message[2:]
