"""One line on a terminal for whatever takes longer than half a second; silence everywhere else.

Draws on stderr from a thread of its own that the context manager starts and joins, since the verb is blocked in a read
meanwhile. No rich: one line needs none. Invariant: when the context ends, the line is gone.
"""

import shutil
import sys
import threading
import time
from types import TracebackType

from sandboxd.cli.phrases import clean

QUIET = 0.5
FRAME = 0.1
FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class Progress:
    """`with Progress("starting shop") as progress: …; progress.say("db is ready")`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._over = threading.Event()
        self._drawn = False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty():
            self._thread = threading.Thread(target=self._draw, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.end()

    def say(self, text: str) -> None:
        """Change what the line says."""
        self.text = text

    def end(self) -> None:
        """Take the line away; more calls do nothing."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            if self._drawn:
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()

    def _draw(self) -> None:
        began = time.monotonic()
        pause = QUIET
        number = 0
        while not self._over.wait(pause):
            pause = FRAME
            width = max(shutil.get_terminal_size().columns - 12, 10)
            text = clean(self.text)
            text = text if len(text) <= width else text[: width - 1] + "…"
            sys.stderr.write(f"\r\x1b[K{FRAMES[number % len(FRAMES)]} {text} {time.monotonic() - began:.1f}s")
            sys.stderr.flush()
            self._drawn = True
            number += 1
