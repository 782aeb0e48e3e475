"""`sandbox update`: other limits for envs that are there, running or not. Limits only: the rest of an env is its spec's."""

import click

from sandboxd.cli import ceilings, options
from sandboxd.cli.ceilings import LimitFlags
from sandboxd.cli.context import Chosen, Cli, Flags
from sandboxd.cli.targets import Target, chosen, each
from sandboxd.errors import UsageError
from sandboxd.protocol.messages import Update


class UpdateFlags(Flags, LimitFlags, frozen=True, kw_only=True):
    """Flags of `update`."""

    names: tuple[str, ...]
    labels: tuple[str, ...]


@click.command
@options.targets
@options.limits
@options.takes(UpdateFlags)
def update(cli: Cli, flags: UpdateFlags) -> int:
    """Change limits of envs, at once and for every later start; 0 takes one away (of --pids-limit: -1)."""
    wanted = ceilings.changes(flags)
    if not wanted:
        raise UsageError("update needs a limit to change", hint="sandbox update -m 1g ENV; sandbox update --help lists them")

    def act(cli: Cli, target: Target) -> None:
        cli.client.call(Update(target=target.target, limits=wanted))

    _, code = each(cli, chosen(cli, Chosen(names=flags.names, labels=flags.labels)), act)
    return code
