"""HTTP framing, both ways: strict, in any pieces, and as h11 and httptools read what we pass on.

So of sandboxd.routing.framing, sandboxd.routing.requests, sandboxd.routing.responses and sandboxd.routing.chunked; of
sandboxd.routing.pages and sandboxd.routing.orders at the end.
"""

import h11
import httptools
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sandboxd.routing import orders, pages
from sandboxd.routing.chunked import Chunked
from sandboxd.routing.framing import CHUNKED, UNTIL_CLOSE, Bounds, FramingError
from sandboxd.routing.requests import Request, parse_request, serialise_request
from sandboxd.routing.responses import parse_response, serialise_response

BOUNDS = Bounds()
H = b"Host: a.localhost\r\n"


def parse(data: bytes) -> Request | None:
    return parse_request(data, len(data), BOUNDS)


def refusal(data: bytes) -> int:
    with pytest.raises(FramingError) as refused:
        parse(data)  # neither taken nor held back as unfinished
    assert refused.value.reason
    return refused.value.status


# -- heads that are right ----------------------------------------------------------------------------------------------

GOOD = [
    (b"GET / HTTP/1.1\r\n" + H + b"\r\n", (b"GET", b"/", 0, False)),
    (b"\r\nGET / HTTP/1.1\r\n" + H + b"\r\n", (b"GET", b"/", 0, False)),
    (b"HEAD /x?y=1 HTTP/1.1\r\nhost:a.localhost\r\nX-A: b\r\n\r\n", (b"HEAD", b"/x?y=1", 0, False)),
    (b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 12\r\n\r\n", (b"POST", b"/", 12, False)),
    (b"POST / HTTP/1.1\r\n" + H + b"content-length: 3\r\nConnection: close\r\n\r\n", (b"POST", b"/", 3, True)),
    (b"PUT / HTTP/1.1\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n", (b"PUT", b"/", CHUNKED, False)),
    (b"GET / HTTP/1.0\r\n\r\n", (b"GET", b"/", 0, True)),
    (b"GET http://a.localhost/p HTTP/1.1\r\n" + H + b"\r\n", (b"GET", b"/p", 0, False)),
    (b"OPTIONS * HTTP/1.1\r\n" + H + b"\r\n", (b"OPTIONS", b"*", 0, False)),
]


@pytest.mark.parametrize(("data", "meant"), GOOD)
def test_a_good_head_in_any_pieces(data, meant):
    for given_data in (data, data + b"GET /next HTTP/1.1\r\n"):
        request = parse(given_data)
        assert request is not None
        assert (request.method, request.target, request.length, request.close) == meant
        assert request.end == len(data)
    for stop in range(len(data)):
        assert parse(data[:stop]) is None
        assert parse_request(data, stop, BOUNDS, max(0, stop - 1)) is None


def test_what_asks_for_more_than_a_body_is_seen():
    request = parse(b"GET / HTTP/1.1\r\n" + H + b"Connection: Upgrade\r\nUpgrade: websocket\r\nExpect: 100-continue\r\n\r\n")
    assert (request.upgrade, request.host) == (b"websocket", b"a.localhost")
    assert parse(b"POST / HTTP/1.1\r\n" + H + b"Content-Length: 1\r\nExpect: 100-continue\r\n\r\n").expect


# -- heads that are wrong: the smuggler's book -------------------------------------------------------------------------

LINE = b"POST / HTTP/1.1\r\n"
HOSTILE = {
    "CL and TE": LINE + H + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    "TE and CL": LINE + H + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
    "two CLs": LINE + H + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n",
    "a list of CLs": LINE + H + b"Content-Length: 3, 4\r\n\r\n",
    "a signed CL": LINE + H + b"Content-Length: +3\r\n\r\n",
    "a negative CL": LINE + H + b"Content-Length: -3\r\n\r\n",
    "a hex CL": LINE + H + b"Content-Length: 0x3\r\n\r\n",
    "an empty CL": LINE + H + b"Content-Length: \r\n\r\n",
    "a CL in other digits": LINE + H + b"Content-Length: \xd9\xa3\r\n\r\n",
    "an underscored CL": LINE + H + b"Content_Length: 3\r\nContent-Length: 5\r\n\r\n",
    "a space before the colon": LINE + H + b"Content-Length : 3\r\n\r\n",
    "TE that is not chunked": LINE + H + b"Transfer-Encoding: gzip\r\n\r\n",
    "TE with chunked inside": LINE + H + b"Transfer-Encoding: chunked, identity\r\n\r\n",
    "TE twice": LINE + H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    "TE behind a vertical tab": LINE + H + b"Transfer-Encoding: \x0bchunked\r\n\r\n",
    "an underscored TE": LINE + H + b"Transfer_Encoding: chunked\r\n\r\n",
    "TE on HTTP/1.0": b"POST / HTTP/1.0\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n",
    "obs-fold": LINE + H + b"X: a\r\n Content-Length: 3\r\n\r\n",
    "a folded first field": LINE + b" X: a\r\n" + H + b"\r\n",
    "bare LF": b"GET / HTTP/1.1\n" + H + b"\r\n",
    "bare LF between fields": LINE + H + b"X: a\nContent-Length: 3\r\n\r\n",
    "bare CR in a value": LINE + H + b"X: a\rContent-Length: 3\r\n\r\n",
    "NUL in a value": LINE + H + b"X: a\x00b\r\n\r\n",
    "NUL in a name": LINE + H + b"X\x00: a\r\n\r\n",
    "no colon": LINE + H + b"nonsense\r\n\r\n",
    "an empty name": LINE + H + b": a\r\n\r\n",
    "no Host": LINE + b"\r\n",
    "two Hosts": LINE + H + b"Host: b.localhost\r\n\r\n",
    "two Hosts that agree": LINE + H + H + b"\r\n",
    "absolute-form of another host": b"GET http://b.localhost/ HTTP/1.1\r\n" + H + b"\r\n",
    "authority with a user": b"GET http://x@a.localhost/ HTTP/1.1\r\n" + H + b"\r\n",
    "CONNECT": b"CONNECT a.localhost:80 HTTP/1.1\r\n" + H + b"\r\n",
    "a target with a space": b"GET /a b HTTP/1.1\r\n" + H + b"\r\n",
    "a target without a slash": b"GET x HTTP/1.1\r\n" + H + b"\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\n" + H + b"\r\n",
    "a method that is none": b"G@T / HTTP/1.1\r\n" + H + b"\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 64,
    "a line too long": b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + H + b"\r\n",
    "a head too large": LINE + H + b"X: " + b"a" * 20000 + b"\r\n\r\n",
    "a flood of fields": LINE + H + b"X: a\r\n" * 200 + b"\r\n",
    "a body too large to mean": LINE + H + b"Content-Length: 999999999999999999999999\r\n\r\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_head_is_refused(name):
    assert refusal(HOSTILE[name]) in (400, 405, 413, 414, 417, 431, 501, 505)


def test_a_head_that_never_ends_is_refused_at_the_cap():
    assert refusal(LINE + H + b"X: " + b"a" * BOUNDS.head_bytes) == 431


# -- whatever arrives --------------------------------------------------------------------------------------------------

WORDS = [b"GET", b"POST", b" ", b"/", b"HTTP/1.1", b"HTTP/1.0", b"\r\n", b"\n", b"\r", b":", b"Host: a", b"Content-Length: 3"]
WORDS += [b"Transfer-Encoding: chunked", b"Connection: close", b"X: y", b"\t", b"\0", b",", b"http://a/", b"\x80", b"chunked"]
PIECES = st.sampled_from(WORDS)
HEADS = st.one_of(
    st.binary(max_size=300),
    st.lists(PIECES, max_size=40).map(b"".join),
    st.lists(
        st.sampled_from([H, b"X: y\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"A:b\r\n"]), max_size=8
    ).map(lambda fields: LINE + b"".join(fields) + b"\r\n"),
)


@given(HEADS)
@example(b"\r\n")
def test_any_bytes_are_a_request_unfinished_or_refused(data):
    try:
        request = parse(data)
    except FramingError as error:
        request, status = None, error.status
    else:
        status = 400
    assert 400 <= status < 600
    if request is not None:
        assert request.end <= len(data)
        agrees(request)


def agrees(request: Request) -> None:
    """What we send on is, to two other parsers, one head with the same target, and the same body to come."""
    head = serialise_request(request, b"127.0.0.1")
    server = h11.Connection(h11.SERVER)
    server.receive_data(head)
    event = server.next_event()
    assert isinstance(event, h11.Request)
    assert (event.method, event.target) == (request.method, request.target)
    lengths = [value for name, value in event.headers if name == b"content-length"]
    codings = [value.lower() for name, value in event.headers if name == b"transfer-encoding"]
    assert codings == ([b"chunked"] if request.length == CHUNKED else [])
    if request.length > 0 and request.length != CHUNKED:
        assert lengths == [b"%d" % request.length]
    if request.length == CHUNKED:
        assert lengths == []
    seen = Seen()
    httptools.HttpRequestParser(seen).feed_data(head)
    assert seen.heads == 1
    assert seen.url == request.target


class Seen:
    """What httptools made of it."""

    def __init__(self) -> None:
        self.url = b""
        self.heads = 0

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_headers_complete(self) -> None:
        self.heads += 1


@pytest.mark.parametrize(("data", "meant"), GOOD)
def test_other_parsers_agree_on_what_is_passed_on(data, meant):
    if b"HTTP/1.0" not in data:
        agrees(parse(data))


# -- chunked bodies ----------------------------------------------------------------------------------------------------


def scan(data: bytes, pieces: list[int]) -> tuple[bytes, bytes, bool]:
    """Feed in pieces; what was let through, what is left over, whether the body is over."""
    judge = Chunked(400)
    through = held = b""
    cuts = [*pieces, len(data)]
    at = 0
    for cut in cuts:
        held += data[at:cut]
        at = max(at, cut)
        stop = judge.scan(held, 0, len(held))
        through, held = through + held[:stop], held[stop:]
    return through, held, judge.done


BODIES = [
    b"0\r\n\r\n",
    b"3\r\nabc\r\n0\r\n\r\n",
    b"A\r\n0123456789\r\n1;x=y\r\nz\r\n0\r\nX-T: 1\r\n\r\n",
    b"00003\r\n\r\n\r\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("body", BODIES)
def test_a_chunked_body_ends_where_it_ends_in_any_pieces(body):
    for pieces in ([], list(range(len(body))), [len(body) // 2]):
        assert scan(body + b"GET ", pieces) == (body, b"GET ", True)


@pytest.mark.parametrize(
    "body",
    [
        b"3\nabc\r\n0\r\n\r\n", b"3\r\nabcd\r\n0\r\n\r\n", b"0x3\r\nabc\r\n", b"-1\r\n", b"+3\r\nabc\r\n", b" 3\r\nabc\r\n",
        b"3 \rabc", b"\r\n0\r\n\r\n", b"g\r\n", b"1" * 17 + b"\r\n", b"3;a\x00b\r\nabc\r\n", b"3;" + b"a" * 600,
        b"0\r\nContent-Length: 3\r\n\r\n", b"0\r\nHost: b\r\n\r\n", b"0\r\nX\r\n\r\n", b"0\r\nX: " + b"a" * 9000,
    ],
)  # fmt: skip
def test_a_bad_chunk_is_refused(body):
    with pytest.raises(FramingError) as refused:
        scan(body, [])
    assert refused.value.status == 400


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.lists(st.integers(0, 400), max_size=12))
def test_any_chunks_in_any_pieces_come_through_whole(chunks, cuts):
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    pieces = sorted(cut for cut in cuts if cut < len(body))
    assert scan(body, pieces) == (body, b"", True)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_body_unfinished_or_refused(data):
    try:
        through, held, _ = scan(data, [])
    except FramingError:
        return
    assert through + held == data


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "bodiless", "length", "close"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", False, 5, False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", True, 0, False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", False, 0, False),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", False, 0, False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", False, CHUNKED, False),
        (b"HTTP/1.1 200 OK\r\n\r\n", False, UNTIL_CLOSE, True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", False, 5, True),
        (b"HTTP/1.1 100 Continue\r\n\r\n", False, 0, False),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", False, 0, True),
    ],
)
def test_an_answers_end_is_known(head, bodiless, length, close):
    response = parse_response(head + b"x", 0, len(head) + 1, bodiless=bodiless)
    assert response is not None
    assert (response.length, response.close, response.end) == (length, close, len(head))
    for stop in range(len(head)):
        assert parse_response(head, 0, stop, bodiless=bodiless) is None
    again = serialise_response(response, close=False, keep_alive=False)
    assert parse_response(again, 0, len(again), bodiless=bodiless).length == length


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\n\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH_9\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300_000,
    ],
)
def test_an_answer_that_is_none_is_a_502(head):
    with pytest.raises(FramingError) as refused:
        parse_response(head, 0, len(head), bodiless=False)
    assert refused.value.status == 502


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_unfinished_or_refused(data):
    status = 502
    try:
        parse_response(data, 0, len(data), bodiless=False)
    except FramingError as error:
        status = error.status
    assert status == 502


# -- pages and orders --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_html", [True, False])
def test_a_page_is_one_answer_and_escapes_what_it_quotes(as_html):
    page = pages.failed("shop", "<script>alert(1)</script>")
    data = pages.render(page, as_html=as_html, bodiless=False, close=True)
    response = parse_response(data, 0, len(data), bodiless=False)
    assert response is not None
    assert len(data) == response.end + response.length
    assert b"<script>" not in data or not as_html
    assert len(pages.render(page, as_html=as_html, bodiless=True, close=True)) == response.end


def test_an_unknown_host_page_lists_nothing():
    assert b"shop" not in pages.render(pages.unknown_host(), as_html=False, bodiless=False, close=False)


def test_orders_survive_any_cut():
    sent = orders.encode(orders.Ping(order=1)) + orders.encode(orders.Stop())
    for cut in range(len(sent) + 1):
        frames = orders.Frames()
        got = frames.feed(sent[:cut]) + frames.feed(sent[cut:])
        assert len(got) == 2
        kinds = [type(orders.decode(msgspec.json.Decoder(orders.Ping | orders.Stop), frame)) for frame in got]
        assert kinds == [orders.Ping, orders.Stop]
