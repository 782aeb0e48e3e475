"""`stats` and `top`: what envs use, and their processes.

`top` reads /proc through psutil, imported here only: the daemon need not be asked what the kernel tells everybody.
"""

import shutil
import sys
import time
from collections.abc import Iterator, Sequence

import click

from sandboxd.cli import options, phrases, targets
from sandboxd.cli.context import Chosen, Cli, Flags
from sandboxd.cli.render import items, out, table
from sandboxd.cli.template import Columns
from sandboxd.errors import InvalidState, NotFound
from sandboxd.protocol.messages import Inspect, Stats, StatsReply, StatsRow
from sandboxd.units import format_size

HOME = "\x1b[H"
CLEAR_LINE = "\x1b[K"
CLEAR_BELOW = "\x1b[J"
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"


def memory_percent(row: StatsRow) -> str:
    """Of the env's own limit; `--` where it has none."""
    return f"{100 * row.memory_bytes / row.memory_limit:.2f}%" if row.memory_limit else "--"


def columns(whole: bool) -> Columns:
    """docker's columns; connections through the router stand for its NET I/O."""
    return {
        "ID": lambda row: phrases.short_id(row.id, whole=whole),
        "NAME": lambda row: row.name,
        "CPU %": lambda row: f"{row.cpu_percent:.2f}%",
        "MEM USAGE / LIMIT": lambda row: (
            f"{format_size(row.memory_bytes)} / {format_size(row.memory_limit) if row.memory_limit else 'none'}"
        ),
        "MEM %": memory_percent,
        "CONNS": lambda row: str(row.net_connections),
        "BLOCK I/O": lambda row: f"{format_size(row.io_read)} / {format_size(row.io_write)}",
        "PIDS": lambda row: str(row.pids),
    }


class StatsFlags(Chosen, frozen=True, kw_only=True):
    """Flags of `stats`."""

    no_stream: bool
    whole: bool
    interval: float | None
    how: str | None


@click.command
@options.targets
@click.option("--no-stream", is_flag=True, help="One sample, then leave.")
@click.option("--no-trunc", "whole", is_flag=True, help="Whole ids.")
@options.duration_option("--interval", text="Between samples (default: 1s).")
@options.format_option
@options.takes(StatsFlags)
def stats(cli: Cli, flags: StatsFlags) -> None:
    """Show what envs use (none named: all that run), live on a terminal."""
    how = flags.how
    selected = [target.target for target in targets.chosen(cli, flags)] if flags.names or flags.labels else []
    if flags.labels and not selected:
        raise NotFound(f"no env has the label {', '.join(flags.labels)}", hint="sandbox ps -a --format '{{.Name}} {{.Labels}}'")
    shown = columns(flags.whole)
    if flags.no_stream:
        items(cli.client.call(Stats(targets=selected)).stats, shown, how=how)
        return
    replies = cli.client.stream(Stats(targets=selected, follow=True, interval=max(flags.interval or 1.0, 0.1)))
    batches = (reply.stats for reply in replies if isinstance(reply, StatsReply))
    if how is None and sys.stdout.isatty():
        live(batches, shown)
        return
    for batch in batches:
        items(batch, shown, how=how)
        sys.stdout.flush()


def live(batches: Iterator[Sequence[StatsRow]], shown: Columns) -> None:
    """Redraw in place on the alternate screen, cut to the window; leaves the terminal as it was."""
    sys.stdout.write(ENTER)
    try:
        for batch in batches:
            size = shutil.get_terminal_size()
            lines = table(list(shown), ([cell(row) for cell in shown.values()] for row in batch))[: size.lines - 1]
            sys.stdout.write(HOME + "".join(f"{line[: size.columns]}{CLEAR_LINE}\n" for line in lines) + CLEAR_BELOW)
            sys.stdout.flush()
    finally:
        sys.stdout.write(LEAVE)
        sys.stdout.flush()


class TopFlags(Flags, frozen=True, kw_only=True):
    """Flags of `top`."""

    name: str | None


@click.command
@click.argument("name", required=False, metavar="[ENV]", shell_complete=options.env_names)
@options.takes(TopFlags)
def top(cli: Cli, flags: TopFlags) -> None:
    """Show an env's processes, with their pids on this host."""
    info = cli.client.call(Inspect(target=targets.one(cli, flags.name))).env
    if info.pid is None:
        raise InvalidState(f"{info.name} is {info.state}: it has no processes", hint=f"sandbox start {info.name}")
    rows = processes(info.pid)
    for line in table(["PID", "PPID", "USER", "STATE", "RSS", "TIME", "COMMAND"], rows):
        out(line)


def processes(init: int) -> list[list[str]]:
    """One row for each process below init (its pid on the host), init left out."""
    import psutil  # noqa: PLC0415 - 40 ms that no other verb should pay

    rows = []
    try:
        found = psutil.Process(init).children(recursive=True)
    except psutil.NoSuchProcess as error:
        raise NotFound("the env ended meanwhile") from error
    for process in found:
        try:
            with process.oneshot():
                cpu = process.cpu_times()
                used = time.strftime("%H:%M:%S", time.gmtime(cpu.user + cpu.system))
                command = " ".join(process.cmdline()) or f"[{process.name()}]"
                rss = format_size(process.memory_info().rss)
                rows.append([str(process.pid), str(process.ppid()), process.username(), process.status(), rss, used, command])
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return rows
