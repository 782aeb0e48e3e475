"""Limits of what runs: what follows when one is met, and how a changed one is brought to bear.

Touches /proc and prlimit(2): rlimits and CPUs of every process of an env, init's too. Whoever is born while this goes on
inherits from a parent that may not have had its turn yet, so the walk is repeated until it finds nobody new. What the kernel
refuses is raised; a process that ends meanwhile is none.
"""

import logging
import os
import resource
import time
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from sandboxd.isolation.enforcement import rlimits
from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.view import rfc3339
from sandboxd.limits.sampler import walk
from sandboxd.limits.verdict import Verdict
from sandboxd.protocol.messages import LimitHit

if TYPE_CHECKING:
    from sandboxd.daemon.actor import Actor

log = logging.getLogger(__name__)
QUIET = 60.0  # seconds between two words of the same limit
ROUNDS = 10  # a fork bomb must not keep the daemon here; what it starts inherits from what was reached


def end(actor: "Actor", verdict: Verdict) -> None:
    """A limit was passed: the env ends, and its cause is known."""
    if not actor.record.cause:  # the kill is under way: one hit, however often it is still seen
        note(actor, verdict)
    actor.post(ev.KillAsked(cause=verdict.limit, reason=verdict.describe()))


def met(actor: "Actor", verdict: Verdict) -> None:
    """A limit was met that ends nothing: said at most once in a while, since what runs inside decides how often it is met."""
    last = [parsed(hit.time) for hit in actor.body.notebook.limits if hit.limit == verdict.limit]
    if last and time.time() - max(last) < QUIET:
        return
    note(actor, verdict)
    actor.supervisor.announce(actor.record, "limit", {"limit": verdict.limit, "reason": verdict.describe()})


def note(actor: "Actor", verdict: Verdict) -> None:
    """For `why`."""
    now = rfc3339(time.time()) or ""
    hit = LimitHit(time=now, limit=verdict.limit, value=verdict.ceiling, peak=verdict.value, advice=verdict.hint)
    actor.body.notebook.hit(hit)


def parsed(moment: str) -> float:
    """A notebook's time as seconds since the epoch."""
    return datetime.fromisoformat(moment).timestamp()


def apply(actor: "Actor") -> str:
    """The limits of an env's record, on all of its processes; what the kernel refused, or "" ."""
    try:
        bring_to_bear(actor)
    except OSError as error:
        log.warning("env %s: its new limits are not all in force: %s", actor.record.name, error)
        return str(error)
    return ""


def bring_to_bear(actor: "Actor") -> None:
    """The same, or OSError."""
    record, facts = actor.record, actor.supervisor.host.limits
    if record.init is None:
        return
    if record.cgroup:
        actor.supervisor.control.limit(record.limits, record.cgroup, record.enforced)
    wanted = rlimits(record.limits, record.enforced, facts.hard)
    for name in ("DATA", "FSIZE"):  # a limit that was taken away
        wanted.setdefault(name, (-1, -1))
    for name in ("NOFILE", "CORE"):
        wanted.pop(name, None)
    cpus = record.cpus
    limit_tree(record.init.pid, wanted, cpus)


def limit_tree(init: int, rlimits: Mapping[str, tuple[int, int]], cpus: list[int]) -> None:
    """Set soft limits (a hard one only downwards) and, with any, the CPUs of init and all below it; raises OSError."""
    done: set[int] = set()
    for _ in range(ROUNDS):
        new = {init, *walk(init)} - done
        if not new:
            return
        for pid in new:
            try:
                for name, pair in rlimits.items():
                    lower(pid, getattr(resource, f"RLIMIT_{name}"), pair)
                if cpus:
                    pin(pid, cpus)
            except (ProcessLookupError, FileNotFoundError):
                continue
        done |= new


def lower(pid: int, which: int, pair: tuple[int, int]) -> None:
    """Set one rlimit of one process; its hard limit is never raised, since the kernel refuses that (setrlimit(2))."""
    _, hard = resource.prlimit(pid, which)
    wanted = hard if pair[1] < 0 else pair[1] if hard < 0 else min(hard, pair[1])
    soft = wanted if pair[0] < 0 else pair[0] if wanted < 0 else min(pair[0], wanted)
    resource.prlimit(pid, which, (soft, wanted))


def pin(pid: int, cpus: list[int]) -> None:
    """The CPUs of each of its threads."""
    done: set[str] = set()
    while new := set(os.listdir(f"/proc/{pid}/task")) - done:
        for thread in new:
            try:
                os.sched_setaffinity(int(thread), cpus)
            except ProcessLookupError:
                continue
        done |= new
