"""Is an env used, since when not, and what becomes of it then. Pure: what was seen and the time are arguments.

Asked again and again: `look` takes the facts of now and what was seen before, and gives what is to be remembered. Bytes in open
tunnels are added up over a minute and held against what keep-alives need, so that a WebSocket that only pings counts as unused;
an exchange that began and ended between two looks shows in the count of requests. What runs by itself shows in its CPU time.
"""

from typing import Literal

import msgspec

from sandboxd.spec import Idle
from sandboxd.units import format_duration, format_size

WINDOW = 60.0  # seconds over which a tunnel's bytes are added up
SHORTEST_LOAD = 1.0  # seconds over which a load can be told: processor time is counted in hundredths
Step = Literal["suspend", "stop", "remove"]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """An env now. busy, requests, tunnels, tunnelled: as the router counts them. sessions: of exec and attach that are open.
    cpu: seconds of processor time so far, None: not looked at."""

    now: float
    busy: int = 0
    requests: int = 0
    tunnels: int = 0
    tunnelled: int = 0
    sessions: int = 0
    cpu: float | None = None


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of an env. since: when it was used last. awake: what uses it now, in words. window: since when its
    tunnels' bytes are added up; moved: those bytes. cpu: when its processor time was looked at, and what it was; percent: the
    load then."""

    facts: Facts
    since: float
    awake: list[str] = []
    window: float
    moved: int = 0
    cpu: tuple[float, float] | None = None
    percent: float = 0.0


def look(before: Seen | None, facts: Facts, rule: Idle) -> Seen:
    """Take in what is seen now."""
    if before is None:
        cpu = None if facts.cpu is None else (facts.now, facts.cpu)
        seen = Seen(facts=facts, since=facts.now, window=facts.now, cpu=cpu)
        return msgspec.structs.replace(seen, awake=uses(seen, facts, 0, 0.0, rule))
    moved = before.moved + traffic(before.facts, facts)
    window = before.window
    if facts.now - window >= WINDOW:
        # From here on only the last look's bytes are known to be new: what is past counts no more.
        window, moved = facts.now, traffic(before.facts, facts)
    percent, cpu = load(before, facts)
    awake = uses(before, facts, moved, percent, rule)
    since = facts.now if awake else before.since
    return Seen(facts=facts, since=since, awake=awake, window=window, moved=moved, cpu=cpu, percent=percent)


def traffic(before: Facts, facts: Facts) -> int:
    """Bytes that went through open tunnels between two looks. One that closed took its bytes out of the sum."""
    return max(0, facts.tunnelled - before.tunnelled)


def load(before: Seen, facts: Facts) -> tuple[float, tuple[float, float] | None]:
    """Percent of one CPU since it was looked at last, and what to remember; too soon to tell: as then."""
    if facts.cpu is None or (before.cpu is not None and facts.now - before.cpu[0] < SHORTEST_LOAD):
        return before.percent, before.cpu
    if before.cpu is None:
        return 0.0, (facts.now, facts.cpu)
    return max(0.0, facts.cpu - before.cpu[1]) / (facts.now - before.cpu[0]) * 100, (facts.now, facts.cpu)


def uses(before: Seen, facts: Facts, moved: int, percent: float, rule: Idle) -> list[str]:
    """What uses it, in words."""
    found = []
    if rule.requests and facts.busy:
        found.append(f"{counted(facts.busy, 'request')} under way")
    elif rule.requests and facts.requests != before.facts.requests:
        found.append("a request a moment ago")
    if facts.tunnels != before.facts.tunnels:
        found.append("a WebSocket or other tunnel that was just opened or closed")
    if moved > rule.traffic:
        found.append(
            f"{format_size(moved)} within a minute through {counted(facts.tunnels, 'open tunnel')} "
            f"(up to {format_size(rule.traffic)} count as keep-alives)"
        )
    if rule.sessions and facts.sessions:
        found.append(f"{counted(facts.sessions, 'open session')} of exec or attach")
    if percent > rule.cpu:
        found.append(f"{percent:.0f}% of a CPU (up to {rule.cpu:g}% counts as idle)")
    return found


def counted(number: int, what: str) -> str:
    """`1 request`, `2 requests`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def next_step(rule: Idle, state: str, since: float) -> tuple[Step, float] | None:
    """What becomes of it next if nobody uses it, and when. state: ready, suspended or stopped; since: when it was used last."""
    order: dict[str, tuple[Step, ...]] = {
        "ready": ("suspend", "stop", "remove"),
        "suspended": ("stop", "remove"),
        "stopped": ("remove",),
    }
    for step in order.get(state, ()):
        after = getattr(rule, step)
        if after is not None:
            return step, since + after
    return None


DONE = {"suspend": "suspended", "stop": "stopped", "remove": "removed"}


def outlook(rule: Idle | None, state: str, since: float, now: float) -> list[str]:
    """What becomes of what nobody uses, and when; for people. since: when it was used last."""
    if rule is None:
        return ["nothing puts it to sleep: it has no idle rule (`--idle 15m`, or lifecycle.idle in sandbox.toml)"]
    coming = next_step(rule, state, since)
    if coming is None:
        return []
    step, due = coming
    left, idle = format_duration(max(0.0, due - now)), format_duration(max(0.0, now - since))
    return [f"nothing, for {idle}: it is {DONE[step]} in {left}"]
