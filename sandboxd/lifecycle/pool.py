"""How many places are kept ready for envs to come: as many as came at once of late, and the usual few when nobody comes. Pure.

To make one ahead costs what it costs later, so more are only worth it where a burst is likely: after a burst.
"""

from collections.abc import Mapping

WINDOW = 30.0  # seconds for which a burst is remembered
MOST = 64  # two processes and 3.5 MB of private dirty memory each, measured


def noted(bursts: Mapping[int, int], coming: int, now: float) -> dict[int, int]:
    """The most that came at once in each second so far, with so many now; what is past is forgotten."""
    kept = {second: count for second, count in bursts.items() if now - second < WINDOW}
    kept[int(now)] = max(kept.get(int(now), 0), coming)
    return kept


def wanted(bursts: Mapping[int, int], usual: int, now: float) -> int:
    """How many to keep ready; usual: at least, 0 is none ever."""
    if not usual:
        return 0
    return max(usual, min(MOST, max((count for second, count in bursts.items() if now - second < WINDOW), default=0)))
