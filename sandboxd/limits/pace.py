"""When to look at an env again: soon while it grows towards its memory limit, seldom while its CPU time stands still.

Pure. The kernel tells of no sum of processes without a cgroup, so what an env takes between two looks is what it may take too
much. A look costs a millisecond: four a second while it works, and while it grows so many that the limit is not passed unseen.
"""

from sandboxd.limits.usage import Sample

TICK = 0.25  # seconds, for a limit that holds only because we look
SELDOM = 4.0  # for any other, to notice what it met
MOST_TIMES = 8  # as long, while nothing runs: step by step, or at once where a limit holds without us
LEAST = 0.015
STILL, LONG = 0.01, 0.2  # seconds of CPU time, in seconds that are long enough to say so: it is counted in ticks


def pause(last: Sample, before: Sample | None, memory: int | None, *, sampled: bool, earlier: float) -> float:
    """Seconds until the next look. memory: the limit, if it is sampled; earlier: the pause before."""
    usual = TICK if sampled else SELDOM
    if before is None or last.now <= before.now:
        return usual
    rate = (last.memory - before.memory) / (last.now - before.now)
    if memory is not None and rate > 0:
        return min(usual, max(LEAST, (memory - last.memory) / rate / 2))
    if last.now - before.now >= LONG and last.cpu_seconds - before.cpu_seconds < STILL:
        return min(max(earlier, usual) * 2, usual * MOST_TIMES) if sampled else usual * MOST_TIMES
    return usual
