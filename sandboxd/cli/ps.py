"""`sandbox ps` and `inspect`: what there is.

Imports the client, messages and render, and nothing that costs time: this is the verb on people's fingers.
"""

import click
import msgspec

from sandboxd.cli import door, options
from sandboxd.cli.context import Chosen, Cli
from sandboxd.cli.listing import PsFlags, show
from sandboxd.cli.render import env_columns, out
from sandboxd.cli.targets import chosen
from sandboxd.cli.template import Template, plain
from sandboxd.errors import NotFound
from sandboxd.protocol.messages import EnvInfo, Inspect


@click.command
@click.option("-a", "--all", "everything", is_flag=True, help="Also envs that have ended.")
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
@click.option("-n", "--last", type=click.IntRange(min=1), metavar="N", help="The N newest, in any state.")
@click.option(
    "-f",
    "--filter",
    "filters",
    multiple=True,
    metavar="K=V",
    help="status=, health=, label=K[=V], name=, id=, template=, key=.",
)
@click.option("-l", "--label", "labels", multiple=True, metavar="K[=V]", help="With that label; several: with them all.")
@click.option("--no-trunc", "whole", is_flag=True, help="Cut nothing short.")
@options.format_option
@options.takes(PsFlags)
def ps(cli: Cli, flags: PsFlags) -> None:
    """List envs that run; with -a also those that have ended."""
    show(cli, flags)


class InspectFlags(Chosen, frozen=True, kw_only=True):
    """Flags of `inspect`."""

    how: str | None


@click.command
@options.targets
@options.format_option
@options.takes(InspectFlags)
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
