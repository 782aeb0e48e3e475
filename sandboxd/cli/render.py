"""How a verb's answer is printed: a plain table, JSON Lines, a template, or ids.

Writes to stdout; knows no verb. No rich here: its import costs more than `sandbox ps` may take. Invariant: tables go
through `phrases.clean`, JSON is one object a line.
"""

import sys
import time
from collections.abc import Iterable, Sequence

from sandboxd.cli import phrases
from sandboxd.cli.template import Columns, Template, json_line, plain
from sandboxd.protocol.messages import Reply

GAP = "   "


def out(*lines: str) -> None:
    """Lines on stdout, in one write: with PYTHONUNBUFFERED each write is a system call, and a reader may leave in between."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def note(text: str) -> None:
    """One line for people, on stderr: stdout is for ids and data."""
    sys.stdout.flush()
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """docker's table: columns three spaces apart, as wide as their widest cell."""
    lines = [list(headers), *([phrases.clean(cell) for cell in row] for row in rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(headers))]
    return [GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def aligned(header: str, lines: list[str]) -> list[str]:
    """A `table` template's output: cells between tabs, aligned."""
    cells = [line.split("\t") for line in [header, *lines]]
    count = max(len(row) for row in cells)
    padded = [row + [""] * (count - len(row)) for row in cells]
    return table(padded[0], padded[1:])


def items(found: Sequence[Reply], columns: Columns, *, how: str | None, hide: Sequence[str] = ()) -> None:
    """Print messages as `--format` says: a table of the columns but the hidden ones by default."""
    if how == "json":
        out(*(json_line(plain(item)) for item in found))
        return
    if how in {None, "table"}:
        shown = {header: cell for header, cell in columns.items() if header not in hide}
        out(*table(list(shown), ([cell(item) for cell in shown.values()] for item in found)))
        return
    assert how is not None
    template = Template(how)
    lines = [template.render(item, columns) for item in found]
    out(*(aligned(template.header(), lines) if template.table else lines))


def env_columns(*, whole: bool = False, now: float | None = None) -> Columns:
    """docker's columns of `ps`, and URL; whole: nothing is cut short."""
    at = time.time() if now is None else now
    return {
        "ID": lambda info: phrases.short_id(info.id, whole=whole),
        "NAME": lambda info: info.name,
        "COMMAND": lambda info: phrases.command(info, whole=whole),
        "CREATED": lambda info: phrases.created(info, at),
        "STATUS": lambda info: phrases.status(info, at),
        "PORTS": phrases.ports,
        "URL": lambda info: info.url or "",
        "KEY": lambda info: info.key or "",
        "LABELS": lambda info: ",".join(f"{key}={value}" for key, value in info.labels.items()),
    }
