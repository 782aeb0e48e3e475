"""`sandbox`: the way in and the one way out.

`sandbox ps` is on people's fingers all day, so its usual spellings are known here without click, whose import is 29 of its
64 ms (measured); everything else goes through `verbs`. Invariant: `main` returns an exit code and lets no traceback through.
"""

import atexit
import os
import sys
from collections.abc import Sequence

from sandboxd.cli import (
    door,
    lean,  # noqa: F401 - first of all that imports msgspec
)
from sandboxd.cli.context import COMPLETE, Cli


def main(argv: Sequence[str] | None = None, *, cli: Cli | None = None) -> int:
    """Run `sandbox ARGV`; the exit code. cli: with another client than the daemon's own (tests)."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # a latin-1 terminal must not be an error
    try:
        code = dispatch(sys.argv[1:] if argv is None else list(argv), cli)
        sys.stdout.flush()
    except BaseException as error:  # the one door
        code = door.report(error)
    if argv is None:
        atexit.register(leave, code)
    return code


def dispatch(words: list[str], cli: Cli | None) -> int:
    """The usual `ps` at once, all else by click."""
    if words[:1] == ["ps"] and COMPLETE not in os.environ:
        from sandboxd.cli import listing  # noqa: PLC0415 - `--help` needs no messages

        usual = listing.USUAL.get(tuple(words[1:]))
        if usual is not None:
            listing.show(cli or Cli(), usual)
            return 0
    from sandboxd.cli import verbs  # noqa: PLC0415 - see above

    return verbs.invoke(words, cli)


def leave(code: int) -> None:
    """Leave without taking every module apart: 7 of 64 ms of `sandbox ps` (measured). Registered last, so the others ran."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        return  # Python's own way out says what that means
    os._exit(code)
