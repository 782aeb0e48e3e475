"""`update`: from limits asked for to limits in force, or why not.

Pure. Of what runs, a cgroup can change everything; without one the kernel lets nobody unprivileged raise a hard rlimit again
(setrlimit(2)), and a filter that keeps an env from changing its CPUs is either there from the start or not at all. Shrinking
below what is in use is refused with the use named, as runc does it: the kernel would take it as an order to kill.
"""

from collections.abc import Mapping

import msgspec

from sandboxd.errors import InvalidState, LimitUnenforceable, UsageError
from sandboxd.limits.verdict import amount
from sandboxd.spec import Limits

Value = int | float | None
LATER = "stop it, change the limit, and start it again: sandbox stop, update, start"


def changed(limits: Limits, asked: Mapping[str, Value]) -> Limits:
    """The limits with these changes; raises UsageError for a name or value that cannot be meant."""
    unknown = sorted(set(asked) - set(limits.__struct_fields__))
    if unknown:
        raise UsageError(f"there is no limit {unknown[0]!r}", hint=f"limits are: {', '.join(limits.__struct_fields__)}")
    try:
        return msgspec.convert({**msgspec.to_builtins(limits), **asked}, Limits)
    except msgspec.ValidationError as error:
        raise UsageError(f"these limits cannot be meant: {error}") from error


def overrides(spec: Limits, wanted: Limits) -> dict[str, Value]:
    """What differs from the limits of the spec."""
    return {name: getattr(wanted, name) for name in spec.__struct_fields__ if getattr(wanted, name) != getattr(spec, name)}


def refuse(old: Limits, new: Limits, ways: Mapping[str, str], planned: Mapping[str, str]) -> None:
    """Raise LimitUnenforceable for a change that cannot reach what runs.

    ways: how limits are enforced now; planned: how they would be.
    """
    if old.nofile != new.nofile:
        raise unreachable("nofile", "open files are counted by each process, by an rlimit that it was started with")
    is_raised = old.pids is not None and (new.pids is None or new.pids > old.pids)
    if is_raised and "rlimit" in (ways.get("pids"), planned.get("pids")):
        raise unreachable("pids", "without a cgroup it is an rlimit, which can be lowered but not raised again")
    if planned.get("cpus") == "affinity" and ways.get("cpus") != "affinity":
        raise unreachable("cpus", "without a cgroup the env must be kept from choosing its CPUs from its start on")


def unreachable(limit: str, why: str) -> LimitUnenforceable:
    """A limit that what runs cannot be given."""
    return LimitUnenforceable(
        f"the limit {limit!r} cannot be changed while it runs: {why}", hint=LATER, limit=limit, reason=why
    )


def refuse_below_use(old: Limits, new: Limits, used: Mapping[str, int]) -> None:
    """Raise InvalidState for a limit that is to shrink below what is in use (by name; missing: not known)."""
    for name, use in used.items():
        before, after = getattr(old, name), getattr(new, name)
        if after is not None and after < use and (before is None or after < before):
            raise InvalidState(
                f"{amount(name, use)} of {name} are in use, more than {amount(name, after)}",
                hint=f"free some first, or give it at least {amount(name, use)}",
                limit=name,
                used=use,
            )
