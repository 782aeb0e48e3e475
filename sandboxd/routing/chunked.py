"""Chunked bodies (RFC 9112 7.1), validated as they pass: how much of what arrived may be sent on.

Pure. Bytes are passed on as they came, but only whole, proven pieces: a size line, data, a trailer section. What is not yet
a whole line is held back, so that the other side never sees a line that we might still refuse. Extensions are let through
when their bytes are harmless (no control characters, no lone CR or LF: the parsers that differ, differ there); trailers that
could change framing or route are refused. Invariant: `scan` never passes a byte behind the end of the body.
"""

import re

from sandboxd.routing.framing import FIELDS, FramingError

MOST_LINE = 512  # a size line with its extensions
MOST_TRAILERS = 8192

SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*+;[\t -~]*+)?\r\n")
SIZE_BEGUN = re.compile(rb"[0-9A-Fa-f]{0,15}+(?:[ \t]*+(?:;[\t -~]*+)?)?\r?")
TRAILERS = re.compile(FIELDS + rb"\r\n")
FORBIDDEN = re.compile(rb"(?im:^(?:transfer-encoding|content-length|host|connection|trailer|te|upgrade|expect)[ \t]*:)")


class Chunked:
    """One chunked body on its way. `left`: data bytes of the current chunk still to come; `done`: the body is over."""

    __slots__ = ("_after_data", "_in_trailers", "done", "left", "status")

    def __init__(self, status: int) -> None:
        """`status`: what a broken body gets, 400 from a client and 502 from a service."""
        self.left = 0
        self.done = False
        self.status = status
        self._after_data = False
        self._in_trailers = False

    def scan(self, data: bytes | bytearray, start: int, end: int) -> int:
        """Up to where data[start:end] may be sent on; the rest is to be given again with more behind it, or follows the body.

        Raises FramingError.
        """
        at = start
        while not self.done:
            if self.left:
                taken = min(self.left, end - at)
                self.left -= taken
                at += taken
                if self.left:
                    return at
                self._after_data = True
            if self._after_data:
                if end - at < 2:
                    if end > at and data[at] != 0x0D:
                        raise self._error("a chunk is longer than its size")
                    return at
                if data[at] != 0x0D or data[at + 1] != 0x0A:
                    raise self._error("a chunk is longer than its size")
                at += 2
                self._after_data = False
            if self._in_trailers:
                return self._scan_trailers(data, at, end)
            match = SIZE.match(data, at, end)
            if match is None:
                self._check_begun(data, at, end)
                return at
            if match.end() - at > MOST_LINE:
                raise self._error("a chunk size line is too long")
            at = match.end()
            self.left = int(match[1], 16)
            self._in_trailers = not self.left
        return at

    def take(self, count: int) -> None:
        """`count` data bytes of the current chunk went another way (splice)."""
        self.left -= count
        self._after_data = not self.left

    def _check_begun(self, data: bytes | bytearray, at: int, end: int) -> None:
        if not SIZE_BEGUN.fullmatch(data, at, end):
            raise self._error("a chunk size is malformed")
        if end - at > MOST_LINE:
            raise self._error("a chunk size line is too long")

    def _scan_trailers(self, data: bytes | bytearray, at: int, end: int) -> int:
        match = TRAILERS.match(data, at, end)
        if match is None:
            if data.find(b"\r\n\r\n", at, end) >= 0 or data[at : min(at + 2, end)] == b"\r\n":
                raise self._error("the trailer section is malformed")
            if end - at > MOST_TRAILERS:
                raise self._error("the trailer section is too large")
            return at
        if FORBIDDEN.search(match[1]):
            raise self._error("a trailer may not change framing or route")
        if len(match[1]) > MOST_TRAILERS:
            raise self._error("the trailer section is too large")
        self.done = True
        return match.end()

    def _error(self, reason: str) -> FramingError:
        return FramingError(self.status, reason)
