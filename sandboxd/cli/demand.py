"""`template ls|inspect|rm` and `ensure`: envs that are made on demand, one for each key.

`up` and `down` of a project with [on_demand] come here, too. A key that is a secret is read from standard input (`--key -`),
since a command line can be read by every user of the machine (proc(5), /proc/PID/cmdline).
"""

import os
import sys
from typing import Literal

import click
import msgspec
from msgspec.structs import replace

from sandboxd.cli import options
from sandboxd.cli.context import Cli, Flags, may_prompt
from sandboxd.cli.progress import Progress
from sandboxd.cli.render import env_columns, items, note, out
from sandboxd.cli.template import Columns, json_line, plain
from sandboxd.cli.translate import handed_on
from sandboxd.errors import NotAccepted, NotFound, UsageError
from sandboxd.protocol.messages import Ensure, Register, RegisterReply, Templates, Unregister
from sandboxd.spec import EnvSpec

LONGEST_KEY = 4096

COLUMNS: Columns = {
    "NAME": lambda info: info.name,
    "KEY": lambda info: ", ".join(info.keys),
    "ENVS": lambda info: f"{info.envs}/{info.max}",
    "WARM": lambda info: f"{info.warm_ready}/{info.warm}",
    "BURST": lambda info: f"{info.burst_ready}/{info.burst}",
    "URL": lambda info: info.url or "",
    "WORKSPACE": lambda info: info.workspace or "",
}


class ListFlags(Flags, frozen=True, kw_only=True):
    """Flags of `template ls`."""

    how: str | None


class NamedFlags(Flags, frozen=True, kw_only=True):
    """Arguments of `template inspect`."""

    names: tuple[str, ...]


class RmFlags(NamedFlags, frozen=True, kw_only=True):
    """Flags of `template rm`."""

    force: bool


class EnsureFlags(Flags, frozen=True, kw_only=True):
    """Flags of `ensure`."""

    name: str
    key: str
    ready: bool
    timeout: float | None
    how: str | None


@click.group(cls=options.Parts, context_settings={"help_option_names": ["-h", "--help"]})
def template() -> None:
    """List, look at or remove templates, of which envs are made on demand. `sandbox up` registers one: [on_demand]."""


@template.command("ls")
@options.format_option
@options.takes(ListFlags)
def list_templates(cli: Cli, flags: ListFlags) -> None:
    """List the templates, with how many envs each has."""
    items(cli.client.call(Templates()).templates, COLUMNS, how=flags.how)


@template.command("inspect")
@click.argument("names", nargs=-1, required=True, metavar="TEMPLATE...")
@options.takes(NamedFlags)
def inspect_templates(cli: Cli, flags: NamedFlags) -> None:
    """Everything about templates, as a JSON array."""
    found = [cli.client.call(Templates(name=name)).templates[0] for name in flags.names]
    out(msgspec.json.format(msgspec.json.encode([plain(info) for info in found]), indent=4).decode())


@template.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="TEMPLATE...")
@click.option("-f", "--force", is_flag=True, help="Also its envs: they are killed and removed.")
@options.takes(RmFlags)
def remove_templates(cli: Cli, flags: RmFlags) -> None:
    """Remove templates: from then on no env is made of them."""
    for name in flags.names:
        cli.client.call(Unregister(name=name, force=flags.force))
        out(name)


@click.command
@click.argument("name", metavar="TEMPLATE")
@click.option("--key", required=True, metavar="KEY", help="VALUE, or KIND:VALUE; `-` reads it from standard input.")
@click.option("--wait/--no-wait", "ready", default=True, help="Until it is ready (default), or only created.")
@options.duration_option("--timeout", text="Give up waiting after that, with exit code 124; the env runs on.")
@options.format_option
@options.takes(EnsureFlags)
def ensure(cli: Cli, flags: EnsureFlags) -> None:
    """The env of a template for a key, as a request with that key would have it: made if there is none, woken if it sleeps."""
    key = flags.key if flags.key != "-" else sys.stdin.readline(LONGEST_KEY + 1).rstrip("\n")
    if not key:
        raise UsageError("the key is empty", hint="sandbox ensure TEMPLATE --key KEY")
    wait: Literal["ready", "created"] = "ready" if flags.ready else "created"
    with Progress(f"starting {flags.name}"):
        reply = cli.client.call(Ensure(template=flags.name, key=key, wait=wait, timeout=flags.timeout))
    if flags.how == "json":
        out(json_line(plain(reply)))
    elif flags.how is not None:
        items([reply.env], env_columns(whole=True), how=flags.how, hide=["LABELS"])
    else:
        out(reply.env.name)
        if reply.cookie is not None:
            note(f"a request is sent there with: Cookie: {reply.cookie}")


def up(cli: Cli, spec: EnvSpec, directory: str, *, accept: bool, how: str | None) -> None:
    """Register a project as a template, or bring it to what its file says now."""
    params = Register(spec=spec, environ=handed_on(os.environ), directory=directory, accept=accept)
    reply = asked(cli, params)
    info = reply.template
    if how is not None:
        items([info], COLUMNS, how=how)
        return
    keys = " or ".join(info.keys)
    out(f"{info.name}   {'a template' if reply.changed else 'a template already'}: an env for each {keys}   {info.url}")
    if not info.create and info.keys != ["cookie"]:
        note(f"requests make no envs by keys of their own choosing (create = true): sandbox ensure {info.name} --key KEY")


def asked(cli: Cli, params: Register) -> RegisterReply:
    """Register, and again once the person at the terminal has said that what it opens is meant."""
    try:
        return cli.client.call(params)
    except NotAccepted as error:
        if not may_prompt():
            raise
        note(f"sandbox: {error.message}")
        if not click.confirm("Is that meant?", default=False, err=True):
            raise
    return cli.client.call(replace(params, accept=True))


def down(cli: Cli, name: str) -> None:
    """Forget a template, and remove its envs."""
    try:
        with Progress(f"ending {name}"):
            cli.client.call(Unregister(name=name, force=True))
    except NotFound:
        note(f"{name} is not up")
        return
    out(name)
