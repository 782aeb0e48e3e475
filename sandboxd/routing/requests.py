"""A request's head: parsed strictly, and written anew for the service.

Pure. One expression decides what is a head, a second finds the few fields that matter to framing, routing and hops; all
others are passed in the bytes they came in, which the first expression has proved to be whole field lines. What decides
framing or route (target, Host, Content-Length, Transfer-Encoding, Connection, Upgrade) is written from what was parsed, so
the service cannot read it in another way than we did. Invariant: a Request, None for "not yet", or FramingError.
"""

import re

import msgspec

from sandboxd.routing import forwarded
from sandboxd.routing.framing import (
    CHUNKED,
    FIELDS,
    MOST_FIELDS,
    TOKEN,
    Bounds,
    FramingError,
    body_length,
    check_unfinished,
    why_fields,
)

HEAD = re.compile(rb"(" + TOKEN + rb"{1,32}) ([!-~]+) HTTP/1\.([01])\r\n" + FIELDS + rb"\r\n")
LINE = re.compile(rb"(" + TOKEN + rb"{1,32}) ([!-~]+) HTTP/([0-9])\.([0-9])")

# `_` beside `-`: WSGI and CGI servers fold both into CONTENT_LENGTH, which would be a second, unseen framing field.
# Each line is found from the LF before it, one literal byte (sre's fast search), and the first letters spare most tries.
NAMES = (
    rb"\n(?=[CEFHKPTUXcefhkptux])(?i:(host|connection|content[-_]length|transfer[-_]encoding|upgrade|expect|te|keep-alive"
    rb"|http2-settings|proxy-[a-z-]+|forwarded|x-forwarded-(?:for|proto|host))):([^\r]*)"
)
SPECIAL = re.compile(NAMES)
DROPPED = re.compile(NAMES + rb"\r")
PLAIN = (b"keep-alive", b"close")
HOSTS, CONNECTION, LENGTHS, CODINGS, UPGRADES, RARE = 1, 2, 3, 4, 5, 6
KINDS = {
    b"host": HOSTS,
    b"Host": HOSTS,
    b"connection": CONNECTION,
    b"Connection": CONNECTION,
    b"content-length": LENGTHS,
    b"Content-Length": LENGTHS,
    b"transfer-encoding": CODINGS,
    b"Transfer-Encoding": CODINGS,
    b"upgrade": UPGRADES,
    b"Upgrade": UPGRADES,
}
LISTED = re.compile(rb"[^,\s]+")
ACCEPTS_HTML = re.compile(rb"(?im:^accept:[^\r]*text/html)")

# What may be sent a second time when a kept connection turns out to be dead.
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))  # RFC 9110 9.2.2


class Request(msgspec.Struct, gc=False):
    """What a head says. length: of the body, or CHUNKED. end: offset behind the head. fields: the block of field lines.

    close: the client wants no further request on this connection. upgrade: the protocol asked for, or b"". expect: it waits
    for a 100. simple: its field lines can be passed on as they are. Of other heads alone: tokens of Connection in lower case,
    sized (a length was stated), forwarded, scheme and outer (X-Forwarded-For, -Proto, -Host), elements (Forwarded), settings
    (HTTP2-Settings), trailers (TE).
    A Struct, since making one costs a third of what a class with slots costs.
    """

    method: bytes
    target: bytes
    minor: bytes
    fields: bytes
    end: int
    close: bool
    host: bytes | None = None
    length: int = 0
    upgrade: bytes = b""
    expect: bool = False
    simple: bool = True
    tokens: list[bytes] = []
    sized: bool = False
    forwarded: bytes = b""
    scheme: bytes = b"http"
    outer: bytes = b""
    elements: bytes = b""
    settings: bytes = b""
    trailers: bool = False

    @property
    def wants_html(self) -> bool:
        """Whether a page for a person is better than plain text."""
        return ACCEPTS_HTML.search(self.fields) is not None


def parse_request(data: bytes | bytearray, end: int, bounds: Bounds, scanned: int = 0) -> Request | None:
    """The request whose head starts data[:end]; None: more bytes are needed; raises FramingError with the status to answer.

    `scanned`: how many of the bytes an earlier call has seen, so that a head that trickles in costs no quadratic work.
    """
    if scanned and data.find(b"\r\n\r\n", max(0, scanned - 3), end) < 0:
        check_growing(data, end, bounds, scanned)
        return None
    match = HEAD.match(data, 0, end)
    if match is None:
        # RFC 9112 2.2: one empty line before the request line is ignored.
        match = HEAD.match(data, 2, end) if data.startswith(b"\r\n", 0, end) else None
        if match is None:
            check_unmatched(data, end, bounds)
            return None
    stop = match.end()
    if stop > bounds.head_bytes:
        raise too_large(bytes(data[:stop]), bounds)
    method, target, minor, fields = match.groups()
    request = Request(method, target, minor, fields, stop, minor == b"0")
    # From the LF of the request line: HTTP/1.x is followed by CR LF.
    specials = SPECIAL.findall(data, match.end(3) + 1, stop)
    read_specials(request, specials)
    if fields.count(b"\n") > MOST_FIELDS or len(target) > bounds.line_bytes:
        raise too_large(bytes(data[:stop]), bounds)
    if target[0] != 0x2F or method == b"CONNECT":  # "/"
        resolve_target(request)
    if request.host is None and minor == b"1":
        raise FramingError(400, "the request has no Host field")
    if request.length > bounds.body_bytes:
        raise FramingError(413, "the body is larger than this router passes on")
    return request


def is_plain(request: Request) -> bool:
    """Whether nothing is to be decided for it but where it goes, and it may be sent a second time."""
    return (
        request.simple
        and not request.close
        and request.minor == b"1"
        and request.method in IDEMPOTENT
        and request.method != b"HEAD"  # its answer would have to be read as one
    )


def read_specials(request: Request, specials: list[tuple[bytes, bytes]]) -> None:
    """Take what framing, routing and hops need out of the fields that matter to them."""
    connection: bytes | None = None
    more: list[tuple[int, bytes, bytes]] = []
    for name, padded in specials:
        kind = KINDS.get(name) or KINDS.get(name.lower(), RARE)
        value = padded.strip(b" \t")
        if kind == HOSTS:
            if request.host is not None:
                raise FramingError(400, "the Host field is given twice")
            request.host = value
        elif kind == CONNECTION and connection is None and value in PLAIN and request.minor == b"1":
            connection = value
        else:
            more.append((kind, name, value))
    if more:
        if connection is not None:
            more.append((CONNECTION, b"connection", connection))
        read_more(request, more)
    elif connection == b"close":
        # Passed on as it is: the service's connection lives no longer than the client's, so it is told of the end as well.
        request.close = True


def read_more(request: Request, more: list[tuple[int, bytes, bytes]]) -> None:
    """The fields that make a head one that must be written anew."""
    request.simple = False
    lengths: list[bytes] = []
    codings: list[bytes] = []
    upgrades: list[bytes] = []
    tokens: list[bytes] = []
    for kind, name, value in more:
        if kind == CONNECTION:
            tokens += LISTED.findall(value.lower())
        elif kind == LENGTHS:
            lengths.append(value)
        elif kind == CODINGS:
            codings.append(value)
        elif kind == UPGRADES:
            upgrades.append(value)
        else:
            read_rare(request, name.lower(), value)
    if lengths or codings:
        request.length = body_length(lengths, codings, request.minor, 400)
        request.sized = bool(lengths)
    if tokens:
        request.tokens = tokens
        request.close = b"close" in tokens or (request.minor == b"0" and b"keep-alive" not in tokens)
        if len(upgrades) == 1 and b"upgrade" in tokens and request.minor == b"1":
            request.upgrade = upgrades[0]


def read_rare(request: Request, name: bytes, value: bytes) -> None:
    """The fields that few requests have."""
    if name in (b"content_length", b"transfer_encoding", b"content_encoding"):
        raise FramingError(400, "a framing field is spelled with an underscore")
    if name == b"expect":
        if value.lower() != b"100-continue":
            raise FramingError(417, "the request expects something other than 100-continue")
        request.expect = request.minor == b"1"
    elif name == b"x-forwarded-for":
        request.forwarded += value + b", "
    elif name == b"x-forwarded-proto":
        request.scheme = value
    elif name == b"x-forwarded-host":
        request.outer = value
    elif name == b"forwarded":
        request.elements += value + b", "
    elif name == b"http2-settings":
        request.settings = value
    elif name == b"te":
        request.trailers = b"trailers" in value.lower() and request.minor == b"1"


def resolve_target(request: Request) -> None:
    """Bring absolute-form to origin-form, its authority equal to Host; refuse what is not for a reverse proxy."""
    target = request.target
    if request.method == b"CONNECT":
        raise FramingError(405, "CONNECT is not for this router: it is no forward proxy")
    if target == b"*" and request.method == b"OPTIONS":
        return
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() != b"http":
        raise FramingError(400, "the request target is neither a path nor an http URL")
    authority, path = split_authority(rest)
    if not authority or b"@" in authority:
        raise FramingError(400, "the request target has no plain host")
    # RFC 9112 3.2.2 lets the target win over Host; a service behind us may let Host win. Equal or refused.
    if request.host is not None and request.host.lower() != authority.lower():
        raise FramingError(400, "the request target and the Host field name different hosts")
    request.host = authority
    request.target = path
    request.simple = False


def split_authority(rest: bytes) -> tuple[bytes, bytes]:
    """Authority and path with query of what follows http://; a fragment is never sent (RFC 9112 3.2)."""
    for at, byte in enumerate(rest):
        if byte in b"/?#":
            path = rest[at:].partition(b"#")[0]
            return rest[:at], path if path.startswith(b"/") else b"/" + path
    return rest, b"/"


def serialise_request(request: Request, peer: bytes, *, trusted: bool = False) -> bytes:
    """The head as it goes to the service; `peer`: the client's address. trusted: what it says of where it has it from holds."""
    if request.simple:
        return b"%b %b HTTP/1.%b\r\n%b%b" % (
            request.method,
            request.target,
            request.minor,
            request.fields,
            forwarded.own(peer, request.host),
        )
    if trusted:
        by_peers = request.forwarded, request.elements, request.scheme, request.outer
        told = forwarded.told(peer, request.host, *by_peers)
    else:
        told = forwarded.own(peer, request.host)
    return b"%b %b HTTP/1.%b%b%b%b%b%b" % (
        request.method,
        request.target,
        request.minor,
        b"\r\nHost: " + request.host if request.host is not None else b"",
        kept_fields(request),
        framing_fields(request),
        hop_fields(request),
        told,
    )


def kept_fields(request: Request) -> bytes:
    """CR LF and the field lines without ours to write and without those that Connection names (RFC 9110 7.6.1)."""
    kept = b"\r" + DROPPED.sub(b"", b"\n" + request.fields)
    named = [token for token in request.tokens if token not in (b"close", b"keep-alive", b"upgrade", b"te")]
    if not named:
        return kept
    return b"\r\n".join(line for line in kept.split(b"\r\n") if line.partition(b":")[0].lower() not in named)


def framing_fields(request: Request) -> bytes:
    """What states the body, as we understood it."""
    if request.length == CHUNKED:
        stated = b"Transfer-Encoding: chunked\r\n"
    elif request.sized:
        stated = b"Content-Length: %d\r\n" % request.length
    else:
        return b""
    return stated + b"Expect: 100-continue\r\n" if request.expect else stated


def hop_fields(request: Request) -> bytes:
    """Connection as it holds between us and the service, with the upgrade that was asked for."""
    if request.upgrade:
        # RFC 7540 3.2.1: HTTP2-Settings is named in Connection, or the upgrade to h2c does not count.
        if request.settings:
            named = b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: %b\r\n" % request.settings
        else:
            named = b"Connection: Upgrade\r\n"
        return named + b"Upgrade: %b\r\n" % request.upgrade
    # The service's connection lives no longer than the client's, so it is told of the end as well.
    closing = request.close and request.minor == b"1"
    if request.trailers:
        return b"TE: trailers\r\nConnection: close, TE\r\n" if closing else b"TE: trailers\r\nConnection: TE\r\n"
    return b"Connection: close\r\n" if closing else b""


def check_unmatched(data: bytes | bytearray, end: int, bounds: Bounds) -> None:
    """Raise FramingError for a head that is whole and none, or can become none."""
    begin = 2 if data.startswith(b"\r\n", 0, end) else 0
    if data.find(b"\r\n\r\n", begin, end) < 0:
        check_growing(data, end, bounds, 0)
    else:
        raise malformed(bytes(data[begin:end]), bounds)


def check_growing(data: bytes | bytearray, end: int, bounds: Bounds, scanned: int) -> None:
    """Raise FramingError unless what is there may still become a head within the caps."""
    part = bytes(data[:end])
    check_unfinished(part, scanned)
    if end >= bounds.line_bytes and part.find(b"\r\n", 2, bounds.line_bytes) < 0:
        raise FramingError(414, "the request line is too long")
    if end >= bounds.head_bytes:
        raise FramingError(431, "the head of the request is too large")


def too_large(head: bytes, bounds: Bounds) -> FramingError:
    """414 where the line alone is over its cap, else 431."""
    if head.find(b"\r\n") >= bounds.line_bytes:
        return FramingError(414, "the request line is too long")
    return FramingError(431, "the head of the request is too large")


def malformed(data: bytes, bounds: Bounds) -> FramingError:
    """Why a head that is there as a whole did not match."""
    head = data[: data.index(b"\r\n\r\n") + 2]
    if len(head) > bounds.head_bytes or head.find(b"\r\n") > bounds.line_bytes:
        return too_large(head, bounds)
    try:
        check_unfinished(head, 0)
    except FramingError as error:
        return error
    line, _, block = head.partition(b"\r\n")
    match = LINE.fullmatch(line)
    if match is None:
        return FramingError(400, "the request line is malformed")
    if match[3] != b"1" or match[4] not in (b"0", b"1"):
        return FramingError(505, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    return FramingError(400, why_fields(block))
