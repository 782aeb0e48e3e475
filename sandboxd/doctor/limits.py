"""With what each limit is enforced on this host, or why it would be refused: the very decision that an env meets. Pure."""

from typing import Any

from msgspec.structs import replace

from sandboxd.doctor.facts import DaemonFacts, Facts
from sandboxd.doctor.report import Check
from sandboxd.errors import LimitUnenforceable
from sandboxd.isolation.enforcement import enforcement
from sandboxd.isolation.facts import LimitFacts
from sandboxd.spec import Limits

# What is asked for, to see: any value of each would do, but for CPUs, of which a part is harder than the whole.
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "memory": ("memory", {"memory": 512 << 20}),
    "memory_high": ("memory_high", {"memory_high": 512 << 20}),
    "cpus": ("cpus, whole ones", {"cpus": 1.0}),
    "cpus.part": ("cpus, parts of one", {"cpus": 0.5}),
    "cpu_weight": ("cpu_weight", {"cpu_weight": 100}),
    "pids": ("pids", {"pids": 256}),
    "disk": ("disk", {"disk": 1 << 30}),
    "io_read": ("io_read", {"io_read": 1 << 20}),
    "io_write": ("io_write", {"io_write": 1 << 20}),
    "nofile": ("nofile", {"nofile": 1024}),
}
WORDS = {
    "cgroup": "cgroup: the kernel holds the whole env to it",
    "rlimit": "rlimit: the kernel holds each process, or the env's user, to it",
    "affinity": "affinity: the env is kept to that many CPUs",
    "sampled": "sampled: an env that is over is stopped, and may be over for a moment",
}
# What says it better of one limit.
BY_NAME = {
    "disk": "sampled: an env that is over is stopped; no single file gets larger, and /tmp, /dev/shm and /run have their size."
    " Only root may give a directory a quota (project quotas of ext4 and xfs), and sandboxd gives none",
}


def limits(facts: Facts) -> list[Check]:
    """Whether control groups are delegated to us, and a check for each limit."""
    if facts.limits is None:
        return []
    facts = replace(facts, limits=known(facts.limits, facts.daemon))
    assert facts.limits is not None
    pinned = facts.host is not None and facts.host.walls["seccomp"].offered  # only its filter keeps an env on its CPUs
    found = []
    for id, (name, asked) in ASKED.items():
        found.append(limit(id, name, Limits(**{"pids": None, "nofile": None, **asked}), facts, pinned))
    return [delegation(facts.limits), *found]


def known(looked: LimitFacts, daemon: DaemonFacts) -> LimitFacts:
    """What a daemon that runs says of its control groups counts: they are its launcher's, not ours."""
    if daemon.state != "alive" or not (daemon.controllers or daemon.uncontrolled):
        return looked
    return replace(looked, controllers=daemon.controllers, reason=daemon.uncontrolled, fix=daemon.control)


def delegation(seen: LimitFacts) -> Check:
    """Control groups of our own: without them there is tier T2."""
    name = "control groups of our own (cgroup v2, delegated)"
    if seen.controllers:
        return Check(id="limit.cgroup", group="limits", name=name, offered=True, reason=", ".join(seen.controllers))
    return Check(id="limit.cgroup", group="limits", name=name, status="warn", offered=False, reason=seen.reason, fix=seen.fix)


def limit(id: str, name: str, asked: Limits, facts: Facts, pinned: bool) -> Check:
    """One limit, asked for as an env would."""
    assert facts.limits is not None
    try:
        ways = enforcement(asked, facts.limits, kuid=facts.uid, pinned=pinned)
    except LimitUnenforceable as error:
        why = str(error.details.get("reason") or error.message)
        if facts.limits.reason:
            why = why.replace(f", and {facts.limits.reason}", "")  # said above
        return Check(
            id=f"limit.{id}", group="limits", name=name, status="warn", offered=False, reason=f"refused: {why}", fix=error.hint
        )
    way = next(iter(ways.values()))
    return Check(id=f"limit.{id}", group="limits", name=name, offered=True, reason=BY_NAME.get(id, WORDS[way]))
