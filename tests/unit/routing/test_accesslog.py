"""Lines of the access log: sandboxd.routing.accesslog."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.routing.accesslog import MOST_HOST, Entry, Lost, line, path_of, pieces, shown, source_of, stamp

ENTRY = Entry(
    time="2026-11-23T12:00:00.000Z",
    client="127.0.0.1:5000",
    method="GET",
    host="shop.localhost",
    path="/",
    protocol="HTTP/1.1",
    status=200,
    bytes=120,
    duration=0.001,
    held=0.0,
    env="shop",
    id="ab" * 16,
    service="web",
)


def test_a_line_is_one_json_object_with_every_field() -> None:
    assert json.loads(line(ENTRY)) == msgspec.to_builtins(ENTRY)
    assert list(json.loads(line(ENTRY))) == [
        *("time", "client", "method", "host", "path", "protocol", "status", "bytes", "duration", "held", "env", "id", "service")
    ]
    assert json.loads(line(Lost(time="t", lost=3))) == {"time": "t", "lost": 3}


@given(st.binary(max_size=300))
def test_whatever_a_client_sends_is_one_line_of_printable_ascii(value: bytes) -> None:
    written = line(msgspec.structs.replace(ENTRY, host=shown(value, MOST_HOST), path=path_of(value)))
    assert written.endswith(b"\n")
    assert all(32 <= byte < 127 for byte in written[:-1])
    found = json.loads(written)
    assert found["host"].isascii()
    assert found["status"] == 200
    assert len(written) < 300 + 2 * 300 * 6


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/a/b?token=secret", "/a/b"),
        (b"/?", "/"),
        (b'/"}\n{"status":200', '/"}\n{"status":200'),
        (b"/\xc3\xa9\x9b31m", "/\\xc3\\xa9\\x9b31m"),
        (b"/" + b"a" * 5000, "/" + "a" * 2047 + "..."),
    ],
)
def test_a_path_has_no_query_and_a_bound(target: bytes, path: str) -> None:
    assert path_of(target) == path


def test_times_and_sources() -> None:
    assert stamp(1_795_440_000.0625) == "2026-11-23T13:20:00.062Z"
    assert source_of("127.0.0.1", 80) == "127.0.0.1:80"
    assert source_of("::1", 80) == "[::1]:80"
    assert source_of("unix", 4711) == "unix:4711"


@given(st.lists(st.integers(0, 30), max_size=30), st.integers(1, 64))
def test_pieces_are_whole_lines_and_all_of_them(lengths: list[int], most: int) -> None:
    data = b"".join(b"x" * length + b"\n" for length in lengths)
    found = pieces(data, most)
    assert b"".join(found) == data
    assert all(piece.endswith(b"\n") for piece in found)
    assert all(len(piece) <= most or piece.count(b"\n") == 1 for piece in found)
