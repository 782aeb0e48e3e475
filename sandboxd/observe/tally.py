"""What happened since the daemon began, as numbers that only grow: for `observe.metrics`.

Plain data, time is an argument. Fed with the events that everybody is told of, so there is no second bookkeeping of what an
env goes through. Invariant: bounded, whatever envs do: one start time per env that is between two events, one number per word.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

# From a warm start to an application that compiles itself first (seconds).
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
MOST_OPEN = 100_000


class Histogram:
    """How often each duration was seen; bounds in seconds, each inclusive (Prometheus: `le`)."""

    def __init__(self, bounds: Sequence[float] = BOUNDS) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one; a clock that was set back counts as no time at all."""
        seconds = max(0.0, seconds)
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        """(upper bound, how many were not above it), ending with "+Inf"."""
        found, total = [], 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


class Tally:
    """The numbers. limits, denials, leaks: by limit, wall, kind of thing."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.limits: Counter[str] = Counter()
        self.denials: Counter[str] = Counter()
        self.leaks: Counter[str] = Counter()
        self.queued = Histogram()
        self.started = Histogram()
        self.woken = Histogram()
        self._since: dict[tuple[str, str], float] = {}

    def count(self, what: str, label: str, more: int) -> None:
        """Add to `limits`, `denials` or `leaks`."""
        numbers: Counter[str] = getattr(self, what)
        numbers[label] += more

    def note(self, event: str, env_id: str, now: float) -> None:
        """An event was told. now: seconds."""
        self.events[event] += 1
        match event:
            case "queued" | "starting" | "waking":
                if len(self._since) < MOST_OPEN:
                    self._since[event, env_id] = now
                if event == "starting":
                    self._take(self.queued, "queued", env_id, now)
            case "ready":
                self._take(self.started, "starting", env_id, now)
                self._take(self.woken, "waking", env_id, now)
            case "resumed":
                self._take(self.woken, "waking", env_id, now)
            case "stopped" | "failed" | "removed":
                for begun in ("queued", "starting", "waking"):
                    self._since.pop((begun, env_id), None)

    def _take(self, histogram: Histogram, begun: str, env_id: str, now: float) -> None:
        since = self._since.pop((begun, env_id), None)
        if since is not None:
            histogram.observe(now - since)
