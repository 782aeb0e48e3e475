"""`logs` and `events`: what services wrote, and what happened to envs.

Streams: each line is written as it comes, stdout's to stdout and stderr's to stderr, as docker does. `Printer` is pure but
for its two sinks, so that what is printed can be tested line by line.
"""

import sys
from collections.abc import Callable, Iterable, Iterator

import click

from sandboxd.cli import options, targets
from sandboxd.cli.context import Cli, Flags
from sandboxd.cli.phrases import clean
from sandboxd.cli.render import out
from sandboxd.cli.template import Columns, Template, json_line, plain
from sandboxd.errors import UsageError
from sandboxd.protocol.messages import Event, Events, EventsReply, Inspect, LogLine, Logs, LogsReply

Sink = Callable[[str, str], None]
"""(stream, text): where a piece of output goes; stream is `stdout` or `stderr`."""


class Printer:
    """Records to text: timestamps, a service's name before each line, lines that came in parts put together."""

    def __init__(self, sink: Sink, *, timestamps: bool = False, width: int = 0) -> None:
        self._sink = sink
        self._timestamps = timestamps
        self._width = width
        self._open: tuple[str, str] | None = None

    def take(self, lines: Iterable[LogLine]) -> None:
        """Print records; a line that goes on in a later record stays open until then."""
        for line in lines:
            key = (line.service, line.stream)
            if self._open is not None and self._open != key:
                self._sink(self._open[1], "\n")  # another service's line must not be glued to this one's
                self._open = None
            begin = ""
            if self._open is None:
                begin = f"{line.service:<{self._width}} | " if self._width else ""
                begin += f"{line.time} " if self._timestamps else ""
            self._sink(line.stream, f"{begin}{line.text}{'' if line.partial else chr(10)}")
            self._open = key if line.partial else None

    def end(self) -> None:
        """The stream ended; an open line stays as the service left it."""
        self._open = None


def write(stream: str, text: str) -> None:
    """One piece of output to the real stdout or stderr."""
    (sys.stderr if stream == "stderr" else sys.stdout).write(text)


def flush() -> None:
    """After each batch: whoever follows wants to see it now."""
    sys.stdout.flush()
    sys.stderr.flush()


def tail_of(text: str | None) -> int | None:
    """`--tail N`, or `all`."""
    if text is None or text == "all":
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise UsageError(f"--tail {text}: neither a number of lines nor `all`")
    return int(text)


class LogsFlags(Flags, frozen=True, kw_only=True):
    """Flags of `logs`."""

    reference: str | None
    follow: bool
    tail: str | None
    since: str | None
    timestamps: bool
    bare: bool
    how: str | None


@click.command
@options.reference
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@click.option("-n", "--tail", metavar="N", help="Only the last N lines (`all` for all).")
@click.option("--since", metavar="TIME", help="RFC 3339, or an age such as 5m.")
@click.option("-t", "--timestamps", is_flag=True, help="The time before each line.")
@click.option("--no-log-prefix", "bare", is_flag=True, help="No service names before the lines.")
@options.format_option
@options.takes(LogsFlags)
def logs(cli: Cli, flags: LogsFlags) -> None:
    """Show what an env's services (or, as ENV/SERVICE, one of them) wrote."""
    tail, how = tail_of(flags.tail), flags.how
    name, service = targets.split(flags.reference)
    target = targets.one(cli, name)
    params = Logs(target=target, service=service, follow=flags.follow, tail=tail, since=flags.since)
    width = 0
    if service is None and how is None and not flags.bare:
        services = cli.client.call(Inspect(target=target)).env.services
        width = max(len(one.name) for one in services) if len(services) > 1 else 0
    template = Template(how) if how not in {None, "json", "table"} and how is not None else None
    printer = Printer(write, timestamps=flags.timestamps, width=width)
    for reply in cli.client.stream(params):
        assert isinstance(reply, LogsReply)
        if how == "json" or template is not None:
            for line in reply.lines:
                out(template.render(line, {}) if template is not None else json_line(plain(line)))
        else:
            printer.take(reply.lines)
        flush()


def event_line(event: Event) -> str:
    """One event as docker prints them: time, what, which env, data in parentheses."""
    data = ", ".join(f"{key}={clean(value)}" for key, value in {"name": event.name, **event.detail}.items())
    return f"{event.time} env {clean(event.event)} {event.id} ({data})"


EVENT_COLUMNS: Columns = {"DETAIL": lambda event: ", ".join(f"{key}={value}" for key, value in event.detail.items())}


def about(events: Iterable[Event], names: tuple[str, ...]) -> Iterator[Event]:
    """Only events of the envs named, by name or beginning of the id; all when none is named."""
    for event in events:
        if not names or any(event.name == name or event.id.startswith(name) for name in names):
            yield event


class EventsFlags(Flags, frozen=True, kw_only=True):
    """Flags of `events`."""

    names: tuple[str, ...]
    follow: bool
    since: str | None
    filters: tuple[str, ...]
    how: str | None


@click.command
@click.argument("names", nargs=-1, metavar="[ENV]...", shell_complete=options.env_names)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes.")
@click.option("--since", metavar="TIME", help="RFC 3339, or an age such as 5m.")
@click.option("--filter", "filters", multiple=True, metavar="K=V", help="event=, name=, id=.")
@options.format_option
@options.takes(EventsFlags)
def events(cli: Cli, flags: EventsFlags) -> None:
    """Show what happened to envs, oldest first; with -f also what comes."""
    how = flags.how
    template = Template(how) if how not in {None, "json", "table"} and how is not None else None
    for reply in cli.client.stream(Events(follow=flags.follow, since=flags.since, filters=list(flags.filters))):
        assert isinstance(reply, EventsReply)
        for event in about(reply.events, flags.names):
            if template is not None:
                out(template.render(event, EVENT_COLUMNS))
            else:
                out(json_line(plain(event)) if how == "json" else event_line(event))
        flush()
