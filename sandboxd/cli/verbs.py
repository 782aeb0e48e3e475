"""Every verb by name: where it lives, its line in `--help`, and the click group that imports it when it is typed.

Imports click, and no verb. A verb's module is imported by name from `VERBS`. Invariant: `--help` imports none of them.
"""

import importlib
import os
import sys
from typing import NamedTuple

import click

from sandboxd import __version__
from sandboxd.cli.context import COMPLETE, Cli
from sandboxd.cli.door import complain
from sandboxd.errors import EXIT_FAILED, EXIT_SANDBOXD, EXIT_USAGE, NotOffered, SandboxdError, UsageError

NEAR_FLAGS = 3


class Verb(NamedTuple):
    """Where a verb lives: module in this package, function there, its line in `--help`, its section."""

    module: str
    function: str
    line: str
    section: str


START, LOOK, USE, CHANGE, SYSTEM = "Start", "Look", "Use", "Change", "The rest"

VERBS: dict[str, Verb] = {
    "up": Verb("up", "up", "Start the project of this directory (sandbox.toml)", START),
    "down": Verb("up", "down", "Stop and remove the project of this directory", START),
    "run": Verb("run", "run", "Run a command in an env of its own", START),
    "ps": Verb("ps", "ps", "List envs", LOOK),
    "inspect": Verb("ps", "inspect", "Everything about an env, as JSON", LOOK),
    "logs": Verb("logs", "logs", "Show what an env's services wrote", LOOK),
    "events": Verb("logs", "events", "Show what happened to envs", LOOK),
    "stats": Verb("stats", "stats", "Show what envs use, live", LOOK),
    "top": Verb("stats", "top", "Show an env's processes", LOOK),
    "why": Verb("why", "why", "Say why an env ended, waits, or was denied something", LOOK),
    "net": Verb("net", "net", "Show what goes out of an env and comes in, what was denied", LOOK),
    "url": Verb("ports", "url", "Print where an env is reached", USE),
    "open": Verb("ports", "open_url", "Open an env's URL in the browser", USE),
    "ports": Verb("ports", "ports", "List an env's ports", USE),
    "exec": Verb("exec", "exec_", "Run a command in a running env", USE),
    "shell": Verb("exec", "shell", "Open a shell in an env", USE),
    "attach": Verb("exec", "attach", "Join a running service's terminal or output", USE),
    "forward": Verb("forward", "forward", "Reach a port of an env from here, for a while", USE),
    "wait": Verb("life", "wait", "Wait until envs have ended, or are ready", USE),
    "stop": Verb("life", "stop", "Stop envs, gracefully", CHANGE),
    "start": Verb("life", "start", "Start stopped envs again", CHANGE),
    "restart": Verb("life", "restart", "Stop, then start", CHANGE),
    "suspend": Verb("life", "suspend", "Have nothing of envs run, and keep them as they are", CHANGE),
    "resume": Verb("life", "resume", "Have suspended envs run on", CHANGE),
    "ensure": Verb("demand", "ensure", "The env of a template for a key, made if need be", START),
    "template": Verb("demand", "template", "List, look at or remove templates", SYSTEM),
    "scale": Verb("scale", "scale", "Have several replicas of an env, or none", CHANGE),
    "update": Verb("update", "update", "Change limits of envs, running or not", CHANGE),
    "kill": Verb("life", "kill", "Kill envs at once, or send a signal", CHANGE),
    "rm": Verb("remove", "rm", "Remove envs and all they left", CHANGE),
    "prune": Verb("remove", "prune", "Remove every env that has ended", CHANGE),
    "doctor": Verb("doctor", "doctor", "Say what this machine lacks, why, and the fix", SYSTEM),
    "metrics": Verb("daemon", "metrics", "Print the daemon's numbers for Prometheus", SYSTEM),
    "daemon": Verb("daemon", "daemon", "Start, stop or look at the daemon", SYSTEM),
    "context": Verb("contexts", "context", "Name boxes that you reach by ssh, and choose one", SYSTEM),
    "completion": Verb("completion", "completion", "Print a shell's completion script", SYSTEM),
}

ALIASES = {"ls": "ps", "list": "ps", "port": "ports", "delete": "rm", "destroy": "rm", "log": "logs", "remove": "rm",
           "pause": "suspend", "sleep": "suspend", "unpause": "resume", "wake": "resume"}  # fmt: skip

HANDS_ON = frozenset(("run", "exec", "shell", "attach"))
"""Verbs that leave with a command's own exit code."""

LATER = frozenset(
    ("cp", "fork", "diff", "apply", "discard", "import", "export")
)  # fmt: skip
"""Verbs of the design that this version does not have: named as such, not as a typing mistake."""


class Verbs(click.Group):
    """The group: knows every verb's name, imports the one that is typed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every verb's name."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb; None for one that is not there."""
        verb = VERBS.get(ALIASES.get(cmd_name, cmd_name))
        if verb is None:
            return None
        module = importlib.import_module(f"sandboxd.cli.{verb.module}")
        command: click.Command = getattr(module, verb.function)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb, or say which one was meant."""
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None and ctx.resilient_parsing:
            return name, None, args[1:]
        if command is not None:
            name = ALIASES.get(name, name)
            if {"-h", "--help"}.intersection(args):
                from sandboxd.cli.examples import epilog  # noqa: PLC0415 - only help shows them

                command.epilog = epilog(name)
            return name, command, args[1:]
        if name in LATER:
            raise NotOffered(f"this version has no `{name}`", hint="sandbox --help lists what it has")
        raise UsageError(f"no such command: {name}", hint=nearest(name))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs by section, without importing them."""
        for section in dict.fromkeys(verb.section for verb in VERBS.values()):
            with formatter.section(section):
                formatter.write_dl([(name, verb.line) for name, verb in VERBS.items() if verb.section == section])


def nearest(name: str) -> str:
    """A hint for a verb that is not there."""
    from difflib import get_close_matches  # noqa: PLC0415 - only a mistake pays for it

    near = get_close_matches(name, [*VERBS, *ALIASES], n=2, cutoff=0.6)
    return f"did you mean {' or '.join(f'`{one}`' for one in near)}?" if near else "sandbox --help lists them all"


def show_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    """`--version`."""
    if value and not ctx.resilient_parsing:
        sys.stdout.write(f"sandbox {__version__}\n")
        ctx.exit()


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=show_version, help="Print the version.")
@click.option("-H", "--host", default="", metavar="URL", help="The daemon of a box, as ssh://user@box (SANDBOX_HOST).")
@click.option("-c", "--context", default="", metavar="NAME", help="The same by its name (SANDBOX_CONTEXT); see `context`.")
@click.pass_context
def app(ctx: click.Context, host: str, context: str) -> None:
    """Isolated environments on this machine, each with its own network, limits and URL: no Docker, no root, no images."""
    cli = ctx.ensure_object(Cli)
    if host and context:
        raise UsageError("--host and --context each name a daemon", hint="leave out one of them")
    cli.host = host or named(context)


def named(context: str) -> str:
    """The host of a context."""
    if not context:
        return ""
    from sandboxd.client.hosts import LOCAL, read_contexts  # noqa: PLC0415 - most name none

    # Said aloud, this machine wins over SANDBOX_HOST, too.
    return f"unix://{own_socket()}" if context == LOCAL else read_contexts(os.environ).host(context)


def own_socket() -> str:
    """The control socket of this machine's daemon."""
    from sandboxd.settings import Settings  # noqa: PLC0415 - as above

    return Settings.from_environ(os.environ, os.geteuid()).control


def complete() -> int:
    """Answer the shell's completion script."""
    from click.shell_completion import shell_complete  # noqa: PLC0415 - only the shell's completion needs it

    return shell_complete(app, {}, "sandbox", COMPLETE, os.environ[COMPLETE])


def invoke(words: list[str], cli: Cli | None) -> int:
    """Parse and run, without click's own main(): that turns EPIPE into exit code 1, and writes a line of its own for ctrl-C."""
    if COMPLETE in os.environ:
        return complete()
    verb = None
    try:
        with app.make_context("sandbox", words, obj=cli) as ctx:
            try:
                code = app.invoke(ctx)
            finally:
                verb = ctx.invoked_subcommand
    except click.exceptions.Exit as left:
        return left.exit_code
    except click.Abort:  # a prompt that was answered by ctrl-C or ctrl-D
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        usage(error)
        return ours(verb, EXIT_USAGE)
    except SandboxdError as error:
        error.exit_code = ours(verb, error.exit_code)
        raise
    return code if isinstance(code, int) else 0


def ours(verb: str | None, code: int) -> int:
    """The exit code of a refusal, which must not be taken for a command's own."""
    return EXIT_SANDBOXD if verb in HANDS_ON and code in {EXIT_FAILED, EXIT_USAGE} else code


def usage(error: click.ClickException) -> None:
    """click's own errors, in our words: a wrong command or flag gets the nearest right one."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        sys.stderr.write(error.format_message() + "\n")
        return
    where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx is not None else ""
    hint = f"{where} --help" if where else ""
    message = error.format_message()
    if isinstance(error, click.NoSuchOption):
        message = f"no such flag: {error.option_name}"
        near = list(error.possibilities or [])[:NEAR_FLAGS]
        if near:
            hint = f"did you mean {' or '.join(near)}?"
    elif isinstance(error, click.MissingParameter) and error.param is not None:
        message = f"missing {error.param.make_metavar(error.ctx) if error.ctx else error.param.human_readable_name}"
    complain(message[:1].lower() + message[1:].rstrip("."), hint)
