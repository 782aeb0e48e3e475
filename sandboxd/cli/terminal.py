"""The user's own terminal: raw mode with a sure way back, and its size.

Imports termios and the like only; knows no session. Invariant: whatever happens inside `with raw(...)`, the terminal's
settings are put back, and only those.
"""

import os
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from sandboxd.errors import UsageError

FALLBACK = (24, 80)


class Size(NamedTuple):
    """A window."""

    rows: int
    cols: int


def size_of(*descriptors: int) -> Size:
    """The window of the first descriptor that is a terminal with a size; 24 x 80 where there is none."""
    for descriptor in descriptors:
        with suppress(OSError):
            found = os.get_terminal_size(descriptor)
            if found.lines > 0 and found.columns > 0:
                return Size(found.lines, found.columns)
    return Size(*FALLBACK)


@contextmanager
def raw(descriptor: int | None) -> Iterator[None]:
    """Raw mode while inside; None: nothing to do."""
    if descriptor is None:
        yield
        return
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor, termios.TCSADRAIN)
        yield
    finally:
        with suppress(termios.error):  # EIO when the terminal itself has gone
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def check_input(*, interactive: bool, terminal: bool) -> None:
    """docker's rule for -it: a terminal asked for needs one to type at. Raises UsageError."""
    if interactive and terminal and not os.isatty(0):
        raise UsageError("the input device is not a terminal", hint="leave out -t: -i alone passes a pipe or file on")
