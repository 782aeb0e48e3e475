"""What was seen of one env that its record need not keep: denials, limit hits, the last answer of each readiness check.

Pure; bounded, since what runs inside decides how much there is to write down. Whoever sees something writes it here (the
link to init, the watch over limits, the probes), and `why` reads it. It begins with the daemon: who counts elsewhere tells the
whole count again, so a denial that is told twice is one.
"""

from collections import OrderedDict, deque
from collections.abc import Callable

from sandboxd.protocol.messages import Denial, LimitHit

KEPT_DENIALS = 256
KEPT_HITS = 64
LONGEST = 200  # characters of what came from inside


class Notebook:
    """One env's notes. unknown: what cannot be known of its denials, and why.
    unguarded: files that somebody outside obeys and that could be written from inside when they were last looked at.

    count: told of each denial and limit hit that is new, as ("denials", wall, how many) or ("limits", limit, 1).
    """

    def __init__(self, count: Callable[[str, str, int], object] = lambda what, label, more: None) -> None:
        self._count = count
        self.unknown: list[str] = []
        self.unguarded: list[str] = []
        self.unready: dict[str, str] = {}
        self._denials: OrderedDict[tuple[str, str, str], Denial] = OrderedDict()
        self._hits: deque[LimitHit] = deque(maxlen=KEPT_HITS)

    def begin(self) -> None:
        """A new start of the env: what its earlier life was denied is history, the limits it met are not."""
        self.unknown = []
        self.unguarded = []
        self.unready.clear()
        self._denials.clear()

    def denied(self, denial: Denial) -> None:
        """A wall refused something. Of one (wall, what, program) the newest word counts; at the cap the oldest goes."""
        key = (denial.wall, denial.what[:LONGEST], denial.program[:LONGEST])
        known = self._denials.get(key)
        self._count("denials", denial.wall, max(0, denial.count - (known.count if known else 0)))
        self._denials[key] = Denial(
            time=denial.time, wall=key[0], what=key[1], program=key[2], count=denial.count, option=denial.option
        )
        self._denials.move_to_end(key)
        while len(self._denials) > KEPT_DENIALS:
            self._denials.popitem(last=False)

    def hit(self, hit: LimitHit) -> None:
        """A limit was met."""
        self._count("limits", hit.limit, 1)
        self._hits.append(hit)

    def probed(self, service: str, unready: str) -> None:
        """What a readiness check found; empty: it holds."""
        if unready:
            self.unready[service] = unready[:LONGEST]
        else:
            self.unready.pop(service, None)

    @property
    def denials(self) -> list[Denial]:
        """Those kept, the last one last."""
        return list(self._denials.values())

    @property
    def limits(self) -> list[LimitHit]:
        """Those kept, the last one last."""
        return list(self._hits)
