"""What `sandbox ps` does, without click: imports the messages and render only.

`USUAL` has the spellings that people type all day, so that those need no parser at all; every other one is click's. Invariant:
a spelling means here exactly what it means there (a test compares them).
"""

from collections.abc import Sequence

from sandboxd.cli.context import Cli, Flags
from sandboxd.cli.phrases import short_id
from sandboxd.cli.render import env_columns, items, out
from sandboxd.protocol.messages import EnvInfo, List


class PsFlags(Flags, frozen=True, kw_only=True):
    """Flags of `ps`."""

    everything: bool = False
    quiet: bool = False
    last: int | None = None
    filters: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    whole: bool = False
    how: str | None = None


USUAL: dict[tuple[str, ...], PsFlags] = {
    (): PsFlags(),
    ("-a",): PsFlags(everything=True),
    ("--all",): PsFlags(everything=True),
    ("-q",): PsFlags(quiet=True),
    ("-aq",): PsFlags(everything=True, quiet=True),
    ("-qa",): PsFlags(everything=True, quiet=True),
    ("-a", "-q"): PsFlags(everything=True, quiet=True),
    ("--format", "json"): PsFlags(how="json"),
    ("--format=json",): PsFlags(how="json"),
    ("-a", "--format", "json"): PsFlags(everything=True, how="json"),
}
"""Flags as typed, and what they mean."""


def show(cli: Cli, flags: PsFlags) -> None:
    """Ask for the envs and print them."""
    found = cli.client.call(List(all=flags.everything or flags.last is not None, filters=list(flags.filters))).envs
    found = [info for info in found if has_labels(info, flags.labels)][: flags.last]
    if flags.quiet:
        out(*(short_id(info.id, whole=flags.whole) for info in found))
        return
    hide = ["LABELS"] if any(info.key for info in found) else ["LABELS", "KEY"]
    items(found, env_columns(whole=flags.whole), how=flags.how, hide=hide)


def has_labels(info: EnvInfo, labels: Sequence[str]) -> bool:
    """Whether an env has them all: repeated -l is *and*, while the daemon's filters of one key are *or* (docker's rule)."""
    for label in labels:
        key, equals, value = label.partition("=")
        if key not in info.labels or (equals and info.labels[key] != value):
            return False
    return True
