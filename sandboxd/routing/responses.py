"""A response's head: parsed strictly, and written anew for the client.

Pure, the mirror of `requests`. The service is the user's program and may be hostile to other envs' users, so its framing is
judged as strictly as a client's; what cannot be understood is a 502 and the connection to it is given up. Invariant: a
Response, None for "not yet", or FramingError(502).
"""

import re

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
from sandboxd.routing.requests import listed

# Cookies and content security policies make heads of services larger than those of clients.
HEAD_BYTES = 65536

HEAD = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: (" + TEXT + rb"*+))?\r\n" + FIELDS + rb"\r\n")
NAMES = rb"(connection|content[-_]length|transfer[-_]encoding|upgrade|keep-alive|proxy-connection)"
SPECIAL = re.compile(rb"\n(?i:" + NAMES + rb"):([^\r]*+)")
DROPPED = re.compile(rb"(?im:^" + NAMES + rb":[^\r]*+\r\n)")


class Response:
    """What a head says. length: of the body, CHUNKED or UNTIL_CLOSE. end: offset behind the head.

    close: the service ends its connection after this. verbatim: the head may go out in the bytes it came in.
    """

    __slots__ = ("close", "end", "fields", "length", "phrase", "specials", "status", "upgrade", "verbatim")

    def __init__(self, status: int, phrase: bytes, fields: bytes, end: int) -> None:
        self.status = status
        self.phrase = phrase
        self.fields = fields
        self.end = end
        self.length = UNTIL_CLOSE
        self.close = False
        self.upgrade = b""
        self.verbatim = True
        self.specials: list[tuple[bytes, bytes]] = []


def parse_response(data: bytes | bytearray, start: int, end: int, *, bodiless: bool) -> Response | None:
    """The response whose head starts data[start:end]; None: more is needed. `bodiless`: it answers a HEAD request."""
    match = HEAD.match(data, start, end)
    if match is None:
        return unfinished(bytes(data[start:end]))
    minor, status, phrase, fields = match.groups()
    stop = match.end()
    response = Response(int(status), phrase or b"", fields, stop)
    specials = SPECIAL.findall(data, match.end(2), stop)
    stated: int | None
    response.specials = specials
    if len(specials) == 1 and minor == b"1" and specials[0][0].lower() == b"content-length":
        stated = body_length([specials[0][1].strip(b" \t")], [], minor, 502)
    else:
        stated = read_specials(response, specials, minor)
    if fields.count(b"\n") > MOST_FIELDS or stop - start > HEAD_BYTES:
        raise FramingError(502, "the head of the answer is too large")
    code = response.status
    # RFC 9112 6.3: these have no body, whatever their fields say.
    if bodiless or code < 200 or code in (204, 304):
        response.length = 0
        response.verbatim = response.verbatim and (code >= 200 and code != 204 or not specials)
    elif stated is not None:
        response.length = stated
    else:
        response.close = True
    if code < 200 and stated == CHUNKED:
        raise FramingError(502, "an interim answer states a body")
    return response


def read_specials(response: Response, specials: list[tuple[bytes, bytes]], minor: bytes) -> int | None:
    """Take what framing and hops need; returns the stated length, CHUNKED, or None for neither."""
    found: dict[bytes, list[bytes]] = {}
    for name, value in specials:
        found.setdefault(name.lower(), []).append(value.strip(b" \t"))
    response.verbatim = minor == b"1" and not specials
    tokens = listed(found.get(b"connection", []))
    response.close = b"close" in tokens or (minor == b"0" and b"keep-alive" not in tokens)
    if b"upgrade" in tokens and len(found.get(b"upgrade", [])) == 1:
        response.upgrade = found[b"upgrade"][0]
    return body_length(found.get(b"content-length", []), found.get(b"transfer-encoding", []), minor, 502)


def serialise_response(response: Response, *, close: bool, keep_alive: bool) -> bytes:
    """The head as it goes to the client. close: say that we end the connection; keep_alive: tell HTTP/1.0 that we do not."""
    lines = [b"HTTP/1.1 %d %b\r\n" % (response.status, response.phrase), DROPPED.sub(b"", response.fields)]
    for name, value in response.specials:
        lowered = name.lower()
        if response.status < 200 or response.status == 204:
            break  # RFC 9110 8.6: these state no framing, and a client might believe it
        if lowered == b"content-length":
            # Of a HEAD or 304 it tells what the body would have been, so it is kept there.
            lines.append(b"Content-Length: %d\r\n" % int(value.strip(b" \t")))
        elif lowered == b"transfer-encoding":
            lines.append(b"Transfer-Encoding: chunked\r\n")
    if response.status == 101:
        lines.append(b"Connection: Upgrade\r\nUpgrade: %b\r\n" % response.upgrade)
    elif close:
        lines.append(b"Connection: close\r\n")
    elif keep_alive:
        lines.append(b"Connection: keep-alive\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)


def unfinished(head: bytes) -> None:
    """Nothing yet, if what is there may still become a head within the cap; else FramingError."""
    stop = head.find(b"\r\n\r\n")
    if stop < 0:
        if len(head) > HEAD_BYTES:
            raise FramingError(502, "the head of the answer is too large")
        check_unfinished(head, 0)
        if not b"HTTP/1.".startswith(head[:7]):
            raise FramingError(502, "the answer is not HTTP/1.x")
        return
    line, _, block = head[: stop + 2].partition(b"\r\n")
    if not HEAD.fullmatch(line + b"\r\n\r\n"):
        raise FramingError(502, "the status line of the answer is malformed")
    check_unfinished(head[: stop + 2], 0)
    raise FramingError(502, f"in the answer, {why_fields(block)}")
