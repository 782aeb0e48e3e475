"""`stop`, `start`, `restart`, `suspend`, `resume`, `kill`, `wait`: moving envs along, several at once.

Each does one call per env on a connection of its own and prints the env as the user named it, as docker does.
"""

from typing import Literal

import click

from sandboxd.cli import options
from sandboxd.cli.context import Chosen, Cli
from sandboxd.cli.progress import Progress
from sandboxd.cli.render import out
from sandboxd.cli.targets import Target, chosen, each, split
from sandboxd.errors import UsageError
from sandboxd.protocol.messages import Kill, Restart, Resume, Start, Stop, Suspend, Wait


class Timed(Chosen, frozen=True, kw_only=True):
    """Flags of `stop` and `restart`."""

    timeout: float | None


class StartFlags(Timed, frozen=True, kw_only=True):
    """Flags of `start`."""

    ready: bool


class KillFlags(Chosen, frozen=True, kw_only=True):
    """Flags of `kill`."""

    signal: str


class WaitFlags(Timed, frozen=True, kw_only=True):
    """Flags of `wait`."""

    until: Literal["ready", "healthy", "stopped", "removed"]


@click.command
@options.targets
@options.duration_option("-t", "--time", "--timeout", "timeout", text="Grace before the kill (default: the env's own).")
@options.takes(Timed)
def stop(cli: Cli, flags: Timed) -> int:
    """Stop envs: SIGTERM, grace, then the whole tree is killed. They can be started again."""

    def act(cli: Cli, target: Target) -> None:
        cli.client.call(Stop(target=target.target, timeout=flags.timeout))

    targets = chosen(cli, flags)
    with Progress(f"stopping {', '.join(target.shown for target in targets)}"):
        _, code = each(cli, targets, act)
    return code


@click.command
@options.targets
@click.option("--wait", "ready", is_flag=True, help="Until they are ready.")
@options.duration_option("--timeout", text="How long to wait for that.")
@options.takes(StartFlags)
def start(cli: Cli, flags: StartFlags) -> int:
    """Start stopped envs again: same id, same name, same private home."""
    until: Literal["ready", "started"] = "ready" if flags.ready else "started"

    def act(cli: Cli, target: Target) -> None:
        cli.client.call(Start(target=target.target, wait=until, timeout=flags.timeout))

    targets = chosen(cli, flags)
    with Progress(f"starting {', '.join(target.shown for target in targets)}"):
        _, code = each(cli, targets, act)
    return code


@click.command
@options.targets
@options.duration_option("-t", "--time", "--timeout", "timeout", text="Grace before the kill (default: the env's own).")
@options.takes(Timed)
def restart(cli: Cli, flags: Timed) -> int:
    """Stop envs, then start them."""

    def act(cli: Cli, target: Target) -> None:
        cli.client.call(Restart(target=target.target, timeout=flags.timeout))

    targets = chosen(cli, flags)
    with Progress(f"restarting {', '.join(target.shown for target in targets)}"):
        _, code = each(cli, targets, act)
    return code


@click.command
@options.targets
@options.takes(Chosen)
def suspend(cli: Cli, flags: Chosen) -> int:
    """Have nothing of envs run, and keep them as they are, in memory; a request for one wakes it."""

    def act(cli: Cli, target: Target) -> None:
        cli.client.call(Suspend(target=target.target))

    _, code = each(cli, chosen(cli, flags), act)
    return code


@click.command
@options.targets
@options.takes(Chosen)
def resume(cli: Cli, flags: Chosen) -> int:
    """Have suspended envs run on."""

    def act(cli: Cli, target: Target) -> None:
        cli.client.call(Resume(target=target.target))

    _, code = each(cli, chosen(cli, flags), act)
    return code


@click.command
@options.targets
@click.option("-s", "--signal", default="KILL", metavar="SIGNAL", help="TERM, SIGTERM or 15 (default: KILL, the whole tree).")
@options.yes_option
@options.takes(KillFlags)
def kill(cli: Cli, flags: KillFlags) -> int:
    """Kill envs at once, or send their services (or, as ENV/SERVICE, one of them) a signal."""

    def act(cli: Cli, target: Target) -> None:
        env, service = split(target.target)
        if env is None:
            raise UsageError(f"kill {target.target}: no env before the `/`", hint="sandbox kill ENV/SERVICE")
        cli.client.call(Kill(target=env, signal=flags.signal, service=service))

    _, code = each(cli, chosen(cli, flags, destroys="kill"), act)
    return code


@click.command
@options.targets
@click.option(
    "--for", "until", type=click.Choice(["ready", "healthy", "stopped", "removed"]), default="stopped", help="Default: stopped."
)
@options.duration_option("--timeout", text="Give up after that, with exit code 124.")
@options.takes(WaitFlags)
def wait(cli: Cli, flags: WaitFlags) -> int:
    """Wait until envs have ended, and print their exit codes; or, with --for, until they are ready or gone."""

    def act(cli: Cli, target: Target) -> str | None:
        reply = cli.client.call(Wait(target=target.target, until=flags.until, timeout=flags.timeout))
        return None if reply.exit_code is None else str(reply.exit_code)

    targets = chosen(cli, flags)
    with Progress(f"waiting for {', '.join(target.shown for target in targets)}"):
        codes, code = each(cli, targets, act, say=False)
    if flags.until == "stopped":
        for one in codes:
            out(one if one is not None else "")
    return code
