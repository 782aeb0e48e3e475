"""The examples that `--help` shows: every verb has some, they are shown as they stand, and click takes each of them."""

import re
import shlex

import click
import pytest

from sandboxd.cli.context import Cli
from sandboxd.cli.examples import EXAMPLES
from sandboxd.cli.verbs import VERBS, app
from tests.unit.cli.fakes import Sandbox

LINES = [line for lines in EXAMPLES.values() for line in lines]


def test_every_verb_has_some() -> None:
    assert EXAMPLES.keys() == VERBS.keys()
    for verb, lines in EXAMPLES.items():
        assert all(re.search(rf"\bsandbox (-H \S+ )?{verb}\b", line) for line in lines)


@pytest.mark.parametrize("line", LINES)
def test_click_takes_it(line: str) -> None:
    (words,) = re.findall(r"\bsandbox ([^)|<]+)", line)
    with app.make_context("sandbox", shlex.split(words), obj=Cli()) as ctx:
        name, command, rest = app.resolve_command(ctx, [*ctx._protected_args, *ctx.args])
        assert command is not None
        with command.make_context(name, rest, parent=ctx) as inner:
            assert isinstance(command, click.Group) or not inner.args


def test_they_are_shown_as_they_stand(sandbox: Sandbox) -> None:
    shown = sandbox("ps", "--help").out
    assert "Examples:\n" + "".join(f"    {line}\n" for line in EXAMPLES["ps"]) in shown
    assert "Examples:" in sandbox("pause", "-h").out


@pytest.mark.parametrize("verb", ["context", "daemon", "template"])
def test_the_parts_of_a_verb_are_told_whole(sandbox: Sandbox, verb: str) -> None:
    _, _, shown = sandbox(verb, "--help").out.partition("Commands:\n")
    assert shown
    assert "..." not in shown
    assert "dial-stdio" not in shown
