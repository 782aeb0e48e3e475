"""Who may start now, who waits and whose turn is next; and who is stopped when the host's memory runs out. Pure.

Ceilings and facts are arguments. A turn goes round the owners, within one round the groups (whoever asks a template for envs is
one), and within one to whoever waits longest, so that a burst of one keeps nobody else waiting. A runaway is an env: nothing
else is ever ended, nor an env whose end would not help.
"""

import bisect
import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from sandboxd.units import format_size

T = TypeVar("T", int, str)


class Ceilings(msgspec.Struct, frozen=True, kw_only=True):
    """What this daemon may do. envs, starting: at once. memory: bytes that the limits of all may add up to, None: any.
    namespaces: the user's quota, None: not known. reserve, critical: bytes of the host's memory below which nothing starts, and
    below which a runaway is stopped. pressure: percent of time all stood still for want of memory (PSI full avg10), so too."""

    envs: int
    starting: int
    memory: int | None = None
    namespaces: int | None = None
    reserve: int = 0
    critical: int = 0
    pressure: tuple[float, float] = (20.0, 60.0)


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The host's memory: bytes that are there, bytes to be had, percent of stalls where the kernel tells."""

    total: int
    available: int
    pressure: float | None = None


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What is there: envs alive, envs that start, bytes that their limits add up to, namespaces besides theirs; and whether the
    kernel just said that it has none left, as those of a removed env come back a moment later (cleanup_net)."""

    alive: int = 0
    starting: int = 0
    memory: int = 0
    parked: int = 0
    exhausted: bool = False


class Obstacle(NamedTuple):
    """Why nothing starts now: which ceiling, in words, what to do."""

    limit: str
    text: str
    hint: str


class Ticket(NamedTuple):
    """One that waits."""

    env_id: str
    owner: int
    since: float
    group: str = ""


class Use(NamedTuple):
    """What an env uses of the memory, and its own limit."""

    env_id: str
    memory: int
    limit: int | None


def obstacle(ceilings: Ceilings, load: Load, host: Host, memory: int | None) -> Obstacle | None:
    """What keeps one more env with that memory limit from starting; None: nothing."""
    if load.alive >= ceilings.envs:
        return Obstacle(
            "envs",
            f"{load.alive} envs are alive, which is this daemon's limit",
            "stop some, or start the daemon with a higher SANDBOXD_MAX_ENVS",
        )
    if load.starting >= ceilings.starting:
        return Obstacle(
            "starting",
            f"{load.starting} envs are starting, which is this daemon's limit",
            "it goes on by itself; SANDBOXD_MAX_STARTING is the limit",
        )
    if ceilings.memory is not None and memory is not None and load.memory + memory > ceilings.memory:
        return Obstacle(
            "memory",
            f"the memory limits of all envs would add up to {format_size(load.memory + memory)}, over this daemon's "
            f"{format_size(ceilings.memory)}",
            "stop some, ask for less with -m, or start the daemon with a higher SANDBOXD_MAX_MEMORY",
        )
    if load.exhausted or (ceilings.namespaces is not None and load.alive + load.parked >= ceilings.namespaces):
        return Obstacle(
            "namespaces",
            f"this user's {ceilings.namespaces if ceilings.namespaces is not None else 'last'} network namespaces are in use",
            "stop some envs, or have root raise sysctl user.max_net_namespaces",
        )
    if host.available < ceilings.reserve:
        return Obstacle(
            "host memory",
            f"the host has {format_size(host.available)} of memory left, and {format_size(ceilings.reserve)} are to stay free",
            "end something that uses much (`sandbox stats`), or set SANDBOXD_MEMORY_RESERVE",
        )
    if host.pressure is not None and host.pressure >= ceilings.pressure[0]:
        return Obstacle(
            "host memory",
            f"the host stands still {host.pressure:.0f}% of the time for want of memory",
            "end something that uses much (`sandbox stats`)",
        )
    return None


class Queue:
    """Those that wait. To find the next one costs as much as there are groups, not as there are that wait."""

    def __init__(self) -> None:
        self.tickets: dict[str, Ticket] = {}
        self._lines: dict[int, dict[str, list[tuple[float, str, Ticket]]]] = {}  # heaps; of what left, until it is met

    def add(self, ticket: Ticket) -> None:
        """Have it wait; another ticket of that env is void."""
        self.tickets[ticket.env_id] = ticket
        line = self._lines.setdefault(ticket.owner, {}).setdefault(ticket.group, [])
        heapq.heappush(line, (ticket.since, ticket.env_id, ticket))

    def put_back(self, ticket: Ticket) -> None:
        """One that was removed for a moment waits on, as if it had not been; it may not have been met since."""
        if any(entry[2] is ticket for entry in self._lines.get(ticket.owner, {}).get(ticket.group, ())):
            self.tickets[ticket.env_id] = ticket
        else:
            self.add(ticket)

    def remove(self, env_id: str) -> None:
        """It waits no longer."""
        self.tickets.pop(env_id, None)

    def next(self, last: int | None, groups: Mapping[int, str]) -> Ticket | None:
        """Whose turn it is after an env of that owner: the next owner's (by uid, round and round), of whose groups the next
        one's that has waited longest. groups: the last one of each owner."""
        for owner in after(last, self._lines):
            lines = self._lines[owner]
            for group in after(groups.get(owner), lines):
                line = lines[group]
                while line and self.tickets.get(line[0][1]) is not line[0][2]:
                    heapq.heappop(line)
                if line:
                    return line[0][2]
                del lines[group]
            del self._lines[owner]
        return None


def after(last: T | None, names: Iterable[T]) -> list[T]:
    """All of them in order, beginning behind the last one."""
    known = sorted(names)
    at = 0 if last is None else bisect.bisect_right(known, last)
    return known[at:] + known[:at]


def is_critical(ceilings: Ceilings, host: Host) -> bool:
    """Whether the host is about to run out of memory."""
    return host.available < ceilings.critical or (host.pressure is not None and host.pressure >= ceilings.pressure[1])


def runaway(uses: Sequence[Use], ceilings: Ceilings, host: Host) -> tuple[Use, int] | None:
    """The env that is most over its share, and that share; None where none is so large that its end would help.

    A share is an equal part of what all envs use, the rest of the host counting as one of them, and never more than the env's
    own limit. What is small is no runaway, whatever its share.
    """
    least = max(host.total // 32, ceilings.critical - host.available)
    equal = sum(use.memory for use in uses) // (len(uses) + 1)
    over = [(use.memory - share(use, equal), use) for use in uses if use.memory >= least]
    over = [found for found in over if found[0] > 0]
    if not over:
        return None
    worst = max(over, key=lambda found: (found[0], found[1].env_id))[1]
    return worst, share(worst, equal)


def share(use: Use, equal: int) -> int:
    """What an env may use while memory is short: never more than an equal part, however high its own limit."""
    return equal if use.limit is None else min(use.limit, equal)
