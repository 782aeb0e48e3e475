"""What belongs to no env, of all that a daemon sees on disk, in the kernel and at its router. Pure: sights in, verdicts out.

Nothing is touched at first sight: an env that begins or ends is between two states for a moment, and only what belonged to
nobody at two looks in a row is a leftover. While a launch is under way nobody knows yet whose its process and its control group
will be, so then those with something alive in them are left for another time.
"""

from collections.abc import Collection, Mapping

import msgspec

READY, DOOMED = ".ready-", ".gone-"
MOST = 64  # of a kind in one round
ORDER = ("tasks", "mounts", "cgroups", "files", "sockets", "routes")  # what lives in a place goes before the place


class Thing(msgspec.Struct, frozen=True, order=True):
    """One leftover. kind: as in receipts. name: "PID START", a path, a name in the directory of envs, an env's id."""

    kind: str
    name: str


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """What there is. inits: children of the launcher that are an env's pid 1 or its guard, "PID START". groups: control groups
    of envs by path, with whether something lives in them. names: in the directory of envs, whose path is `place`. sockets: of
    daemons that are dead. ports: ids of envs that have published some."""

    inits: Collection[str] = ()
    mounts: Collection[str] = ()
    groups: Mapping[str, bool] = {}
    names: Collection[str] = ()
    place: str = ""
    sockets: Collection[str] = ()
    ports: Collection[str] = ()


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What belongs to somebody. ids: of all envs; alive: of those that are not at their end. inits: pids. berths: ids of envs
    to come. launching: whether some launch is under way."""

    ids: Collection[str]
    alive: Collection[str] = ()
    inits: Collection[int] = ()
    groups: Collection[str] = ()
    berths: Collection[str] = ()
    launching: bool = False


def strays(sight: Sight, known: Known) -> set[Thing]:
    """What belongs to nobody at this look; so many of a kind at most."""
    found = {
        "tasks": [] if known.launching else [init for init in sight.inits if int(init.split()[0]) not in known.inits],
        "mounts": [path for path in sight.mounts if (name := below(path, sight.place)) and id_of(name) not in known.ids],
        "cgroups": [
            path for path, lives in sight.groups.items() if path not in known.groups and not (lives and known.launching)
        ],
        "files": [name for name in sight.names if is_stray(name, known)],
        "sockets": list(sight.sockets),
        "routes": [env_id for env_id in sight.ports if env_id not in known.alive],
    }
    return {Thing(kind, name) for kind, names in found.items() for name in sorted(set(names))[:MOST]}


def judge(now: Collection[Thing], before: Collection[Thing]) -> tuple[list[Thing], set[Thing]]:
    """What is to be removed, in order, and what is suspected from here on."""
    due = sorted((thing for thing in now if thing in before), key=lambda thing: (ORDER.index(thing.kind), thing.name))
    return due, set(now) - set(due)


def is_stray(name: str, known: Known) -> bool:
    """Whether an entry of the directory of envs is nobody's. What is not named as ours are is not ours to remove."""
    env_id = id_of(name)
    if len(env_id) != 32 or not set(env_id) <= set("0123456789abcdef"):
        return False
    return env_id not in (known.berths if name.startswith(READY) else known.ids)


def id_of(name: str) -> str:
    """The env that an entry of the directory of envs is named for."""
    return name.removeprefix(READY).removeprefix(DOOMED)


def below(path: str, place: str) -> str:
    """The entry of `place` that a path leads into; "" if none."""
    return path.removeprefix(place + "/").partition("/")[0] if place and path.startswith(place + "/") else ""
