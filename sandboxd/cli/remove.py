"""`rm` and `prune`: removing envs, with the receipt of what was counted before and after."""

import click

from sandboxd.cli import options
from sandboxd.cli.context import Chosen, Cli, Flags, may_prompt
from sandboxd.cli.door import complain
from sandboxd.cli.progress import Progress
from sandboxd.cli.render import note, out
from sandboxd.cli.targets import Target, chosen, each
from sandboxd.cli.template import json_line, plain
from sandboxd.errors import Internal, NotFound
from sandboxd.protocol.messages import List, Prune, Remove, RemoveReply


class RmFlags(Chosen, frozen=True, kw_only=True):
    """Flags of `rm`."""

    force: bool
    volumes: bool
    receipt: bool


@click.command
@options.targets
@click.option("-f", "--force", is_flag=True, help="Also envs that run: they are killed.")
@click.option("-v", "--volumes", is_flag=True, help="As docker: an env's private home and logs go in any case.")
@click.option("--receipt", is_flag=True, help="Print what was counted before and after, as JSON.")
@options.yes_option
@options.takes(RmFlags)
def rm(cli: Cli, flags: RmFlags) -> int:
    """Remove envs and all they left: processes, mounts, sockets, private home, logs, routes."""

    def act(cli: Cli, target: Target) -> tuple[str, RemoveReply | None]:
        try:
            return target.shown, cli.client.call(Remove(target=target.target, force=flags.force))
        except NotFound as error:  # as rm(1) and docker: gone is what -f wants
            if not flags.force:
                raise
            complain(error.message)
            return target.shown, None

    targets = chosen(cli, flags, destroys="rm")
    with Progress(f"removing {', '.join(target.shown for target in targets)}"):
        removed, code = each(cli, targets, act, say=False)
    for shown, reply in removed:
        if reply is not None:
            out(json_line(plain(reply)) if flags.receipt else shown)
            code = warn_leaks(reply) or code
    return code


def warn_leaks(reply: RemoveReply) -> int:
    """Say what stayed and should not have; the exit code for it."""
    if not reply.receipt.leaked:
        return 0
    what = ", ".join(f"{count} {kind}" for kind, count in reply.receipt.leaked.items())
    note(f"sandbox: removing {reply.name} left {what} behind")
    return Internal.exit_code


class PruneFlags(Flags, frozen=True, kw_only=True):
    """Flags of `prune`."""

    force: bool
    filters: tuple[str, ...]


@click.command
@click.option("-f", "--force", "--yes", "force", is_flag=True, help="Do not ask.")
@click.option("--filter", "filters", multiple=True, metavar="K=V", help="Only those, as in ps.")
@options.takes(PruneFlags)
def prune(cli: Cli, flags: PruneFlags) -> None:
    """Remove every env that has ended; asks first on a terminal."""
    if not flags.force and may_prompt():
        ended = [info for info in cli.client.call(List(all=True, filters=list(flags.filters))).envs if info.finished]
        if not ended:
            note("nothing to remove")
            return
        note(f"This removes {len(ended)} envs with their private homes and logs: {', '.join(info.name for info in ended)}")
        if not click.confirm("Go on?", default=False, err=True):
            return
    with Progress("removing"):
        removed = cli.client.call(Prune(filters=list(flags.filters))).removed
    for env_id in removed:
        out(env_id)
