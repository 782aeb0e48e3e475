"""Which envs a verb is about: names and ids as typed, labels, `all`, or the env of the current directory; and doing one
thing to each of them.

Imports the messages and the door. Invariant: `all` never reaches a verb that destroys without `--yes`; one env that fails
does not keep the others from their turn, and the exit code is that of the first failure.
"""

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from sandboxd.cli import door
from sandboxd.cli.context import Chosen, Cli
from sandboxd.cli.listing import has_labels
from sandboxd.cli.render import out
from sandboxd.errors import NotFound, SandboxdError, UsageError
from sandboxd.protocol.messages import EnvInfo, Inspect, List

EVERY = "all"
AT_ONCE = 16

T = TypeVar("T")


class Target(NamedTuple):
    """One env: what the daemon is told, and what is printed (what the user typed, as docker does)."""

    target: str
    shown: str


def chosen(cli: Cli, flags: Chosen, *, destroys: str = "") -> list[Target]:
    """The envs meant. destroys: the verb's name if it destroys. Raises UsageError, NotFound."""
    names, labels = flags.names, flags.labels
    if names and labels:
        raise UsageError("name envs, or select them by label, not both", hint="leave out -l, or the names")
    if EVERY in names or labels:
        if len(names) > 1:
            raise UsageError(f"`{EVERY}` stands alone", hint=f"leave out {', '.join(n for n in names if n != EVERY)}")
        if not labels and destroys and not flags.yes:
            raise UsageError(
                f"`{destroys} {EVERY}` would {destroys} every env of yours", hint=f"sandbox {destroys} {EVERY} --yes"
            )
        filters = [f"label={label}" for label in labels]
        if len(labels) > 1:
            return [Target(info.id, info.name) for info in listed(cli, []) if has_labels(info, labels)]
        return [Target(info.id, info.name) for info in listed(cli, filters)]
    if not names and destroys:
        return [exactly(cli, cli.directory, destroys)]
    if not names:
        here = cli.client.call(Inspect(directory=cli.directory)).env
        return [Target(here.id, here.name)]
    return [Target(name, name) for name in dict.fromkeys(names)]


def exactly(cli: Cli, directory: str, verb: str) -> Target:
    """The env of that very directory: what destroys must not fall on one of a directory above. Raises NotFound."""
    here = cli.client.call(Inspect(directory=directory)).env
    if here.workspace != directory:
        raise NotFound(
            f"no env of {directory}; the nearest is {here.name}, of {here.workspace}",
            hint=f"name it: sandbox {verb} {here.name}",
        )
    return Target(here.id, here.name)


def listed(cli: Cli, filters: list[str]) -> list[EnvInfo]:
    """Envs by the daemon's filters, ended ones too; what is done to one is done to its replicas."""
    return [info for info in cli.client.call(List(all=True, filters=filters)).envs if info.replica_of is None]


def split(reference: str | None) -> tuple[str | None, str | None]:
    """`ENV/SERVICE` in two; each may be missing."""
    if not reference:
        return None, None
    env, _, service = reference.partition("/")
    return env or None, service or None


def one(cli: Cli, name: str | None) -> str:
    """The target of a verb about one env: as typed, or the id of the env of this directory."""
    if name == EVERY:
        raise UsageError(f"this verb is about one env, not `{EVERY}`")
    return name or cli.client.call(Inspect(directory=cli.directory)).env.id


def each(cli: Cli, targets: Sequence[Target], act: Callable[[Cli, Target], T], *, say: bool = True) -> tuple[list[T], int]:
    """Do it to every env, several at once when there are several; the results in order and the exit code.

    say: print each name as it is done, in order.
    """
    results: list[T] = []
    code = 0
    if len(targets) == 1:
        results.append(act(cli, targets[0]))
        if say:
            out(targets[0].shown)
        return results, 0
    for start in range(0, len(targets), AT_ONCE):
        part = targets[start : start + AT_ONCE]
        for target, outcome in zip(part, at_once(cli, part, act), strict=True):
            if isinstance(outcome, BaseException):
                code = code or door.report(outcome)
                continue
            results.append(outcome)
            if say:
                out(target.shown)
    return results, code


def at_once(cli: Cli, targets: Sequence[Target], act: Callable[[Cli, Target], T]) -> "list[T | BaseException]":
    """Each in a thread of its own: ten envs with a grace of ten seconds must not take a hundred."""
    outcomes: list[T | BaseException] = [SandboxdError("was interrupted")] * len(targets)

    def work(number: int, target: Target) -> None:
        try:
            outcomes[number] = act(cli, target)
        except BaseException as error:  # told by the main thread, through the door
            outcomes[number] = error

    threads = [threading.Thread(target=work, args=pair, daemon=True) for pair in enumerate(targets)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes
