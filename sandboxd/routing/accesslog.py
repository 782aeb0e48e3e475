"""A line of the access log: one request and what became of it, as a JSON object, in ASCII whatever was asked for.

Pure. What a client chose (method, host, path) is cut to a bound; a byte outside of ASCII is written as `\\xNN`, and JSON
escapes control characters, so no value ends a line, forges another or reaches a terminal as a command. A target's query is left
out: it is where secrets are that have no business in a log.
"""

from datetime import UTC, datetime

import msgspec

MOST_METHOD, MOST_HOST, MOST_PATH = 32, 255, 2048


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """protocol: HTTP/1.0, HTTP/1.1, or tcp or tls for a connection as a whole, which has no method, path and status. status: 0
    where the client was gone before it was told any. bytes: of the answer, its head taken in. duration: in
    seconds. held: of these, for how long it waited for its env to start or wake, or for a connection to it. env, id, service:
    "" where it came to none."""

    time: str
    client: str
    method: str
    host: str
    path: str
    protocol: str
    status: int
    bytes: int
    duration: float
    held: float
    env: str
    id: str
    service: str


class Lost(msgspec.Struct, frozen=True, kw_only=True):
    """lost: how many lines could not be written before this one."""

    time: str
    lost: int


_encoder = msgspec.json.Encoder()


def line(entry: Entry | Lost) -> bytes:
    """As it is written."""
    return _encoder.encode(entry) + b"\n"


def shown(value: bytes, most: int) -> str:
    """What a client sent, in ASCII; "..." at the end of what was cut."""
    text = value[:most].decode("ascii", "backslashreplace").replace("\x7f", "\\x7f")  # which JSON leaves as it is
    return f"{text}..." if len(value) > most else text


def path_of(target: bytes) -> str:
    """A request's target without its query."""
    return shown(target.partition(b"?")[0], MOST_PATH)


def stamp(seconds: float) -> str:
    """A time since the epoch, as RFC 3339 with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def source_of(address: str, port: int) -> str:
    """Where a connection comes from."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def pieces(data: bytes, most: int) -> list[bytes]:
    """Whole lines in pieces of at most that many bytes; a line that is longer alone is a piece of its own."""
    found, at = [], 0
    while at < len(data):
        end = len(data) if len(data) - at <= most else data.rfind(b"\n", at, at + most) + 1
        if end <= at:
            end = data.index(b"\n", at) + 1
        found.append(data[at:end])
        at = end
    return found
