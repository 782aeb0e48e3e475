"""How many places are kept ready for envs to come: as many as came at once of late, as many as templates say will come at once,
and the usual few when nobody comes. Pure.

To make one ahead costs what it costs later, so more are only worth it where a burst is likely: after one, or where a template
says so (`on_demand.burst`). What templates may have kept is the operator's to say, in bytes. Places of either kind give way
where the host's memory is short.
"""

from collections.abc import Mapping
from typing import NamedTuple

from sandboxd.units import format_size

WINDOW = 30.0  # seconds for which a burst is remembered
COST = 4 << 20  # bytes that a place takes from the host: two processes, their page tables, a network (3.8 MB, measured)
DESCRIPTORS = 9  # of the daemon's, for each place
SHARE = 8  # of a quota of namespaces or descriptors, the part that may be held for envs to come
MOST = 256  # unasked for
# Of the host's memory: what templates may have kept for them, unless the operator says otherwise; and of what is left of it,
# what is kept after a burst, for WINDOW. As much is to stay free by default before anything starts, so neither is missed.
PART = 20


class Refused(NamedTuple):
    """Why a template cannot have so many places kept: which limit, in words, what to do."""

    limit: str
    text: str
    hint: str


def noted(bursts: Mapping[int, int], coming: int, now: float) -> dict[int, int]:
    """The most that came at once in each second so far, with so many now; what is past is forgotten."""
    kept = {second: count for second, count in bursts.items() if now - second < WINDOW}
    kept[int(now)] = max(kept.get(int(now), 0), coming)
    return kept


def wanted(bursts: Mapping[int, int], usual: int, available: int, now: float) -> int:
    """How many to keep ready; usual: at least, 0 is none ever. available: bytes of memory to be had."""
    if not usual:
        return 0
    most = min(MOST, max(0, available) // PART // COST)
    return max(usual, min(most, max((count for second, count in bursts.items() if now - second < WINDOW), default=0)))


def budget(setting: int | None, total: int) -> int:
    """Bytes that places for the bursts of templates may take in all."""
    return total // PART if setting is None else setting


class Bounds(NamedTuple):
    """Of all places that templates may have kept: bytes, and what the user may have of namespaces (None: not known) and the
    daemon of descriptors, both of which are for envs in the first place."""

    memory: int
    namespaces: int | None
    descriptors: int

    def counts(self) -> dict[str, int]:
        """How many places each of them allows."""
        found = {"pool_memory": self.memory // COST, "descriptors": self.descriptors // SHARE // DESCRIPTORS}
        return found if self.namespaces is None else found | {"namespaces": self.namespaces // SHARE}


def refusal(asked: int, others: int, bounds: Bounds, *, is_alone: bool) -> Refused | None:
    """What keeps a template from so many places, beside those of others. is_alone: no other user has templates here; of many,
    one has half of what the others leave."""
    limit, most = min(bounds.counts().items(), key=lambda one: one[1])
    left = max(0, most - others) // (1 if is_alone else 2)
    if asked <= left:
        return None
    hints = {
        "pool_memory": f"SANDBOXD_POOL_MEMORY ({format_size(bounds.memory)}) is for those of all templates",
        "namespaces": f"an eighth of the user's {bounds.namespaces} network namespaces is (sysctl user.max_net_namespaces)",
        "descriptors": f"an eighth of the daemon's {bounds.descriptors} descriptors is (ulimit -n)",
    }
    return Refused(
        limit,
        f"a burst of {asked} would hold {format_size(asked * COST)} of memory, and places for {left} may be kept ready",
        f"ask for a smaller burst: {hints[limit]}",
    )


def granted(asked: Mapping[str, int], room: int) -> dict[str, int]:
    """How many places each template has kept, where there is room for so many in all: the first first."""
    found: dict[str, int] = {}
    for name, count in asked.items():
        found[name] = min(count, max(0, room))
        room -= found[name]
    return found
