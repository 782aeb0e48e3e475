"""Log files as init writes them, for tests: CRI records, two files, the older emptied when the current one is full."""

import time
from pathlib import Path


def stamp_of(nanoseconds: int) -> str:
    second, rest = divmod(nanoseconds, 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)) + f".{rest:09d}Z"


class Writer:
    """One service's two files; each record is a nanosecond later than the one before, unless told."""

    def __init__(self, directory: Path, service: str, *, limit: int = 1 << 20, start: int = 1_700_000_000 * 10**9) -> None:
        self.files = [(directory / f"{service}.{number}.log").open("ab", buffering=0) for number in (0, 1)]
        self.limit = limit
        self.now = start

    def write(self, text: str | bytes, *, stream: str = "stdout", tag: str = "F", at: int | None = None) -> None:
        self.now = self.now + 1 if at is None else at
        raw = text.encode() if isinstance(text, str) else text
        record = f"{stamp_of(self.now)} {stream} {tag} ".encode() + raw + b"\n"
        if self.files[0].tell() and self.files[0].tell() + len(record) > self.limit:
            self.files.reverse()
            self.files[0].truncate(0)
            self.files[0].seek(0)
        self.files[0].write(record)

    def raw(self, data: bytes) -> None:
        self.files[0].write(data)

    def close(self) -> None:
        for file in self.files:
            file.close()
