"""`sandbox context`: boxes by name, as docker's contexts: made, listed, chosen, removed.

They are the user's own (contexts.json beside the config file), nothing of the daemon's. It is written whole or not at all.
"""

import os
from pathlib import Path

import click
import msgspec

from sandboxd.cli import options
from sandboxd.cli.context import Cli, Flags
from sandboxd.cli.render import items, note, out
from sandboxd.cli.template import Columns
from sandboxd.client.hosts import LOCAL, Context, Contexts, contexts_file, parse_host, read_contexts
from sandboxd.errors import NameTaken, StoreFailed, UsageError
from sandboxd.protocol.messages import Reply


class Row(Reply, frozen=True, kw_only=True):
    """A context as it is listed."""

    name: str
    host: str
    description: str
    current: bool


COLUMNS: Columns = {
    "NAME": lambda row: f"{row.name} *" if row.current else row.name,
    "DESCRIPTION": lambda row: row.description,
    "HOST": lambda row: row.host,
}


def keep(contexts: Contexts) -> None:
    """Write them down."""
    path = Path(contexts_file(os.environ))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.{os.getpid()}")
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(contexts)))
        fresh.replace(path)
    except OSError as error:
        raise StoreFailed(f"cannot write {path}: {error.strerror}") from error


@click.group(cls=options.Parts, context_settings={"help_option_names": ["-h", "--help"]})
def context() -> None:
    """Name the boxes that you reach by ssh, and choose one."""


class CreateFlags(Flags, frozen=True, kw_only=True):
    """Flags of `context create`."""

    name: str
    host: str
    description: str


@context.command("create")
@click.argument("name", metavar="NAME")
@click.option("--host", required=True, metavar="URL", help="Where it leads, as ssh://user@box.")
@click.option("--description", default="", metavar="TEXT", help="For `context ls`.")
@options.takes(CreateFlags)
def create(cli: Cli, flags: CreateFlags) -> None:
    """Give a box a name."""
    contexts = read_contexts(os.environ)
    if flags.name == LOCAL or flags.name in contexts.contexts:
        raise NameTaken(f"there is a context {flags.name!r} already", hint=f"sandbox context rm {flags.name}")
    if not flags.name or not flags.name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise UsageError(f"{flags.name!r} is no name", hint="letters, digits, hyphens, dots")
    contexts.contexts[flags.name] = Context(host=str(spelled(flags.host)), description=flags.description)
    keep(contexts)
    out(flags.name)


def spelled(host: str) -> str:
    """A host in its one spelling; raises UsageError."""
    found = parse_host(host)
    return f"unix://{found}" if isinstance(found, str) else str(found)


class ListFlags(Flags, frozen=True, kw_only=True):
    """Flags of `context ls`."""

    how: str | None


@context.command("ls")
@options.format_option
@options.takes(ListFlags)
def ls(cli: Cli, flags: ListFlags) -> None:
    """List contexts; a star marks the one in use."""
    contexts = read_contexts(os.environ)
    known = {LOCAL: Context(host="", description="this machine"), **contexts.contexts}
    rows = [
        Row(name=name, host=one.host, description=one.description, current=name == contexts.current)
        for name, one in known.items()
    ]
    items(rows, COLUMNS, how=flags.how)


class NameFlags(Flags, frozen=True, kw_only=True):
    """A context's name."""

    name: str


@context.command("use")
@click.argument("name", metavar="NAME")
@options.takes(NameFlags)
def use(cli: Cli, flags: NameFlags) -> None:
    """Have every later command mean that box; `default` is this machine."""
    contexts = read_contexts(os.environ)
    contexts.host(flags.name)
    contexts.current = flags.name
    keep(contexts)
    out(flags.name)
    for variable in ("SANDBOX_HOST", "SANDBOX_CONTEXT", "SANDBOXD_SOCKET", "SANDBOXD_DIR"):
        if os.environ.get(variable):
            note(f"sandbox: {variable} is set, and wins over it")


@context.command("rm")
@click.argument("name", metavar="NAME")
@options.takes(NameFlags)
def rm(cli: Cli, flags: NameFlags) -> None:
    """Forget a context; of the box itself nothing is removed."""
    contexts = read_contexts(os.environ)
    contexts.host(flags.name)
    if flags.name == LOCAL:
        raise UsageError("this machine's context stays", hint="sandbox context use NAME chooses another")
    del contexts.contexts[flags.name]
    if contexts.current == flags.name:
        contexts.current = LOCAL
        note("sandbox: commands mean this machine again")
    keep(contexts)
    out(flags.name)


@context.command("show")
@options.takes(Flags)
def show(cli: Cli, flags: Flags) -> None:
    """Print the name of the context in use."""
    out(read_contexts(os.environ).current)
