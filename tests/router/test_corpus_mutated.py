"""The corpus of requests with bytes cut, doubled, mixed and planted: what reaches the service is what the router read.

So of sandboxd.routing.requests and sandboxd.router.asking, once more. The reading is replayed here over the whole of the
bytes; in the router it happens in pieces, with answers in between, and is then read again by h11.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandboxd.routing.chunked import Chunked
from sandboxd.routing.framing import CHUNKED, Bounds, FramingError
from sandboxd.routing.requests import parse_request
from sandboxd.routing.table import bare
from tests.require import require
from tests.router.corpus.harness import Stage, exchange
from tests.router.corpus.rows import EVIL, ROWS

SEEDS = [row[0] for row in ROWS.values() if isinstance(row[0], bytes) and len(row[0]) < 2000]
TOKENS = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"0",
    b"3",
    b"f",
    b"_",
    b"/",
    b"\x0b",
    b"\x80",
    b"\r\n\r\n",
]
TOKENS += [
    b"0\r\n\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"chunked",
    b"Host: blog.localhost\r\n",
    EVIL,
]
TOKENS += [b"Connection: close\r\n", b"Expect: 100-continue\r\n", b"HTTP/1.0", b"HTTP/1.1", b"HEAD ", b"http://shop.localhost/"]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A row, changed in a few places."""
    data = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        to = min(len(data), at + draw(st.integers(0, 12)))
        match draw(st.sampled_from(("cut", "double", "plant", "mix", "flip"))):
            case "cut":
                data = data[:at] + data[to:]
            case "double":
                data = data[:to] + data[at:]
            case "plant":
                data = data[:at] + draw(st.sampled_from(TOKENS)) + data[at:]
            case "mix":
                other = draw(st.sampled_from(SEEDS))
                data = data[:at] + other[draw(st.integers(0, len(other))) :]
            case _:
                data = data[:at] + draw(st.binary(min_size=1, max_size=1)) + data[at + 1 :]
    return data


def replayed(data: bytes) -> list[tuple[bytes, list[str]]]:
    """Host, and method, target and body, of each request that is whole, up to where the connection must end."""
    found: list[tuple[bytes, list[str]]] = []
    try:
        while (request := parse_request(data, len(data), Bounds())) is not None:
            host = bare(request.host) if request.host is not None else b""
            rest = data[request.end :]
            known = host in (b"shop.localhost", b"blog.localhost")
            if not known and (request.length or request.upgrade):
                break
            body, size = body_of(rest, request.length)
            found += (
                [(host, [request.method.decode(), request.target.decode("latin-1"), body.decode("latin-1")])] if known else []
            )
            if request.close or size < 0:
                break
            data = rest[size:]
    except (FramingError, EOFError):
        pass
    return found


def body_of(rest: bytes, length: int) -> tuple[bytes, int]:
    """The body, and how many bytes it took; raises EOFError where it is not whole."""
    if length != CHUNKED:
        if len(rest) < length:
            raise EOFError
        return rest[:length], length
    judge = Chunked(400)
    size = judge.scan(rest, 0, len(rest))
    if not judge.done:
        raise EOFError
    body, at = b"", 0
    while count := int(rest[at : rest.index(b"\r\n", at)].split(b";")[0], 16):
        begin = rest.index(b"\r\n", at) + 2
        body += rest[begin : begin + count]
        at = begin + count + 2
    return body, size


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Two envs, each with h11."""
    require("userns")
    made = Stage(tmp_path_factory.mktemp("mutated"))
    yield made
    made.close()


# The same examples each time: what CI runs is what was seen to pass. EXAMPLES=10000 looks further.
EXAMPLES = int(os.environ.get("EXAMPLES", "150"))


@settings(max_examples=EXAMPLES, derandomize="EXAMPLES" not in os.environ, suppress_health_check=list(HealthCheck))
@given(data=mutated())
def test_what_reaches_the_service_is_what_was_read(stage: Stage, data: bytes) -> None:
    came = exchange(stage.bench.connect(), data)
    seen, by_other = stage.seen("h11"), stage.seen_by_other()
    expected = replayed(data)
    at_shop = [what for host, what in expected if host == b"shop.localhost"]
    at_blog = [what for host, what in expected if host == b"blog.localhost"]
    # h11 refuses what others take (with a 400 of its own, bare of any page), and ends the connection with that.
    refused = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n" in came
    assert seen == (at_shop[: len(seen)] if refused else at_shop)
    assert by_other == (at_blog[: len(by_other)] if refused else at_blog)
    if not refused:
        assert came.count(b'{"who": ') == len([what for _, what in expected if what[0] != "HEAD"])
    stage.sing()
