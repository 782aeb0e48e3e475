"""Which of several places a request goes to: by path prefix, header, cookie, and by weight among those that are alike.

Pure. The longest path that fits wins, then the most conditions, then a draw by weight among rules with the same conditions.
Paths are compared as they came, by whole segments: `/api` is not `/apis`, and nothing is decoded, so that what we chose by is
what the service sees. Invariant: a rule is chosen only if each of its conditions holds.
"""

import re
from collections.abc import Sequence

import msgspec

COOKIES = re.compile(rb"(?im:^cookie:[ \t]*([^\r\n]*))")


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """host: as of a Route. endpoint: its index. path: a prefix by segments. strip: the service does not see the prefix.

    header, cookie: names and the values they must have; "*" is any.
    """

    host: str
    endpoint: int
    path: str = ""
    strip: bool = False
    header: dict[str, str] = {}
    cookie: dict[str, str] = {}
    weight: int = 100


class Choices:
    """The rules of one host. dead: endpoints that are chosen only where nothing else is left."""

    def __init__(self, rules: Sequence[Rule], dead: frozenset[int]) -> None:
        alike: dict[tuple[str, tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]], list[Rule]] = {}
        for rule in rules:
            headers = tuple(sorted((name.lower(), value) for name, value in rule.header.items()))
            key = (rule.path.rstrip("/"), headers, tuple(sorted(rule.cookie.items())))
            alike.setdefault(key, []).append(rule)
        self._groups = [
            (path.encode(), headers, cookies, [rule for rule in group if rule.endpoint not in dead] or group)
            for (path, headers, cookies), group in alike.items()
        ]
        self._groups.sort(key=lambda group: (len(group[0]), len(group[1]) + len(group[2])), reverse=True)

    def choose(self, target: bytes, fields: bytes, draw: float) -> Rule | None:
        """Of a request's target and field lines; draw: from 0 up to 1."""
        for path, headers, cookies, group in self._groups:
            if (
                begins(target, path)
                and all(has_header(fields, name, value) for name, value in headers)
                and all(has_cookie(fields, name, value) for name, value in cookies)
            ):
                return drawn(group, draw)
        return None


def begins(target: bytes, path: bytes) -> bool:
    """Whether a target is at or below a path."""
    return not path or (target.startswith(path) and target[len(path) : len(path) + 1] in (b"", b"/", b"?"))


def stripped(target: bytes, path: str) -> bytes:
    """The target without the path it begins with."""
    rest = target[len(path.rstrip("/").encode()) :]
    return rest if rest.startswith(b"/") else b"/" + rest


def has_header(fields: bytes, name: str, value: str) -> bool:
    """Whether one of the field lines says that."""
    wanted = name.encode() + b":"
    for line in fields.split(b"\r\n"):
        if line[: len(wanted)].lower() == wanted and (value == "*" or line[len(wanted) :].strip(b" \t") == value.encode()):
            return True
    return False


def has_cookie(fields: bytes, name: str, value: str) -> bool:
    """Whether one of the cookies is that."""
    for line in COOKIES.findall(fields):
        for pair in line.split(b";"):
            key, equals, given = pair.strip(b" \t").partition(b"=")
            if equals and key == name.encode() and (value == "*" or given.strip(b'"') == value.encode()):
                return True
    return False


def drawn(group: Sequence[Rule], draw: float) -> Rule:
    """One of the rules, by weight."""
    point = draw * sum(rule.weight for rule in group)
    for rule in group:
        point -= rule.weight
        if point < 0:
            return rule
    return group[-1]
