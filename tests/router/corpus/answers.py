"""The mirror of `rows`: byte sequences as services send them, and what their client is to get.

A row is the bytes and then the verdict: a status and the body that arrives as a whole; or `BAD`, a 502 in its place; or `CUT`,
an answer that begins and that the client can tell is broken; or `REST`, one that lasts until the connection ends. The
connection behind each is used for one more request: whatever the service sent too much is never its answer.
"""

OK = b"HTTP/1.1 200 OK\r\n"
E = b"\r\n"
TE = b"Transfer-Encoding: chunked\r\n"
END = b"0\r\n\r\n"
PLANTED = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
BAD, CUT, REST = "bad", "cut", "rest"
Row = tuple[bytes, int | str] | tuple[bytes, int | str, bytes]


def cl(count: int) -> bytes:
    return b"Content-Length: %d\r\n" % count


GOOD: dict[str, Row] = {
    "a length": (OK + cl(2) + E + b"hi", 200, b"hi"),
    "no body": (OK + cl(0) + E, 200, b""),
    "chunks": (OK + TE + E + b"2\r\nhi\r\n" + END, 200, b"hi"),
    "chunks with an extension": (OK + TE + E + b"2;x=y\r\nhi\r\n" + END, 200, b"hi"),
    "chunks with a trailer": (OK + TE + E + b"2\r\nhi\r\n0\r\nX: y\r\n\r\n", 200, b"hi"),
    "until the end": (OK + E + b"hi", REST, b"hi"),
    "until the end, nothing": (OK + E, REST, b""),
    "no phrase": (b"HTTP/1.1 200 \r\n" + cl(2) + E + b"hi", 200, b"hi"),
    "no phrase and no space": (b"HTTP/1.1 200\r\n" + cl(2) + E + b"hi", 200, b"hi"),
    "an odd status": (b"HTTP/1.1 799 What\r\n" + cl(2) + E + b"hi", 799, b"hi"),
    "http/1.0 with a length": (b"HTTP/1.0 200 OK\r\n" + cl(2) + E + b"hi", 200, b"hi"),
    "http/1.0 until the end": (b"HTTP/1.0 200 OK\r\n\r\nhi", REST, b"hi"),
    "http/1.0 kept alive": (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n" + cl(2) + E + b"hi", 200, b"hi"),
    "close": (OK + b"Connection: close\r\n" + cl(2) + E + b"hi", 200, b"hi"),
    "keep-alive": (OK + b"Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n" + cl(2) + E + b"hi", 200, b"hi"),
    "an odd connection option": (OK + b"Connection: x-secret\r\nX-Secret: 1\r\n" + cl(2) + E + b"hi", 200, b"hi"),
    "cookies": (OK + b"Set-Cookie: a=b\r\nSet-Cookie: c=d\r\n" + cl(2) + E + b"hi", 200, b"hi"),
    "an early hint": (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK + cl(2) + E + b"hi", 200, b"hi"),
    "a 100 nobody waits for": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + cl(2) + E + b"hi", 200, b"hi"),
    "hints that state a length": (
        b"HTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\n\r\n" + OK + cl(2) + E + b"hi",
        200,
        b"hi",
    ),
    "a 204": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
    "a 204 that states a length": (b"HTTP/1.1 204 No Content\r\n" + cl(4) + E, 204, b""),
    "a 304 that states a length": (b"HTTP/1.1 304 Not Modified\r\n" + cl(4) + E, 304, b""),
    "a 304 that states chunks": (b"HTTP/1.1 304 Not Modified\r\n" + TE + E, 304, b""),
    "a 205": (b"HTTP/1.1 205 Reset Content\r\n" + cl(0) + E, 205, b""),
    "a large head": (OK + b"X: " + b"a" * 30000 + E + cl(2) + E + b"hi", 200, b"hi"),
    "what only looks like framing": (OK + b"X-Content-Length: 9\r\n" + cl(2) + E + b"hi", 200, b"hi"),
}

# One answer and something behind it: the first arrives, the rest is nobody's.
TOO_MUCH: dict[str, Row] = {
    "an answer behind": (OK + cl(2) + E + b"hi" + PLANTED, 200, b"hi"),
    "an answer behind chunks": (OK + TE + E + b"2\r\nhi\r\n" + END + PLANTED, 200, b"hi"),
    "an answer behind nothing": (OK + cl(0) + E + PLANTED, 200, b""),
    "a body longer than said": (OK + cl(2) + E + b"hi there", 200, b"hi"),
    "a body to a 204": (b"HTTP/1.1 204 No Content\r\n\r\n" + PLANTED, 204, b""),
    "a body to a 304": (b"HTTP/1.1 304 Not Modified\r\n" + cl(4) + E + PLANTED, 304, b""),
    "a line end behind": (OK + cl(2) + E + b"hi\r\n", 200, b"hi"),
    "a hint behind": (OK + cl(2) + E + b"hiHTTP/1.1 103 Early Hints\r\n\r\n", 200, b"hi"),
}

BROKEN: dict[str, Row] = {
    "nothing": (b"", BAD),
    "half a head": (b"HTTP/1.1 200 O", BAD),
    "half a head's fields": (OK + b"X: y\r\n", BAD),
    "garbage": (b"\0\1\2\3\r\n\r\n", BAD),
    "text": (b"hello\r\n\r\n", BAD),
    "a request": (b"GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n", BAD),
    "ssh": (b"SSH-2.0-OpenSSH_9.2\r\n", BAD),
    "http/0.9": (b"<html>hi</html>", BAD),
    "http/2": (b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80", BAD),
    "version 2 in words": (b"HTTP/2 200 OK\r\n" + cl(2) + E + b"hi", BAD),
    "version 1.2": (b"HTTP/1.2 200 OK\r\n" + cl(2) + E + b"hi", BAD),
    "a line end before": (E + OK + cl(2) + E + b"hi", BAD),
    "two digits": (b"HTTP/1.1 20 OK\r\n" + cl(2) + E + b"hi", BAD),
    "four digits": (b"HTTP/1.1 2000 OK\r\n" + cl(2) + E + b"hi", BAD),
    "a status below 100": (b"HTTP/1.1 099 Low\r\n" + cl(2) + E + b"hi", BAD),
    "no status": (b"HTTP/1.1 OK\r\n" + cl(2) + E + b"hi", BAD),
    "bare lf": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", BAD),
    "bare lf in a value": (OK + b"X: y\nSet-Cookie: a=b\r\n" + cl(2) + E + b"hi", BAD),
    "bare cr in a value": (OK + b"X: y\rSet-Cookie: a=b\r\n" + cl(2) + E + b"hi", BAD),
    "NUL in a value": (OK + b"X: \0\r\n" + cl(2) + E + b"hi", BAD),
    "obs-fold": (OK + b"X: y\r\n z\r\n" + cl(2) + E + b"hi", BAD),
    "space before a colon": (OK + b"X : y\r\n" + cl(2) + E + b"hi", BAD),
    "no colon": (OK + b"nonsense\r\n" + cl(2) + E + b"hi", BAD),
    "two lengths": (OK + cl(2) + cl(3) + E + b"hi", BAD),
    "two equal lengths": (OK + cl(2) + cl(2) + E + b"hi", BAD),
    "a list of lengths": (OK + b"Content-Length: 2, 2\r\n\r\nhi", BAD),
    "a signed length": (OK + b"Content-Length: +2\r\n\r\nhi", BAD),
    "a negative length": (OK + b"Content-Length: -1\r\n\r\nhi", BAD),
    "an underscored length": (OK + b"Content_Length: 2\r\n\r\nhi", BAD),
    "both": (OK + cl(2) + TE + E + b"2\r\nhi\r\n" + END, BAD),
    "te twice": (OK + TE + TE + E + b"2\r\nhi\r\n" + END, BAD),
    "te gzip": (OK + b"Transfer-Encoding: gzip\r\n\r\nhi", BAD),
    "te gzip, chunked": (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n" + END, BAD),
    "te identity": (OK + b"Transfer-Encoding: identity\r\n\r\nhi", BAD),
    "te empty": (OK + b"Transfer-Encoding:\r\n\r\nhi", BAD),
    "te behind a vertical tab": (OK + b"Transfer-Encoding: \x0bchunked\r\n\r\n2\r\nhi\r\n" + END, BAD),
    "te in http/1.0": (b"HTTP/1.0 200 OK\r\n" + TE + E + b"2\r\nhi\r\n" + END, BAD),
    "te for a 204": (b"HTTP/1.1 204 No Content\r\n" + TE + E + END, BAD),
    "te for a hint": (b"HTTP/1.1 103 Early Hints\r\n" + TE + E + END + OK + cl(2) + E + b"hi", BAD),
    "an upgrade nobody asked for": (b"HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nhi", BAD),
    "a head too large": (OK + b"X: " + b"a" * 60000 + E + cl(2) + E + b"hi", BAD),
    "a flood of fields": (OK + b"X: y\r\n" * 200 + cl(2) + E + b"hi", BAD),
    "a first chunk that is none": (OK + TE + E + b"hi\r\n" + END, BAD),
    "hints without end": (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50 + OK + cl(2) + E + b"hi", BAD),
    "hints alone": (b"HTTP/1.1 103 Early Hints\r\n\r\n", BAD),
}

# It has begun by then, so that the client can only be left with a broken answer.
HALF: dict[str, Row] = {
    "a body that is cut": (OK + cl(9) + E + b"hi", CUT),
    "chunks that are cut": (OK + TE + E + b"2\r\nhi\r\n", CUT),
    "a chunk that is cut": (OK + TE + E + b"9\r\nhi", CUT),
    "a trailer that is cut": (OK + TE + E + b"2\r\nhi\r\n0\r\nX: y\r\n", CUT),
}

GROUPS = {"good": GOOD, "too much": TOO_MUCH, "broken": BROKEN, "half": HALF}
ROWS: dict[str, Row] = {f"{group}: {name}": row for group, rows in GROUPS.items() for name, row in rows.items()}
