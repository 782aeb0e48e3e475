"""Commands that take a command of their own (`run FLAGS -- CMD`, `exec ENV -- CMD`): where ours ends and theirs begins.

As docker: our flags end at the first word that is none of ours, or at `--`. Invariant: not a word of theirs is parsed,
changed or dropped, a later `--` of their own included.
"""

import click

TAIL = "sandboxd.cli.tail"


class WithCommand(click.Command):
    """A click command whose words after the first `--`, or after the first that is no flag, are kept as they are."""

    def __init__(self, *args: object, **given: object) -> None:
        super().__init__(*args, **given)  # type: ignore[arg-type] # click's own arguments, passed on
        self.allow_interspersed_args = False

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Split at the first `--`, then let click parse what is before it."""
        if "--" not in args:
            return super().parse_args(ctx, args)
        at = args.index("--")
        head, tail = args[:at], args[at + 1 :]
        ctx.meta[TAIL] = tail
        return super().parse_args(ctx, head)


def words_of(ctx: click.Context, words: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """(words before a `--`, words after it). Without one all are before it."""
    return list(words), list(ctx.meta.get(TAIL, []))


def has_dashes(ctx: click.Context) -> bool:
    """Whether there was a `--`."""
    return TAIL in ctx.meta


def whole_command(ctx: click.Context, words: tuple[str, ...]) -> list[str]:
    """The command of a verb that takes nothing else: `run npm run dev -- --port 1` keeps npm's own `--`."""
    before, after = words_of(ctx, words)
    if not before:
        return after
    return [*before, "--", *after] if has_dashes(ctx) else before


def env_and_command(ctx: click.Context, words: tuple[str, ...]) -> tuple[str | None, list[str]]:
    """`[ENV] [--] CMD…`: the env, None where only a command was given behind a `--`."""
    before, after = words_of(ctx, words)
    if not has_dashes(ctx):
        return (before[0] if before else None), before[1:]
    if len(before) <= 1:
        return (before[0] if before else None), after
    return before[0], [*before[1:], "--", *after]
