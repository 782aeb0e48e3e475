"""What every part of the HTTP framing shares: its one error, the caps, the character classes, what marks a bad head.

Pure: imports re and msgspec only. The grammar is RFC 9112 without its tolerances: where the RFC lets a recipient repair (bare
LF, obs-fold, space before a colon, a list of equal lengths), two recipients may repair differently, and the difference is a
smuggled request. So nothing is repaired. Every expression is linear: neighbouring parts share no byte, so each byte can be
matched in one way only and giving back is always in vain at once (possessive repeats say so, and cost a third more in sre).
"""

import re

import msgspec

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
TEXT = rb"[\t -~\x80-\xff]"  # field values: visible, space, tab, obs-text; no other control character, no NUL
FIELDS = rb"((?:" + TOKEN + rb"+:" + TEXT + rb"*\r\n)*)"  # whole field lines, each ended by CRLF

CHUNKED = -1
UNTIL_CLOSE = -2

MOST_FIELDS = 128
MOST_DIGITS = 18  # of a Content-Length: 10^18 is no body that can be meant, and fits a signed 64-bit number


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Every cap and timeout of the router, in bytes and seconds; tests and operators set their own.

    head: from a request's first byte to the end of its head. idle: a kept connection with no request. stall: no progress
    while a peer should send or take bytes. dial: to reach the service. queue: for one of the connections that an env allows.
    linger: for a refused client to take its answer. drain: for what is under way to come to its end once the router is told to
    stop.
    """

    head_bytes: int = 16384
    line_bytes: int = 8192
    body_bytes: int = 1 << 50
    head: float = 15.0
    idle: float = 75.0
    stall: float = 300.0
    dial: float = 10.0
    queue: float = 30.0
    linger: float = 2.0
    drain: float = 0.0
    clients: int = 0  # 0: as many as the descriptor limit bears
    trusted: tuple[str, ...] = ()  # networks of proxies before us, whose word on where a request came from is taken
    per_source: int = 0  # connections of one address at a worker, but for trusted ones; 0: as `worker` finds right
    held: int = 2000  # requests at a worker that wait for envs to be made
    queued: int = 1000  # requests that wait for a connection to one env that bounds them
    access_log: str = ""  # the path of its file; "": none is written
    access_log_limit: int = 50 << 20  # bytes of that file, and of the one before it
    pipes: int = 8  # of up to 1 MiB: an eighth of what one uid may have (pipe-user-pages-soft, pipe(7))


class FramingError(Exception):
    """A message that cannot be passed on. status: what the client is told; the reason is a sentence without a full stop."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


# A line feed without its carriage return or the reverse, and control characters: wrong wherever they stand in a head.
BARE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")
CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
FOLD = re.compile(rb"\r\n[ \t]")
FIELD = re.compile(TOKEN + rb"+:" + TEXT + rb"*")


def check_unfinished(data: bytes | bytearray, start: int, status: int = 400) -> None:
    """Refuse early what no further byte can repair, so that a broken client is told at once; `start`: what is new."""
    if BARE.search(data, max(0, start - 1)):
        raise FramingError(status, "a line ends without CR LF")
    if CONTROL.search(data, start):
        raise FramingError(status, "the head has a control character")
    if FOLD.search(data, max(0, start - 2)):
        raise FramingError(status, "a field is folded over two lines")


def why_fields(block: bytes) -> str:
    """What is wrong with a head's field lines, once they did not match as a whole."""
    for line in block.split(b"\r\n"):
        if line[:1] in (b" ", b"\t"):
            return "a field is folded over two lines"
        if line and not FIELD.fullmatch(line):
            name, colon, _ = line.partition(b":")
            if colon and name != name.rstrip(b" \t"):
                return "a field name is followed by space"
            return "a field line is malformed"
    return "the head is malformed"


def body_length(lengths: list[bytes], codings: list[bytes], minor: bytes, status: int) -> int:
    """The framing that Content-Length and Transfer-Encoding state, one of them at least: a length, or CHUNKED."""
    if codings:
        if lengths:
            raise FramingError(status, "both Content-Length and Transfer-Encoding are given")
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            raise FramingError(status, "the Transfer-Encoding is not exactly 'chunked'")
        if minor == b"0":
            raise FramingError(status, "HTTP/1.0 has no Transfer-Encoding")  # RFC 9112 6.1: treat the framing as faulty
        return CHUNKED
    if len(lengths) > 1:
        raise FramingError(status, "Content-Length is given twice")
    value = lengths[0]
    if not value.isdigit():  # bytes.isdigit is ASCII only: no sign, no list, no other script
        raise FramingError(status, "the Content-Length is not a number")
    if len(value) > MOST_DIGITS:
        raise FramingError(413 if status == 400 else status, "the Content-Length is beyond any bound")
    return int(value)
