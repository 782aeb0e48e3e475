"""What a user, or all members of a group, may have in all: which quotas hold for an env's owner, and whether one is met. Pure.

A quota is of declared limits, so it is known before anything runs, and the same on every host: what an env may use is what it
counts, whether it uses it or not, and one without such a limit fits into no quota of it. Who has which name and groups is an
argument, as is the time.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import msgspec

from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.states import State
from sandboxd.spec import Quota, Quotas
from sandboxd.units import format_size

FLAGS = {"memory": "-m", "cpus": "--cpus", "pids": "--pids-limit", "disk": "disk in [limits]"}
NAMES = ("envs", *FLAGS)
KEPT = frozenset({"envs", "disk"})  # held by what has ended, too, until it is removed
RUNS = tuple(name for name in NAMES if name not in KEPT)  # what to start again an env that is there asks for
Held = Mapping[int | str, Mapping[str, float]]


class Person(NamedTuple):
    """A user as this host knows him."""

    name: str
    groups: frozenset[str] = frozenset()


class Bound(NamedTuple):
    """One quota that holds. whose: in words. group: of whose members; "": of one user."""

    whose: str
    quota: Quota
    group: str = ""


class Over(NamedTuple):
    """Which quota is met, in words, and what to do."""

    limit: str
    text: str
    hint: str


def bounds(quotas: Quotas, uid: int, person: Person) -> list[Bound]:
    """The quotas that hold for what this user asks for. Root has those only that name him or a group of his."""
    own = quotas.user.get(person.name)
    if own is None:
        own = Quota() if uid == 0 else Quota(**{name: getattr(quotas, name) for name in Quota.__struct_fields__})
    found = [Bound(f"user {person.name}", own)]
    found += [Bound(f"group {name}", quota, name) for name, quota in quotas.group.items() if name in person.groups]
    return [bound for bound in found if bound.quota != Quota()]


def sums(records: Iterable[EnvRecord], people: Mapping[int, Person], alive: Callable[[EnvRecord], bool]) -> Held:
    """What all envs of each user (by uid), and of all members of each group (by name), add up to."""
    found: dict[int | str, dict[str, float]] = {}
    for record in records:
        if record.state is State.REMOVED:
            continue
        runs = alive(record)
        keys: list[int | str] = [record.owner, *people[record.owner].groups]
        for whose in keys:
            held = found.setdefault(whose, dict.fromkeys(NAMES, 0.0))
            for name in NAMES:
                if runs or name in KEPT:
                    held[name] += amount(record, name) or 0
    return found


def over(bound: Bound, held: Held, record: EnvRecord, names: Iterable[str]) -> Over | None:
    """Whether what is held with this env, too, would be too much of any of these."""
    theirs = held.get(bound.group or record.owner, {})
    for name in names:
        most = getattr(bound.quota, name)
        if most is None:
            continue
        asked = amount(record, name)
        if asked is None:
            return Over(
                name,
                f"{record.name} has no limit of {name}, and the quota of {bound.whose} is {word(name, most)} in all",
                f"say how much it may have: {FLAGS[name]}",
            )
        if theirs.get(name, 0) + asked > most:
            return Over(name, said(bound, name, most, (theirs.get(name, 0), asked)), ADVICE[name])
    return None


def amount(record: EnvRecord, name: str) -> float | None:
    """What an env counts; None: it is without bound."""
    return 1 if name == "envs" else getattr(record.limits, name)


def said(bound: Bound, name: str, most: float, sums: tuple[float, float]) -> str:
    """A quota that is met, in words."""
    held, asked = sums
    if name == "envs":
        return f"the quota of {bound.whose} is {word(name, most)} envs, and {word(name, held)} are there"
    rest = f"its envs have {word(name, held)} of that, and this one asks for {word(name, asked)}"
    return f"the quota of {bound.whose} is {word(name, most)} of {name}: {rest}"


def word(name: str, value: float) -> str:
    """An amount in words."""
    return format_size(int(value)) if name in ("memory", "disk") else f"{value:g}"


def too_fast(bound: Bound) -> Over:
    """More starts than may be."""
    return Over("rate", f"the quota of {bound.whose} is {bound.quota.rate} starts a minute", "try again in a moment")


ADMIN = "or have the quota raised in the daemon's config file"
ADVICE = {
    "envs": f"remove some (`sandbox rm`, `sandbox prune`), {ADMIN}",
    "disk": f"remove some (`sandbox rm`, `sandbox prune`), ask for less, {ADMIN}",
    **dict.fromkeys(("memory", "cpus", "pids"), f"stop some (`sandbox stop`), ask for less, {ADMIN}"),
}


def read(table: Mapping[str, object]) -> Quotas:
    """The quotas of a config file, which were checked when it was read."""
    return msgspec.convert(table, Quotas)
