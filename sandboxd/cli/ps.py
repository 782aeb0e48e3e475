"""`sandbox ps` and `inspect`: what there is.

Imports the client, messages and render, and nothing that costs time: this is the verb on people's fingers.
"""

import click
import msgspec

from sandboxd.cli import door, options
from sandboxd.cli.context import Chosen, Cli, Flags, takes
from sandboxd.cli.phrases import short_id
from sandboxd.cli.render import env_columns, items, out
from sandboxd.cli.targets import chosen, has_labels
from sandboxd.cli.template import Template, plain
from sandboxd.errors import NotFound
from sandboxd.protocol.messages import EnvInfo, Inspect, List


class PsFlags(Flags, frozen=True, kw_only=True):
    """Flags of `ps`."""

    everything: bool
    quiet: bool
    last: int | None
    filters: tuple[str, ...]
    labels: tuple[str, ...]
    whole: bool
    how: str | None


@click.command
@click.option("-a", "--all", "everything", is_flag=True, help="Also envs that have ended.")
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
@click.option("-n", "--last", type=click.IntRange(min=1), metavar="N", help="The N newest, in any state.")
@click.option("-f", "--filter", "filters", multiple=True, metavar="K=V", help="status=, health=, label=K[=V], name=, id=.")
@click.option("-l", "--label", "labels", multiple=True, metavar="K[=V]", help="With that label; several: with them all.")
@click.option("--no-trunc", "whole", is_flag=True, help="Cut nothing short.")
@options.format_option
@takes(PsFlags)
def ps(cli: Cli, flags: PsFlags) -> None:
    """List envs that run; with -a also those that have ended."""
    found = cli.client.call(List(all=flags.everything or flags.last is not None, filters=list(flags.filters))).envs
    found = [info for info in found if has_labels(info, flags.labels)][: flags.last]
    if flags.quiet:
        for info in found:
            out(short_id(info.id, whole=flags.whole))
        return
    items(found, env_columns(whole=flags.whole), how=flags.how, hide=["LABELS"])


class InspectFlags(Chosen, frozen=True, kw_only=True):
    """Flags of `inspect`."""

    how: str | None


@click.command
@options.targets
@options.format_option
@takes(InspectFlags)
def inspect(cli: Cli, flags: InspectFlags) -> int:
    """Everything about envs, as a JSON array; with a template a line for each."""
    found: list[EnvInfo] = []
    code = 0
    for target in chosen(cli, flags):
        try:
            found.append(cli.client.call(Inspect(target=target.target)).env)
        except NotFound as error:  # the others are shown all the same, as docker does
            code = door.report(error)
    if flags.how not in {None, "json", "table"} and flags.how is not None:
        template = Template(flags.how)
        for info in found:
            out(template.render(info, env_columns(whole=True)))
    else:
        data = msgspec.json.encode([plain(info) for info in found])
        out(msgspec.json.format(data, indent=0 if flags.how == "json" else 4).decode())
    return code
