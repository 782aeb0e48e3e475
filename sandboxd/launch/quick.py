"""The first program of an env by vfork, in half the time of a fork: made before its view stands, started once that does.

Runs inside pid 1; imports `kernel.spawn`. Of all programs only the first can go this way: a sibling could stop the new child
before its exec, SIGSTOP being what no mask holds off, and with it pid 1, which vfork(2) suspends until then. What could fail
is found out here, or left to the fork, which says why.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # as in init.py
import os
import resource

from sandboxd.kernel import spawn
from sandboxd.launch.program import DEFAULT_PATH, Birth, Program, Stdio


class Quick:
    """A program, and all that can be made of its start without its view."""

    __slots__ = ("program", "spawn")

    def __init__(self, program: Program, stdio: Stdio, limits: list[tuple[int, int, int]]) -> None:
        self.program = program
        argv = [os.fsencode(word) for word in program.argv]
        env = [os.fsencode(f"{key}={value}") for key, value in program.env.items()]
        # The child's mask is ours. A SIGCHLD that comes meanwhile is lost; who ended before, init looks itself.
        mask = _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
        try:
            self.spawn = spawn.Spawn(argv, env, stdio=stdio.three(), limits=limits)
        finally:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)

    def start(self) -> int:
        """Its pid, or 0 where it could not be started this way."""
        path = os.fsencode(self.program.argv[0])
        if b"/" not in path:
            search = os.fsencode(self.program.env.get("PATH", DEFAULT_PATH)).split(b":")
            places = [os.path.join(place, path) for place in search if place.startswith(b"/")]
            path = next((place for place in places if os.access(place, os.X_OK) and os.path.isfile(place)), b"")
        before = os.umask(self.program.umask)
        try:
            os.chdir(os.fsencode(self.program.workdir))
            return self.spawn.start(path)
        except OSError:
            return 0
        finally:
            os.umask(before)
            os.chdir("/")


def made(program: Program, birth: Birth) -> tuple[Stdio, Quick | None] | None:
    """Its stdio, and the start; None where it has to be forked: into a control group, onto a terminal, with walls of its own,
    beyond our own limits."""
    if program.tty or program.confine or birth.group >= 0 or not spawn.is_possible():
        return None
    lower = []
    for name, pair in program.rlimits.items():
        number = getattr(resource, f"RLIMIT_{name}")
        own = resource.getrlimit(number)
        if own != pair:
            lower.append((number, *pair))
        if not within(pair, own):
            return None
    stdio = Stdio(program)
    try:
        return stdio, Quick(program, stdio, lower)
    except OSError:
        return stdio, None


def within(pair: tuple[int, int], own: tuple[int, int]) -> bool:
    """Whether a soft and a hard limit can be set by one who has these; -1 is none."""
    soft, hard = (value % (1 << 64) for value in pair)
    return soft <= hard <= own[1] % (1 << 64)
