"""`sandbox daemon start|stop|status|config|reload|audit|run|install|uninstall`, `metrics`: the daemon itself, to be seen.

Nothing here is needed for daily use: every verb starts a daemon when none answers.
"""

import os
import sys

import click

from sandboxd.cli import options
from sandboxd.cli.context import Cli, Flags
from sandboxd.cli.install import install, uninstall
from sandboxd.cli.leaving import open_pidfd, wait_gone
from sandboxd.cli.progress import Progress
from sandboxd.cli.render import items, note, out
from sandboxd.cli.stdio import dial_stdio
from sandboxd.cli.template import Columns
from sandboxd.errors import DaemonUnreachable
from sandboxd.protocol.messages import Audit, Config, Metrics, Shutdown, Status
from sandboxd.units import format_duration

COLUMNS: Columns = {
    "PID": lambda status: str(status.pid),
    "VERSION": lambda status: status.version,
    "LISTEN": lambda status: ", ".join(status.listen),
    "UPTIME": lambda status: format_duration(status.uptime),
    "ENVS": lambda status: ", ".join(f"{count} {state}" for state, count in status.envs.items() if count) or "none",
    "DIR": lambda status: status.dir,
}


SETTINGS: Columns = {
    "SETTING": lambda setting: setting.name,
    "VALUE": lambda setting: setting.value or "-",
    "FROM": lambda setting: setting.source,
}


ENTRIES: Columns = {
    "TIME": lambda entry: entry.time,
    "USER": lambda entry: entry.user,
    "DID": lambda entry: entry.method,
    "ENV": lambda entry: f"{entry.name} ({entry.id[:12]})" if entry.id else entry.name or "-",
    "OUTCOME": lambda entry: entry.outcome,
}


class FormatFlags(Flags, frozen=True, kw_only=True):
    """Flags of `daemon start`, `daemon status` and `daemon config`."""

    how: str | None


class AuditFlags(FormatFlags, frozen=True, kw_only=True):
    """Flags of `daemon audit`."""

    tail: int


class StopFlags(Flags, frozen=True, kw_only=True):
    """Flags of `daemon stop`."""

    everything: bool


@click.group(cls=options.Parts, context_settings={"help_option_names": ["-h", "--help"]})
def daemon() -> None:
    """Start, stop or look at the daemon."""


@daemon.command("start")
@options.format_option
@options.takes(FormatFlags)
def start_daemon(cli: Cli, flags: FormatFlags) -> None:
    """Start the daemon, unless it runs already."""
    with Progress("starting the daemon"):
        status = cli.client.call(Status())
    if flags.how is not None:
        items([status], COLUMNS, how=flags.how)
    else:
        note(f"the daemon runs: pid {status.pid}, router on {', '.join(status.listen)}")


@daemon.command("status")
@options.format_option
@options.takes(FormatFlags)
def show_status(cli: Cli, flags: FormatFlags) -> None:
    """Show the daemon's pid, addresses and envs; an error when none runs."""
    status = cli.visitor.call(Status())
    if flags.how is not None:
        items([status], COLUMNS, how=flags.how)
        return
    for header, cell in COLUMNS.items():
        out(f"{header.lower():<8} {cell(status)}")
    out(f"socket   {status.socket}")
    out(f"cgroups  {', '.join(status.controllers) or f'none: {status.uncontrolled}'}")
    out(f"parts    launcher {status.launcher_pid or '-'}, router {status.router_pid or '-'}, {status.pool} parked children")


@daemon.command("stop")
@click.option("--all", "everything", is_flag=True, help="Also end every env and the router.")
@options.takes(StopFlags)
def stop_daemon(cli: Cli, flags: StopFlags) -> None:
    """Stop the daemon. Envs and the router run on, and the next daemon finds them, unless --all is given."""
    client = cli.client if flags.everything else cli.visitor  # envs may live on without a daemon
    try:
        status = client.call(Status())
    except DaemonUnreachable:
        note("no daemon runs")
        return
    pidfd = open_pidfd(status) if cli.remote is None else None  # on a box its pid is another process of ours
    try:
        with Progress("stopping everything" if flags.everything else "stopping the daemon"):
            client.call(Shutdown(all=flags.everything))
            wait_gone(pidfd, status)
    finally:
        if pidfd is not None:
            os.close(pidfd)
    note("stopped, with every env" if flags.everything else "stopped; envs run on")


@daemon.command("restart")
@options.takes(Flags)
def restart_daemon(cli: Cli, flags: Flags) -> None:
    """Have the program that is installed now take over, as after an upgrade. Envs, their connections and whoever asks the
    daemon meanwhile are served on."""
    try:
        before = cli.visitor.call(Status())
    except DaemonUnreachable:
        before = None
    with Progress("restarting the daemon"):
        if before is not None:
            cli.visitor.call(Shutdown(again=True))
        status = cli.client.call(Status())
        while before is not None and status.started == before.started:
            status = cli.client.call(Status())
    note(f"the daemon runs: pid {status.pid}, sandboxd {status.version}")


@daemon.command("config")
@options.format_option
@options.takes(FormatFlags)
def show_config(cli: Cli, flags: FormatFlags) -> None:
    """Show every setting that is in force, and where it came from."""
    reply = cli.visitor.call(Config())
    items(reply.settings, SETTINGS, how=flags.how)
    if flags.how is None:
        note(f"the config file is {reply.file}")


@daemon.command("reload")
@options.takes(Flags)
def reload_config(cli: Cli, flags: Flags) -> None:
    """Read the config file again, as SIGHUP does, and take on what can change while the daemon runs."""
    reply = cli.visitor.call(Config(reload=True))
    for change in reply.changes:
        out(f"{change.name}: {change.before or '-'} -> {change.after or '-'}, {change.holds}")
    if not reply.changes:
        note(f"nothing has changed in {reply.file}")


@daemon.command("audit")
@click.option("-n", "--tail", type=click.IntRange(1, 5000), default=100, help="How many, the newest.", show_default=True)
@options.format_option
@options.takes(AuditFlags)
def show_audit(cli: Cli, flags: AuditFlags) -> None:
    """Show who did what, where a log of that is kept: a daemon of many users, or one with `audit_limit`."""
    reply = cli.visitor.call(Audit(tail=flags.tail))
    items(reply.entries, ENTRIES, how=flags.how)
    if not reply.file:
        note("no audit log is kept here; `audit_limit` in the daemon's config file says how long one may be")


@click.command()
@options.takes(Flags)
def metrics(cli: Cli, flags: Flags) -> None:
    """Print the daemon's numbers in Prometheus's text format, as http://sandboxd.localhost:7070/metrics serves them."""
    out(cli.visitor.call(Metrics()).text.rstrip("\n"))


daemon.add_command(install)
daemon.add_command(uninstall)
daemon.add_command(dial_stdio)


@daemon.command("run")
def run_daemon() -> None:
    """Run the daemon in the foreground (for a service manager)."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", "sandboxd"])
