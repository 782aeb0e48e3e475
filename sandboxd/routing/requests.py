"""A request's head: parsed strictly, and written anew for the service.

Pure. One expression decides what is a head, a second finds the few fields that matter to framing, routing and hops; all
others are passed in the bytes they came in, which the first expression has proved to be whole field lines. What decides
framing or route (target, Host, Content-Length, Transfer-Encoding, Connection, Upgrade) is written from what was parsed, so
the service cannot read it in another way than we did. Invariant: a Request, None for "not yet", or FramingError.
"""

import re

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

HEAD = re.compile(rb"(" + TOKEN + rb"{1,32}+) ([!-~]++) HTTP/1\.([01])\r\n" + FIELDS + rb"\r\n")
LINE = re.compile(rb"(" + TOKEN + rb"{1,32}+) ([!-~]++) HTTP/([0-9])\.([0-9])")

# `_` beside `-`: WSGI and CGI servers fold both into CONTENT_LENGTH, which would be a second, unseen framing field.
NAMES = (
    rb"(host|connection|content[-_]length|transfer[-_]encoding|upgrade|expect|te|keep-alive|http2-settings"
    rb"|proxy-[a-z-]+|x-forwarded-for|x-forwarded-proto)"
)
# Searched from the LF that ends the line before, so the scan is a search for one literal byte (sre's fast path).
SPECIAL = re.compile(rb"\n(?i:" + NAMES + rb"):([^\r]*+)")
DROPPED = re.compile(rb"(?im:^" + NAMES + rb":[^\r]*+\r\n)")
LISTED = re.compile(rb"[^,\s]+")
ACCEPTS_HTML = re.compile(rb"(?im:^accept:[^\r]*text/html)")

IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))  # RFC 9110 9.2.2


class Request:
    """What a head says. length: of the body, or CHUNKED. end: offset behind the head. fields: the block of field lines.

    close: the client wants no further request on this connection. upgrade: the protocol asked for, or b"". expect: it waits
    for a 100. simple: its field lines can be passed on as they are.
    """

    __slots__ = ("close", "end", "expect", "fields", "host", "length", "method", "minor", "simple", "specials", "target", "upgrade")

    def __init__(self, method: bytes, target: bytes, minor: bytes, fields: bytes, end: int) -> None:
        self.method = method
        self.target = target
        self.minor = minor
        self.fields = fields
        self.end = end
        self.host: bytes | None = None
        self.length = 0
        self.close = minor == b"0"
        self.upgrade = b""
        self.expect = False
        self.simple = True
        self.specials: list[tuple[bytes, bytes]] = []

    @property
    def wants_html(self) -> bool:
        """Whether a page for a person is better than plain text."""
        return ACCEPTS_HTML.search(self.fields) is not None

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent a second time when a kept connection turns out to be dead (RFC 9110 9.2.2)."""
        return self.method in IDEMPOTENT


def parse_request(data: bytes | bytearray, end: int, bounds: Bounds, scanned: int = 0) -> Request | None:
    """The request whose head starts data[:end]; None: more bytes are needed; raises FramingError with the status to answer.

    `scanned`: how many of the bytes an earlier call has seen, so that a head that trickles in costs no quadratic work.
    """
    if scanned and data.find(b"\r\n\r\n", max(0, scanned - 3), end) < 0:
        return unfinished(data, end, bounds, scanned)
    match = HEAD.match(data, 0, end)
    if match is None:
        if data.find(b"\r\n\r\n", 0, end) < 0:
            return unfinished(data, end, bounds, scanned)
        raise malformed(bytes(data[:end]), bounds)
    stop = match.end()
    if stop > bounds.head_bytes:
        raise too_large(bytes(data[:stop]), bounds)
    method, target, minor, fields = match.groups()
    request = Request(method, target, minor, fields, stop)
    # From the LF of the request line: HTTP/1.x is followed by CR LF.
    specials = SPECIAL.findall(data, match.end(3) + 1, stop)
    if len(specials) == 1 and specials[0][0].lower() == b"host":
        request.host = specials[0][1].strip(b" \t")
    else:
        read_specials(request, specials)
    if fields.count(b"\n") > MOST_FIELDS or len(target) > bounds.line_bytes:
        raise too_large(bytes(data[:stop]), bounds)
    if target[0] != 0x2F:  # "/"
        resolve_target(request)
    if request.host is None and minor == b"1":
        raise FramingError(400, "the request has no Host field")
    if request.length > bounds.body_bytes:
        raise FramingError(413, "the body is larger than this router passes on")
    return request


def read_specials(request: Request, specials: list[tuple[bytes, bytes]]) -> None:
    """Take what framing, routing and hops need out of the fields that matter to them."""
    request.simple = False
    found: dict[bytes, list[bytes]] = {}
    for name, value in specials:
        found.setdefault(name.lower(), []).append(value.strip(b" \t"))
    request.specials = specials
    if b"content_length" in found or b"transfer_encoding" in found:
        raise FramingError(400, "a framing field is spelled with an underscore")
    hosts = found.get(b"host", [])
    if len(hosts) > 1:
        raise FramingError(400, "the Host field is given twice")
    if hosts:
        request.host = hosts[0]
    request.length = body_length(found.get(b"content-length", []), found.get(b"transfer-encoding", []), request.minor, 400) or 0
    tokens = listed(found.get(b"connection", []))
    request.close = b"close" in tokens or (request.minor == b"0" and b"keep-alive" not in tokens)
    upgrades = found.get(b"upgrade", [])
    if len(upgrades) == 1 and b"upgrade" in tokens and request.minor == b"1" and upgrades[0]:
        request.upgrade = upgrades[0]
    expected = listed(found.get(b"expect", []))
    if expected and expected != [b"100-continue"]:
        raise FramingError(417, "the request expects something other than 100-continue")
    request.expect = bool(expected) and request.minor == b"1"


def listed(values: list[bytes]) -> list[bytes]:
    """The members of a comma-separated field, in lower case."""
    return [member.lower() for value in values for member in LISTED.findall(value)]


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
    if not request.specials:
        request.specials = [(b"host", authority)]


def split_authority(rest: bytes) -> tuple[bytes, bytes]:
    """Authority and path with query of what follows http://; a fragment is never sent (RFC 9112 3.2)."""
    for at, byte in enumerate(rest):
        if byte in b"/?#":
            path = rest[at:].partition(b"#")[0]
            return rest[:at], path if path.startswith(b"/") else b"/" + path
    return rest, b"/"


def serialise_request(request: Request, peer: bytes) -> bytes:
    """The head as it goes to the service; `peer`: the client's address, for X-Forwarded-For."""
    if request.simple:
        return b"%b %b HTTP/1.%b\r\n%bX-Forwarded-For: %b\r\nX-Forwarded-Proto: http\r\n\r\n" % (
            request.method,
            request.target,
            request.minor,
            request.fields,
            peer,
        )
    lines = [b"%b %b HTTP/1.%b\r\n" % (request.method, request.target, request.minor)]
    if request.host is not None:
        lines.append(b"Host: %b\r\n" % request.host)
    lines.append(kept_fields(request))
    if request.length == CHUNKED:
        lines.append(b"Transfer-Encoding: chunked\r\n")
    elif request.length or any(name.lower() == b"content-length" for name, _ in request.specials):
        lines.append(b"Content-Length: %d\r\n" % request.length)
    if request.expect:
        lines.append(b"Expect: 100-continue\r\n")
    lines.append(hop_fields(request))
    lines.append(forwarded(request, peer))
    lines.append(b"\r\n")
    return b"".join(lines)


def kept_fields(request: Request) -> bytes:
    """The field lines without ours to write and without those that Connection names (RFC 9110 7.6.1)."""
    kept = DROPPED.sub(b"", request.fields)
    values = [value for name, value in request.specials if name.lower() == b"connection"]
    named = {token for token in listed(values) if token not in (b"close", b"keep-alive", b"upgrade", b"te")}
    if not named:
        return kept
    lines = kept.split(b"\r\n")[:-1]
    return b"".join(line + b"\r\n" for line in lines if line.partition(b":")[0].lower() not in named)


def hop_fields(request: Request) -> bytes:
    """Connection as it holds between us and the service, with the upgrade that was asked for."""
    if request.upgrade:
        settings = [value.strip(b" \t") for name, value in request.specials if name.lower() == b"http2-settings"]
        if settings:  # RFC 7540 3.2.1: named in Connection, or the upgrade to h2c does not count
            return b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %b\r\nHTTP2-Settings: %b\r\n" % (request.upgrade, settings[0])
        return b"Connection: Upgrade\r\nUpgrade: %b\r\n" % request.upgrade
    # The service's connection lives no longer than the client's, so it is told of the end as well.
    tokens = [b"close"] if request.close and request.minor == b"1" else []
    trailers = any(name.lower() == b"te" and b"trailers" in listed([value]) for name, value in request.specials)
    if trailers and request.minor == b"1":
        tokens.append(b"TE")
    connection = b"Connection: %b\r\n" % b", ".join(tokens) if tokens else b""
    return connection + (b"TE: trailers\r\n" if b"TE" in tokens else b"")


def forwarded(request: Request, peer: bytes) -> bytes:
    """X-Forwarded-For with our client added, X-Forwarded-Proto as an outer proxy gave it, else http. We trust neither."""
    chain = [value.strip(b" \t") for name, value in request.specials if name.lower() == b"x-forwarded-for"]
    protocols = [value.strip(b" \t") for name, value in request.specials if name.lower() == b"x-forwarded-proto"]
    return b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\n" % (b", ".join([*chain, peer]), (protocols or [b"http"])[0])


def unfinished(data: bytes | bytearray, end: int, bounds: Bounds, scanned: int) -> None:
    """Nothing yet, if what is there may still become a head within the caps; else FramingError."""
    part = bytes(data[:end])
    check_unfinished(part, scanned)
    if end >= bounds.line_bytes and part.find(b"\r\n", 0, bounds.line_bytes) < 0:
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
    if len(head) > bounds.head_bytes:
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
