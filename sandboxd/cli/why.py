"""`sandbox why`: why an env ended, is not ready, has no URL; what its walls refused, and the option that would allow each.

Asks the daemon and prints; decides nothing. Invariant: what came from inside an env is printed without control characters.
"""

import time
from collections.abc import Iterator

import click

from sandboxd.cli import options, phrases
from sandboxd.cli.context import Chosen, Cli
from sandboxd.cli.render import items, out
from sandboxd.cli.targets import Target, chosen, each
from sandboxd.protocol.messages import Answer, Denial, LimitHit, Why, WhyReply
from sandboxd.units import format_size

WIDTH = 10  # of the word before each group
HEADS = {"start": "no start", "ready": "waits", "url": "no url"}
SIZED = ("memory", "disk", "io", "tmp")


class WhyFlags(Chosen, frozen=True, kw_only=True):
    """Flags of `why`."""

    since: str | None
    how: str | None


@click.command
@options.targets
@click.option("--since", metavar="TIME", help="Only denials and limit hits since then: 5m, 1h30m, or RFC 3339.")
@options.format_option
@options.takes(WhyFlags)
def why(cli: Cli, flags: WhyFlags) -> int:
    """Say why an env ended or waits, what its walls refused and what would allow it, and what keeps it awake."""

    def act(cli: Cli, target: Target) -> WhyReply:
        return cli.client.call(Why(target=target.target, since=flags.since))

    replies, code = each(cli, chosen(cli, flags), act, say=False)
    if flags.how not in {None, "table"}:
        items(replies, {"NAME": lambda reply: reply.env.name, "STATE": lambda reply: reply.env.state}, how=flags.how)
    else:
        for number, reply in enumerate(replies):
            out(*([""] if number else []), *(phrases.clean(line) for line in told(reply, time.time())))
    return code


def told(reply: WhyReply, now: float) -> Iterator[str]:
    """Everything there is to say, the weightiest first. now: seconds since the epoch."""
    yield f"{reply.env.name}: {phrases.status(reply.env, now)}"
    for answer in reply.answers:
        yield from answered(answer)
    for denial in reply.denials:
        yield from denied(denial, now)
    for hit in reply.limits:
        yield from met(hit, now)
    yield from group("awake", reply.awake)
    yield from group("rules", reply.rules)
    yield from group("unknown", reply.unknown)


def group(head: str, lines: list[str]) -> Iterator[str]:
    """Lines under one word."""
    for number, line in enumerate(lines):
        yield f"  {head if not number else '':<{WIDTH}}{line}"


def answered(answer: Answer) -> Iterator[str]:
    """One answer and what to do."""
    yield from group(HEADS.get(answer.topic, answer.topic), [answer.text, *([f"-> {answer.hint}"] if answer.hint else [])])


def denied(denial: Denial, now: float) -> Iterator[str]:
    """One denial, how often and when, and what would allow it."""
    often = f", {denial.count} times" if denial.count > 1 else ""
    by = f" by {denial.program}" if denial.program else ""
    ago = phrases.age(denial.time, now)
    when = f", {'last ' if denial.count > 1 else ''}{ago.lower()} ago" if ago else ""
    allow = f"-> to allow it: {denial.option}" if denial.option else "-> nothing allows it"
    yield from group("denied", [f"{denial.what}{by}{often}{when} (wall: {denial.wall})", allow])


def met(hit: LimitHit, now: float) -> Iterator[str]:
    """One limit that was met, and what to raise."""
    value = f" of {amount(hit.limit, hit.value)}" if hit.value is not None else ""
    peak = f", {amount(hit.limit, hit.peak)} seen" if hit.peak is not None else ""
    ago = phrases.age(hit.time, now)
    when = f", {ago.lower()} ago" if ago else ""
    yield from group("limit", [f"{hit.limit}{value}{peak}{when}", *([f"-> {hit.advice}"] if hit.advice else [])])


def amount(limit: str, value: float) -> str:
    """A limit's value for people."""
    return format_size(value) if limit.startswith(SIZED) else f"{value:g}"
