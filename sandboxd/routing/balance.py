"""Which of an env's replicas a request goes to: the one that is least in use, or that the browser was with before. Pure.

Each worker counts its own connections, and spreads its own share. Invariant: nobody is sent to a replica that drains while
another one is ready, and of equals each has its turn.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from sandboxd.routing.rules import COOKIES

COOKIE = b"sandboxd-replica"
NUMBER = re.compile(rb"[1-9][0-9]{0,2}")


class Candidate(NamedTuple):
    """A replica. load: connections to it that others use, or wait for; kept: this client has one open already."""

    number: int
    ready: bool
    draining: bool
    load: int
    kept: bool = False


def pick(candidates: Sequence[Candidate], wanted: int, turn: int) -> int | None:
    """The place of the one to ask; None: none is ready. wanted: the number of the one that is preferred, 0 for any.

    A connection that is open is kept unless another replica is less in use by more than it alone.
    """
    best: int | None = None
    rank: tuple[bool, bool, int, bool, int] | None = None
    for place, one in enumerate(candidates):
        if not one.ready:
            continue
        found = (one.draining, one.number != wanted, one.load, not one.kept, (place - turn) % len(candidates))
        if rank is None or found < rank:
            best, rank = place, found
    return best


def wanted_of(fields: bytes) -> int:
    """The number that a browser's cookie names; 0: none."""
    for line in COOKIES.findall(fields):
        for pair in line.split(b";"):
            name, _, value = pair.strip(b" \t").partition(b"=")
            if name == COOKIE and NUMBER.fullmatch(value):
                return int(value)
    return 0


def set_cookie(number: int) -> bytes:
    """The field line that has a browser stay with a replica for as long as its session lasts."""
    return b"Set-Cookie: %b=%d; Path=/; HttpOnly; SameSite=Lax\r\n" % (COOKIE, number)
