"""Log records as init writes them (CRI): `2026-11-23T04:38:22.123456789Z stdout F text`, P where the line goes on.

Pure. Bytes in, `LogLine`s out; what is no record (torn by a full disk, binary, another program's) is passed over. Times have
one width and one zone, so they compare as bytes.
"""

import codecs
import re
import time
from collections.abc import Iterable
from typing import NamedTuple

from sandboxd.protocol.messages import LogLine

RECORD = re.compile(rb"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z) (stdout|stderr) ([FP]) ([^\n]*)\n", re.MULTILINE)
FULL = re.compile(rb"^\S{30} (?:stdout|stderr) F ", re.MULTILINE)
STAMP = 30  # bytes
MAX_RECORD = 64 << 10  # init writes 16 KiB at most; whatever is longer is none of its


class Record(NamedTuple):
    """One record, not yet decoded."""

    time: bytes
    service: str
    stream: str
    partial: bool
    text: bytes


def parse_records(data: bytes, service: str) -> list[Record]:
    """The records in whole lines."""
    return [
        Record(time, service, "stdout" if stream == b"stdout" else "stderr", tag == b"P", text)
        for time, stream, tag, text in RECORD.findall(data)
    ]


def stamp(since: float) -> bytes:
    """Seconds since the epoch as records write times."""
    if not since > 0:
        return b""
    whole = min(int(since), 253402300799)  # the last second of year 9999
    nanoseconds = min(int((since - int(since)) * 1e9), 999_999_999) if whole == int(since) else 999_999_999
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{nanoseconds:09d}Z".encode()


def last_lines(records: list[Record], count: int) -> list[Record]:
    """The last `count` lines: a line is an F record and the P records before it in its stream, or an open end of P records."""
    kept: list[Record] = []
    lines = 0
    open_lines: dict[tuple[str, str], bool] = {}  # streams whose line we are in -> whether it is kept
    for record in reversed(records):
        key = (record.service, record.stream)
        if not record.partial or key not in open_lines:
            open_lines[key] = lines < count
            lines += 1
        if open_lines[key]:
            kept.append(record)
        elif lines > count and not any(open_lines.values()):
            break
    return kept[::-1]


class Decoder:
    """Records into LogLines; a character cut in two by a P record is put together again."""

    def __init__(self) -> None:
        self._streams: dict[tuple[str, str], codecs.IncrementalDecoder] = {}

    def lines(self, records: Iterable[Record]) -> list[LogLine]:
        """Decode; bytes that are no UTF-8 become U+FFFD."""
        return [
            LogLine(time=r.time.decode(), service=r.service, stream=r.stream, text=self._text(r), partial=r.partial)
            for r in records
        ]

    def _text(self, record: Record) -> str:
        key = (record.service, record.stream)
        decoder = self._streams.get(key)
        if decoder is None:
            if not record.partial:
                return record.text.decode("utf-8", "replace")
            decoder = self._streams[key] = codecs.getincrementaldecoder("utf-8")("replace")
        if not record.partial:
            del self._streams[key]
        return decoder.decode(record.text, not record.partial)
