"""`sandbox doctor`: what this machine gives, what is missing and why, the exact fix; `--fix` does those it can.

Works without a daemon and starts none. Prints; what is looked at and decided is the package `doctor`'s. Exit code 0: all that
the level asks for is there; 1: something is missing.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import click
import msgspec

from sandboxd.cli import options, phrases
from sandboxd.cli.context import Cli, Flags
from sandboxd.cli.progress import Progress
from sandboxd.cli.render import out
from sandboxd.errors import EXIT_FAILED, UsageError

if TYPE_CHECKING:
    from sandboxd.doctor.report import Check, Fix, Report

MARKS = {"ok": "✓", "warn": "!", "fail": "✗", "note": "·"}
PLAIN = {"ok": "ok", "warn": "warn", "fail": "FAIL", "note": "note"}
COLOURS = {"ok": "32", "warn": "33", "fail": "31", "note": "36"}
QUIET = ("programs",)  # shown with -v only, unless something is wrong with them


class DoctorFlags(Flags, frozen=True, kw_only=True):
    """Flags of `doctor`."""

    fix: bool
    dry_run: bool
    level: Literal["full", "landlock", "none"]
    verbose: bool
    how: str | None


@click.command
@click.option("--fix", is_flag=True, help="Do the fixes that can be done; those that need root only as root (sudo).")
@click.option("--dry-run", is_flag=True, help="With --fix: say what would be done, and do nothing.")
@click.option("--isolation", "level", type=click.Choice(["full", "landlock", "none"]), default="full",
              help="What must be there for exit code 0 (default: full).")  # fmt: skip
@click.option("-v", "--verbose", is_flag=True, help="Also the programs that are here.")
@options.format_option
@options.takes(DoctorFlags)
def doctor(cli: Cli, flags: DoctorFlags) -> int:
    """Say what this machine gives and what is missing: walls, limits, names, directories; why, and the exact fix."""
    if cli.remote is not None:
        raise UsageError("doctor looks at the machine it runs on", hint=f"run it there: ssh {cli.remote.name} sandbox doctor")
    from sandboxd.doctor.diagnosis import diagnose  # noqa: PLC0415 - the one verb that needs it
    from sandboxd.doctor.look import look  # noqa: PLC0415
    from sandboxd.doctor.mend import mend  # noqa: PLC0415

    if flags.how not in {None, "json", "table"}:
        raise UsageError("doctor has no templates", hint="--format json")
    if flags.dry_run and not flags.fix:
        raise UsageError("--dry-run goes with --fix", hint="sandbox doctor --fix --dry-run")
    with Progress("looking at this machine"):
        report = diagnose(look(os.environ, called()), flags.level)
    if flags.fix and not flags.dry_run:
        done = [mend(fix) for fix in report.fixes]
        if any(fix.done for fix in done):  # what is so now is looked at, not concluded
            with Progress("looking again"):
                report = diagnose(look(os.environ, called()), flags.level)
        report = msgspec.structs.replace(report, fixes=done)
    if flags.how == "json":
        out(msgspec.json.encode(report).decode())
    else:
        colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        out(*lines(report, flags, colours))
    return 0 if report.well else EXIT_FAILED


def called() -> str:
    """This command as it can be typed under sudo, whose PATH is another."""
    first = sys.argv[0]
    if os.path.basename(first) != "sandbox":
        return shutil.which("sandbox") or "sandbox"
    return os.path.abspath(first) if "/" in first else shutil.which(first) or first


def lines(report: "Report", flags: DoctorFlags, colours: bool) -> Iterator[str]:
    """The report for people: the tier, then by group what is to be known, each with its fix, then the fixes."""
    from sandboxd.doctor.report import GROUPS  # noqa: PLC0415 - see above

    tier = next(tier for tier in report.tiers if tier.holds)
    yield f"sandboxd {report.version}: tier {tier.id}, {tier.name}"
    for group, title in GROUPS.items():
        checks = [check for check in report.checks if check.group == group]
        shown = [check for check in checks if flags.verbose or check.status != "ok" or group not in QUIET]
        if shown:
            yield from ("", title)
            known: set[str] = set()  # several checks may have one remedy
            for check in shown:
                yield from said(check, colours, repair=check.fix not in known)
                known.add(check.fix)
    yield ""
    yield from mended(report.fixes, flags)
    yield verdict(report)


def said(check: "Check", colours: bool, *, repair: bool) -> Iterator[str]:
    """One check in a line, what to type in another."""
    mark = MARKS[check.status] if sys.stdout.encoding.lower().startswith("utf") else PLAIN[check.status]
    shown = f"\x1b[{COLOURS[check.status]}m{mark}\x1b[0m" if colours else mark
    reason = f": {check.reason}" if check.reason else ""
    yield f"  {shown} {phrases.clean(check.name + reason)}"
    if check.fix and check.status != "ok" and repair:
        yield f"      -> {phrases.clean(check.fix)}"


def mended(fixes: "list[Fix]", flags: DoctorFlags) -> Iterator[str]:
    """What `--fix` did, would do, or could do."""
    for fix in fixes:
        if fix.done:
            yield f"fixed: {fix.title} ({fix.before or 'unset'} -> {fix.after})"
        elif fix.error:
            yield f"not fixed: {fix.title}: {phrases.clean(fix.error)} ({fix.command})"
        elif flags.dry_run:
            yield f"would fix{' as root' if fix.root else ''}: {fix.title} ({fix.command})"
    if fixes and not flags.fix:
        alone = all(fix.root for fix in fixes)
        yield f"`{'sudo ' if alone else ''}{called() if alone else 'sandbox'} doctor --fix` can do: " + "; ".join(
            fix.title for fix in fixes
        )


def verdict(report: "Report") -> str:
    """The last line."""
    failed = [check.name for check in report.checks if check.status == "fail"]
    if failed:
        return f"{len(failed)} missing for isolation level {report.level!r}"
    return f"all that isolation level {report.level!r} asks for is here"
