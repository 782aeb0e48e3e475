"""Flags and arguments that several verbs share, spelled once.

Imports click and the template parser; the daemon is asked only by shell completion, and never started by it.
"""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sandboxd.cli.context import Cli, Flags
from sandboxd.cli.template import Template
from sandboxd.errors import SandboxdError, UsageError
from sandboxd.units import parse_duration

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Flags)
Wrapped = TypeVar("Wrapped", bound=Callable[..., Any])


def takes(kind: type[F]) -> Callable[[Callable[[Cli, F], int | None]], Callable[..., int | None]]:
    """Call a verb with the `Cli` and its flags as a struct, so that types are checked where click has only names.

    What the verb returns is the exit code; None is 0.
    """

    def decorate(verb: Callable[[Cli, F], int | None]) -> Callable[..., int | None]:
        @wraps(verb)
        def call(**given: Any) -> int | None:
            return verb(click.get_current_context().ensure_object(Cli), kind(**given))

        return call

    return decorate


class Parts(click.Group):
    """A verb of several parts: its help has a whole sentence of each, where click's own would be cut to a line."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The parts, with what each does first."""
        parts = [(name, part) for name, part in sorted(self.commands.items()) if not part.hidden]
        with formatter.section("Commands"):
            formatter.write_dl([(name, first_sentence(part.help or "")) for name, part in parts])


def first_sentence(text: str) -> str:
    """A docstring's first sentence, without its end."""
    return " ".join(text.split()).partition(". ")[0].rstrip(".")


def env_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
    """Names of envs, for the shell; nothing when no daemon answers."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - only the shell's completion needs it

    from sandboxd.protocol.messages import List  # noqa: PLC0415

    try:
        found = Cli().visitor.call(List(all=True)).envs
    except (SandboxdError, OSError):
        return []
    return [CompletionItem(info.name, help=info.state) for info in found if info.name.startswith(incomplete)]


def checked_format(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A `--format` that can be rendered: mistakes are found before the daemon is asked."""
    if value not in {None, "json", "table"} and value is not None:
        Template(value)
    return value


def checked_duration(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Seconds from `90s`, with the flag's name in the error."""
    if value is None:
        return None
    try:
        return parse_duration(value)
    except SandboxdError as error:
        raise UsageError(f"{param.opts[-1]} {value}: {error.message}", hint=error.hint) from error


def format_option(command: Wrapped) -> Wrapped:
    """`--format json|TEMPLATE`."""
    text = "json (one object a line), or a template such as '{{.Name}}\\t{{.Status}}'."
    return click.option("--format", "how", metavar="FORMAT", callback=checked_format, help=text)(command)


def targets(command: Wrapped) -> Wrapped:
    """`[ENV]... [-l K=V]`: names, ids, unique beginnings of ids; none: the env of this directory."""
    command = click.option("-l", "--label", "labels", multiple=True, metavar="K[=V]", help="Every env with that label.")(
        command
    )
    return click.argument("names", nargs=-1, metavar="[ENV]...", shell_complete=env_names)(command)


def yes_option(command: Wrapped) -> Wrapped:
    """`--yes`, that `all` demands of verbs that destroy."""
    return click.option("--yes", is_flag=True, help="Needed for `all`.")(command)


def duration_option(*names: str, text: str) -> Callable[[Wrapped], Wrapped]:
    """A flag that takes a duration; bare numbers are seconds."""
    return click.option(*names, metavar="DURATION", callback=checked_duration, help=text)


LIMITS = (
    click.option("-m", "--memory", metavar="SIZE", help="Memory of the whole env, such as 512m."),
    click.option("--memory-reservation", metavar="SIZE", help="From there on slow it down and take memory back."),
    click.option("--cpus", type=float, metavar="N", help="CPUs, such as 1.5."),
    click.option("--cpu-weight", type=int, metavar="N", help="Its share of busy CPUs: 1 to 10000, others have 100."),
    click.option("--pids-limit", type=int, metavar="N", help="Tasks (default: 1024; -1: no limit)."),
    click.option("--disk", metavar="SIZE", help="What it may write to its home, logs and /tmp."),
    click.option("--io-read", metavar="SIZE", help="Bytes a second from disk, such as 10m."),
    click.option("--io-write", metavar="SIZE", help="Bytes a second to disk."),
    click.option("--max-connections", type=int, metavar="N", help="Of the router to it; more requests wait in line."),
)


def limits(command: Wrapped) -> Wrapped:
    """The flags of `ceilings.LimitFlags`."""
    for option in reversed(LIMITS):
        command = option(command)
    return command


def reference(command: Wrapped) -> Wrapped:
    """`[ENV[/SERVICE]]`."""
    return click.argument("reference", required=False, metavar="[ENV[/SERVICE]]", shell_complete=env_names)(command)
