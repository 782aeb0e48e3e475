"""Is an env over its limits? Said of one sample, in a way that a person can act on.

Pure. What the kernel itself enforces (cgroup, rlimit, affinity) needs no verdict. RSS never condemns: workers that share 200 MB
add up to gigabytes of it (8 of them: 1,681 MB, by PSS 191), so without PSS the answer is "within".
"""

from collections.abc import Mapping
from typing import NamedTuple

from sandboxd.limits.usage import Sample
from sandboxd.spec import Limits
from sandboxd.units import format_size

SAMPLED = "sampled"


class Verdict(NamedTuple):
    """Within (no `limit`), or over: the limit's name, what was found, what is allowed, what to do."""

    limit: str = ""
    value: int = 0
    ceiling: int = 0
    hint: str = ""

    @property
    def within(self) -> bool:
        """Whether nothing is wrong."""
        return not self.limit

    def describe(self) -> str:
        """What was found, for `ps`, events and exit messages: up to the semicolon it is what, after it what to do."""
        if not self.limit:
            return ""
        ceiling = f"{amount(self.limit, self.ceiling)} limit, " if self.ceiling else ""
        return f"{ceiling}peak {amount(self.limit, self.value)}; {self.hint}"


def judge(sample: Sample, limits: Limits, ways: Mapping[str, str]) -> Verdict:
    """Hold a sample against an env's limits. ways: how each is enforced; only what is sampled is judged."""
    if limits.pids is not None and ways.get("pids") == SAMPLED and sample.pids > limits.pids:
        return over("pids", sample.pids, limits.pids)
    if limits.memory is None or ways.get("memory", SAMPLED) != SAMPLED:
        return Verdict()
    if sample.pss is None or sample.memory <= limits.memory:
        return Verdict()
    found = over("memory", sample.memory, limits.memory)
    if sample.tmpfs - sample.mapped > sample.pss:
        hint = f"most of it is files in /tmp, /dev/shm or memfds, which are memory: delete some, or {found.hint}"
        return found._replace(hint=hint)
    return found


def over(limit: str, value: int, ceiling: int) -> Verdict:
    """A limit that was passed, with what to raise."""
    return Verdict(limit, value, ceiling, advice(limit, max(value, ceiling)))


def advice(limit: str, used: int) -> str:
    """What to raise, and to what, after an env met a limit with that much."""
    match limit:
        case "memory":
            return f"raise it with -m {suggested(used)}, or limits.memory in sandbox.toml"
        case "disk":
            return f"delete some, or raise it with --disk {suggested(used)}, or limits.disk in sandbox.toml"
        case "pids":
            return f"raise it with --pids-limit {used * 2}, or limits.pids in sandbox.toml, unless something forks without end"
        case "nofile":
            return f"raise it with --ulimit nofile={used * 2}, or limits.nofile in sandbox.toml, unless something leaks them"
        case "cpus":
            return "raise it with --cpus, or limits.cpus in sandbox.toml"
    return f"raise limits.{limit} in sandbox.toml"


def amount(limit: str, value: float) -> str:
    """A limit's value for people."""
    return f"{value:g}" if limit in ("pids", "cpus", "cpu_weight", "nofile", "max_connections") else format_size(value)


def suggested(used: int) -> str:
    """A limit that this much would have fitted into with room: the next half power of two, as people write sizes."""
    mebibytes = max(used // (1 << 20), 1)
    size = 1
    while size <= mebibytes * 1.25:
        size *= 2
    if size * 3 // 4 > mebibytes * 1.25:
        size = size * 3 // 4
    return f"{size}m" if size < 1024 or size % 256 else f"{size / 1024:g}g"
