"""`sandbox net`: what goes out of an env and comes in, what was denied, and the rule that would allow it.

Asks the daemon and prints. Invariant: names that came from inside an env are printed without control characters.
"""

import sys
import time
from collections.abc import Iterator

import click
import msgspec

from sandboxd.cli import options, phrases, targets
from sandboxd.cli.context import Cli, Flags
from sandboxd.cli.render import items, out, table
from sandboxd.protocol.messages import Net, NetReply, Passage
from sandboxd.units import format_size


class NetFlags(Flags, frozen=True, kw_only=True):
    """Flags of `net`."""

    name: str | None
    allow: tuple[str, ...]
    follow: bool
    how: str | None


def place(passage: Passage) -> str:
    """NAME:PORT, or the address where no name is known."""
    host = passage.name or (f"[{passage.address}]" if ":" in passage.address else passage.address)
    return phrases.clean(f"{host}:{passage.port}" if passage.port else host) or "any"


def verdict(passage: Passage) -> str:
    """By which rule, or why not."""
    if passage.state != "denied":
        return passage.reason or passage.rule
    said = passage.reason or (f"denied by {passage.rule}" if passage.rule else "no rule gives it")
    return f"{said}; --allow {phrases.clean(passage.allow)}" if passage.allow else said


COLUMNS = {
    "STATE": lambda passage: passage.state,
    "TO": place,
    "ADDRESS": lambda passage: passage.address if passage.name else "",
    "SENT": lambda passage: format_size(passage.sent),
    "RECEIVED": lambda passage: format_size(passage.received),
    "AGE": lambda passage: phrases.age(passage.began, time.time()),
    "RULE": verdict,
}
COMING = {
    "STATE": lambda passage: passage.state,
    "FROM": lambda passage: passage.address,
    "ASKED FOR": lambda passage: phrases.clean(passage.name),
    "PORT": lambda passage: str(passage.port or ""),
    "SENT": lambda passage: format_size(passage.sent),
    "RECEIVED": lambda passage: format_size(passage.received),
    "AGE": lambda passage: phrases.age(passage.began, time.time()),
    "BY": lambda passage: passage.rule,
}


@click.command
@click.argument("name", required=False, metavar="[ENV]", shell_complete=options.env_names)
@click.option("--allow", multiple=True, metavar="RULE", help="Give it a rule of egress, now and for every later start.")
@click.option("-f", "--follow", is_flag=True, help="Go on: a line for each connection that begins, ends or is denied.")
@options.format_option
@options.takes(NetFlags)
def net(cli: Cli, flags: NetFlags) -> None:
    """Show what goes out of an env and comes in, by name; what was denied, and the rule that would allow it."""
    rules = [rule.strip() for text in flags.allow for rule in text.split(",") if rule.strip()]
    asked = Net(target=targets.one(cli, flags.name), allow=rules, follow=flags.follow)
    if flags.follow:
        seen: dict[int, Passage] = {}
        for reply in cli.client.stream(asked):
            found = news(reply, seen)
            if flags.how in {None, "table"}:
                out(*(f"{one.state:<8}{line(one)}" for one in found))
            else:
                items(found, COLUMNS, how=flags.how)
            sys.stdout.flush()
        return
    reply = cli.client.call(asked)
    if flags.how in {None, "table"}:
        out(*(phrases.clean(line) for line in summary(reply)))
        for direction, columns in (("out", COLUMNS), ("in", COMING)):
            rows = [one for one in reply.passages if one.direction == direction]
            if rows:
                out(*table(list(columns), ([cell(row) for cell in columns.values()] for row in rows)))
    else:
        items(reply.passages, COLUMNS, how=flags.how)


def summary(reply: NetReply) -> Iterator[str]:
    """One line for each direction."""
    rules = ", ".join(reply.rules) or "none"
    moved = f"{format_size(reply.sent)} sent, {format_size(reply.received)} received"
    sums = f"{reply.total} connections, {reply.denied} denied, {moved}"
    yield f"{reply.env.name} out: {rules}" + (f" ({sums})" if reply.rules else "")
    yield f"{reply.env.name} in: {reply.incoming} connections open" + (f", {reply.env.url}" if reply.env.url else "")


def line(passage: Passage) -> str:
    """Of one that is followed."""
    if passage.direction == "in":
        return f"from {passage.address} to {phrases.clean(passage.name)}  {passage.rule}"
    return f"{place(passage)}  {verdict(passage)}"


def news(reply: NetReply, seen: dict[int, Passage]) -> list[Passage]:
    """Those that began, or became another thing, since the last look. One that comes in is not told of once it is over."""
    now = {one.number: one for one in reply.passages}
    over = [one for number, one in seen.items() if one.direction == "in" and number not in now]
    found = [one for number, one in now.items() if number not in seen or seen[number].state != one.state]
    seen.clear()
    seen.update(now)
    return [*(msgspec.structs.replace(one, state="closed") for one in over), *found]
