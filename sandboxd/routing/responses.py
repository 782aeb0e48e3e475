"""A response's head: parsed strictly, and written anew for the client.

Pure, the mirror of `requests`. The service is the user's program and may be hostile to other envs' users, so its framing is
judged as strictly as a client's; what cannot be understood is a 502 and the connection to it is given up. Invariant: a
Response, None for "not yet", or FramingError(502).
"""

import re

import msgspec

from sandboxd.routing.framing import (
    CHUNKED,
    FIELDS,
    MOST_FIELDS,
    TEXT,
    UNTIL_CLOSE,
    FramingError,
    body_length,
    check_unfinished,
    why_fields,
)

# Cookies and content security policies make heads of services larger than those of clients. Less than the relay's buffer, so
# that an unfinished head always leaves room to read on.
HEAD_BYTES = 49152

HEAD = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: (" + TEXT + rb"*))?\r\n" + FIELDS + rb"\r\n")
NAMES = rb"\n(?=[CTKPUctkpu])(?i:(%b)):([^\r]*)"  # see `requests`
HOPS = rb"connection|upgrade|keep-alive|proxy-connection"
SPECIAL = re.compile(NAMES % (HOPS + rb"|content[-_]length|transfer[-_]encoding"))
# Content-Length and Transfer-Encoding stay in their place: once each and well-formed, or the answer was refused.
DROPPED = re.compile(NAMES % HOPS + rb"\r")
UNFRAMED = re.compile(NAMES % (HOPS + rb"|content[-_]length|transfer[-_]encoding") + rb"\r")
LISTED = re.compile(rb"[^,\s]+")
LENGTH, CODING, CONNECTION, UPGRADE, HOP, MISSPELLED = 1, 2, 3, 4, 5, 6
KINDS = {
    b"content-length": LENGTH,
    b"Content-Length": LENGTH,
    b"transfer-encoding": CODING,
    b"Transfer-Encoding": CODING,
    b"connection": CONNECTION,
    b"Connection": CONNECTION,
    b"upgrade": UPGRADE,
    b"keep-alive": HOP,
    b"proxy-connection": HOP,
    b"content_length": MISSPELLED,
    b"transfer_encoding": MISSPELLED,
}


class Response(msgspec.Struct, gc=False):
    """What a head says. length: of the body, CHUNKED or UNTIL_CLOSE. end: offset behind the head.

    close: the service ends its connection after this. verbatim: the head may go out in the bytes it came in, to a client
    that keeps its connection, or, if `close`, to one that does not.
    """

    status: int
    phrase: bytes
    fields: bytes
    end: int
    length: int = UNTIL_CLOSE
    close: bool = False
    upgrade: bytes = b""
    verbatim: bool = True


def parse_response(data: bytes | bytearray, start: int, end: int, *, bodiless: bool) -> Response | None:
    """The response whose head starts data[start:end]; None: more is needed. `bodiless`: it answers a HEAD request."""
    match = HEAD.match(data, start, end)
    if match is None:
        check_growing(bytes(data[start:end]))
        return None
    minor, status, phrase, fields = match.groups()
    stop = match.end()
    response = Response(int(status), phrase or b"", fields, stop)
    read_specials(response, SPECIAL.findall(data, match.end(2), stop), minor)
    if fields.count(b"\n") > MOST_FIELDS or stop - start > HEAD_BYTES:
        raise FramingError(502, "the head of the answer is too large")
    code = response.status
    if code < 200 or code == 204:
        if response.length == CHUNKED:
            raise FramingError(502, "an answer that has no body states one")
        # RFC 9110 8.6: these state no framing; a client might believe it.
        response.verbatim = response.verbatim and response.length == UNTIL_CLOSE
        response.length = 0
    elif bodiless or code == 304:
        response.length = 0  # RFC 9112 6.3: whatever the fields say, they tell what the body would have been
    elif response.length == UNTIL_CLOSE:
        response.close = True
    return response


def goes_as_it_is(response: Response) -> bool:
    """Whether it can be passed on in its own bytes, and the connection goes on behind a body of known length."""
    return response.verbatim and not response.close and response.status >= 200 and response.length >= 0


def read_specials(response: Response, specials: list[tuple[bytes, bytes]], minor: bytes) -> None:
    """Take what framing and hops need out of the fields that matter to them."""
    length: bytes | None = None
    kept = False
    more: list[tuple[int, bytes]] = []
    for name, padded in specials:
        kind = KINDS.get(name) or KINDS[name.lower()]
        value = padded.strip(b" \t")
        if kind == LENGTH and length is None:
            length = value
        elif kind == CONNECTION and value == b"keep-alive" and minor == b"1":
            kept = True  # that much holds on our side as well
        else:
            more.append((kind, value))
    if more or minor == b"0":
        read_more(response, more, length, minor)
        # What else was said of the connection would contradict it.
        response.verbatim = response.verbatim and not (kept and response.close)
    elif length is not None:
        response.length = body_length([length], [], minor, 502)


def read_more(response: Response, more: list[tuple[int, bytes]], length: bytes | None, minor: bytes) -> None:
    """The fields that few answers have, or that they have twice."""
    lengths = [] if length is None else [length]
    codings: list[bytes] = []
    tokens: list[bytes] = []
    response.verbatim = minor == b"1"
    for kind, value in more:
        if kind == LENGTH:
            lengths.append(value)
        elif kind == CODING:
            codings.append(value)
        elif kind == MISSPELLED:
            raise FramingError(502, "in the answer, a framing field is spelled with an underscore")
        else:
            if kind != CONNECTION or value != b"close" or tokens:
                response.verbatim = False
            if kind == CONNECTION:
                tokens += LISTED.findall(value.lower())
            elif kind == UPGRADE:
                response.upgrade = value
    if lengths or codings:
        response.length = body_length(lengths, codings, minor, 502)
    response.close = b"close" in tokens or (minor == b"0" and b"keep-alive" not in tokens)
    if b"upgrade" not in tokens:
        response.upgrade = b""


def serialise_response(response: Response, *, close: bool, keep_alive: bool) -> bytes:
    """The head as it goes to the client. close: say that we end the connection; keep_alive: tell HTTP/1.0 that we do not."""
    code = response.status
    dropped = UNFRAMED if code < 200 or code == 204 else DROPPED
    if code == 101:
        connection = b"Connection: Upgrade\r\nUpgrade: %b\r\n" % response.upgrade
    elif close:
        connection = b"Connection: close\r\n"
    else:
        connection = b"Connection: keep-alive\r\n" if keep_alive else b""
    return b"HTTP/1.1 %d %b\r%b%b\r\n" % (code, response.phrase, dropped.sub(b"", b"\n" + response.fields), connection)


def check_growing(head: bytes) -> None:
    """Raise FramingError unless what is there may still become a head within the cap."""
    stop = head.find(b"\r\n\r\n")
    if stop < 0:
        if len(head) > HEAD_BYTES:
            raise FramingError(502, "the head of the answer is too large")
        check_unfinished(head, 0, 502)
        if not b"HTTP/1.".startswith(head[:7]):
            raise FramingError(502, "the answer is not HTTP/1.x")
        return
    line, _, block = head[: stop + 2].partition(b"\r\n")
    if not HEAD.fullmatch(line + b"\r\n\r\n"):
        raise FramingError(502, "the status line of the answer is malformed")
    check_unfinished(head[: stop + 2], 0, 502)
    raise FramingError(502, f"in the answer, {why_fields(block)}")
