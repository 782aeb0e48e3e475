"""Is an env over its limits? Said of one sample, in a way that a person can act on.

Pure. Only memory is judged here: what rlimits and namespaces enforce needs no verdict. RSS never condemns: workers that share
200 MB add up to gigabytes of it (8 of them: 1,681 MB, by PSS 191), so without PSS the answer is "within".
"""

from typing import NamedTuple

from sandboxd.limits.usage import Sample
from sandboxd.spec import Limits
from sandboxd.units import format_size


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
        """What was found, for `ps`, events and exit messages."""
        return f"{format_size(self.value)} in use, the limit is {format_size(self.ceiling)}; {self.hint}" if self.limit else ""


def judge(sample: Sample, limits: Limits) -> Verdict:
    """Hold a sample against an env's limits."""
    if limits.memory is None or sample.pss is None or sample.memory <= limits.memory:
        return Verdict()
    hint = f"raise it with -m {suggested(sample.memory)}, or limits.memory in sandbox.toml"
    if sample.tmpfs - sample.mapped > sample.pss:
        hint = "most of it is files in /tmp or /dev/shm, which are memory: delete some, or " + hint
    return Verdict("memory", sample.memory, limits.memory, hint)


def suggested(used: int) -> str:
    """A limit that this much would have fitted into with room: the next half power of two, as people write sizes."""
    mebibytes = max(used // (1 << 20), 1)
    size = 1
    while size <= mebibytes * 1.25:
        size *= 2
    if size * 3 // 4 > mebibytes * 1.25:
        size = size * 3 // 4
    return f"{size}m" if size < 1024 or size % 256 else f"{size / 1024:g}g"
