"""Which line of a TOML text says what: tomllib gives lines for bad syntax only, and people need them for bad sense.

Pure; imports tomllib only. It reads texts that tomllib has accepted (TOML 1.0), so it skips where a parser would complain;
should it ever lose its way, it stops and keeps what it has: a missing line is a worse message, never a wrong spec. Every
key, table, array element and dotted intermediate gets the line it first appears on.
"""

import contextlib
import re
import tomllib

Path = tuple[str | int, ...]

BARE = re.compile(r"[A-Za-z0-9_-]+")
BLANK = re.compile(r"[ \t]*")
SPACE = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
SCALAR = re.compile(r"[^,\]}\n#]*")
STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})|' + r"'''.*?'''(?:'{0,2})|" + r'"(?:[^"\\\n]|\\.)*"|' + r"'[^'\n]*'",
    re.DOTALL,
)


class Lost(Exception):
    """The text is not what we took it for."""


def locate(text: str) -> dict[Path, int]:
    """The line (from 1) of every path in a valid TOML text; paths hold keys and array indexes."""
    scan = Scan(text)
    with contextlib.suppress(Lost, RecursionError):
        scan.document()
    return scan.lines


def line_of(lines: dict[Path, int], path: Path) -> int | None:
    """The line of a path, or of the nearest thing around it that has one."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return None


class Scan:
    """One walk over a text. `table` is the open header's path, with the index of each array of tables on the way."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.line = 1
        self.counted = 0  # up to where newlines are counted in `line`
        self.lines: dict[Path, int] = {}
        self.counts: dict[Path, int] = {}  # how many tables each array of tables has so far

    def document(self) -> None:
        """Headers and key-values until the end."""
        table: Path = ()
        self.skip(SPACE)
        while self.at < len(self.text):
            if self.text.startswith("[", self.at):
                table = self.header()
            else:
                self.pair(table)
            self.skip(SPACE)

    def header(self) -> Path:
        """`[a.b]` or `[[a.b]]`: the path that follows it."""
        line = self.here()
        array = self.text.startswith("[[", self.at)
        self.at += 2 if array else 1
        keys = self.keys()
        self.expect("]]" if array else "]")
        path: Path = ()
        for number, key in enumerate(keys):
            path = (*path, key)
            last = number == len(keys) - 1
            self.lines.setdefault(path, line)
            if array and last:
                self.counts[path] = self.counts.get(path, 0) + 1
            if path in self.counts and (array or not last):
                path = (*path, self.counts[path] - 1)
                self.lines.setdefault(path, line)
        return path

    def pair(self, table: Path) -> None:
        """`a.b = value`"""
        line = self.here()
        path = table
        for key in self.keys():
            path = (*path, key)
            self.lines.setdefault(path, line)
        self.expect("=")
        self.value(path)

    def value(self, path: Path) -> None:
        """Any value; remembers what is inside of arrays and inline tables."""
        self.skip(BLANK)
        start = self.text[self.at : self.at + 1]
        if start == "[":
            self.at += 1
            self.skip(SPACE)
            index = 0
            while not self.text.startswith("]", self.at):
                self.lines.setdefault((*path, index), self.here())
                self.value((*path, index))
                index += 1
                self.skip(SPACE)
                if self.text.startswith(",", self.at):
                    self.at += 1
                    self.skip(SPACE)
            self.at += 1
        elif start == "{":
            self.at += 1
            self.skip(SPACE)
            while not self.text.startswith("}", self.at):
                self.pair(path)
                self.skip(SPACE)
                if self.text.startswith(",", self.at):
                    self.at += 1
                    self.skip(SPACE)
            self.at += 1
        elif start in ('"', "'"):
            self.skip(STRING, must=True)
        else:
            self.skip(SCALAR, must=True)

    def keys(self) -> list[str]:
        """A dotted key."""
        found = []
        while True:
            self.skip(BLANK)
            begin = self.at
            if self.text[begin : begin + 1] in ('"', "'"):
                self.skip(STRING, must=True)
                found.append(unquoted(self.text[begin : self.at]))
            else:
                self.skip(BARE, must=True)
                found.append(self.text[begin : self.at])
            self.skip(BLANK)
            if not self.text.startswith(".", self.at):
                return found
            self.at += 1

    def skip(self, pattern: re.Pattern[str], *, must: bool = False) -> None:
        """Move past what matches here; must: and it must be something."""
        found = pattern.match(self.text, self.at)
        if found is None or (must and not found.group()):
            raise Lost
        self.at = found.end()

    def expect(self, token: str) -> None:
        """Move past a token."""
        if not self.text.startswith(token, self.at):
            raise Lost
        self.at += len(token)

    def here(self) -> int:
        """The line we are on; newlines are counted once."""
        self.line += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        return self.line


def unquoted(text: str) -> str:
    """A quoted key's meaning, by the parser that knows the escapes."""
    try:
        return str(tomllib.loads("key = " + text)["key"])
    except ValueError:
        raise Lost from None
