"""Ways out of envs, in the words that the daemon, the router's master and the worker of what goes out have for them.

Pure; imports msgspec only. Part of `orders`, which has the messages that carry them. Either side may be of another version, so
every field that was added later has a value for who does not know it.
"""

import msgspec


class Outlet(msgspec.Struct, frozen=True, kw_only=True):
    """An env's way out. dial: the path of its dial.sock. cookie: of its network namespace. rules, forward: as in the spec."""

    env_id: str
    dial: str
    cookie: int
    owner: int
    rules: list[str]
    forward: list[str] = []


class Passage(msgspec.Struct, frozen=True, kw_only=True):
    """One connection, or a name that was asked for (port 0). rule: what gave or denied it; lacking: what would have given it.

    state: open, closed, denied or failed. began: seconds of the monotonic clock. incoming: name is what was asked for, address
    who asks.
    """

    number: int
    name: str
    address: str
    port: int
    state: str
    rule: str = ""
    lacking: str = ""
    reason: str = ""
    sent: int = 0
    received: int = 0
    began: float = 0.0
    incoming: bool = False


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A question of an env's that came as a datagram, and where it came from."""

    data: bytes
    host: str
    port: int


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker leaves of an env to the next.

    bound: which names each address was told for, oldest first. passages: what is over. total, denied, sent, received: what was
    counted so far. questions: still to be answered. numbers: given to passages so far.
    """

    env_id: str
    bound: list[tuple[str, list[str]]] = []
    passages: list[Passage] = []
    total: int = 0
    denied: int = 0
    sent: int = 0
    received: int = 0
    questions: list[Question] = []
    numbers: int = 0
