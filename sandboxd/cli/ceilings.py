"""Flags that limit an env, as `run` and `update` share them: docker's names where docker has one.

Pure. Imports spec's units and errors. Invariant: only what was named is in what comes out, and 0 (of tasks -1) takes a limit
away, as in docker.
"""

import math

import msgspec

from sandboxd.errors import NotOffered, SandboxdError, UsageError
from sandboxd.units import parse_size

Changes = dict[str, int | float | None]


class LimitFlags(msgspec.Struct, frozen=True, kw_only=True):
    """The flags; the names are click's."""

    memory: str | None = None
    memory_reservation: str | None = None
    cpus: float | None = None
    cpu_weight: int | None = None
    pids_limit: int | None = None
    disk: str | None = None
    io_read: str | None = None
    io_write: str | None = None
    max_connections: int | None = None


SIZES = {
    "memory": ("-m", "memory"),
    "memory_reservation": ("--memory-reservation", "memory_high"),
    "disk": ("--disk", "disk"),
    "io_read": ("--io-read", "io_read"),
    "io_write": ("--io-write", "io_write"),
}


def changes(flags: LimitFlags) -> Changes:
    """Limit -> what it is to be (None: no limit), of the flags that were given."""
    found: Changes = {}
    for name, (flag, limit) in SIZES.items():
        text = getattr(flags, name)
        if text is not None:
            found[limit] = size(flag, text) or None
    if flags.cpus is not None:
        if not (math.isfinite(flags.cpus) and 0 <= flags.cpus < 1e6):
            raise UsageError(f"--cpus {flags.cpus:g}: not a positive number of CPUs", hint="--cpus 1.5; 0 is no limit")
        found["cpus"] = flags.cpus or None
    if flags.cpu_weight is not None:
        if not 0 <= flags.cpu_weight <= 10000:
            raise UsageError(f"--cpu-weight {flags.cpu_weight}: from 1 to 10000", hint="100 is what everybody has")
        found["cpu_weight"] = flags.cpu_weight or None
    if flags.pids_limit is not None:
        if flags.pids_limit == 0 or flags.pids_limit < -1:
            raise UsageError(f"--pids-limit {flags.pids_limit}: at least 1, or -1 for no limit")
        found["pids"] = None if flags.pids_limit == -1 else flags.pids_limit
    if flags.max_connections is not None:
        if flags.max_connections < 0:
            raise UsageError(f"--max-connections {flags.max_connections}: at least 1, or 0 for no limit")
        found["max_connections"] = flags.max_connections or None
    return found


def nofile(texts: tuple[str, ...]) -> Changes:
    """`--ulimit nofile=SOFT[:HARD]`, the one that there is."""
    found: Changes = {}
    for text in texts:
        key, _, value = text.partition("=")
        if key != "nofile":
            raise NotOffered(f"--ulimit {text}: only nofile can be set", hint="--ulimit nofile=4096")
        soft, _, hard = value.partition(":")
        low = whole(f"--ulimit {text}", soft, 16, 1 << 30)
        found["nofile"] = max(low, whole(f"--ulimit {text}", hard, 16, 1 << 30)) if hard else low
    return found


def size(flag: str, text: str) -> int:
    """Bytes from `512m`; errors name the flag."""
    try:
        return parse_size(text)
    except SandboxdError as error:
        raise UsageError(f"{flag} {text}: {error.message}", hint=error.hint) from error


def whole(flag: str, text: str, low: int, high: int, what: str = "number") -> int:
    """A whole number within its bounds."""
    if not (text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high):
        raise UsageError(f"{flag}: {text!r} is no {what} from {low} to {high}")
    return int(text)
