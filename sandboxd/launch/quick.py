"""The first program of an env by vfork, in half the time of a fork: most of its start is made before there is an env.

Made by the source, for all that are cloned from it, each of which uses its own copy of it once; then it runs inside pid 1.
Imports `kernel.spawn`. Of all programs only the first can go this way: a sibling could stop the new child
before its exec, SIGSTOP being what no mask holds off, and with it pid 1, which vfork(2) suspends until then. What could fail
is found out here, or left to the fork, which says why.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # as in init.py
import os
import resource

from sandboxd.kernel import spawn
from sandboxd.launch.program import DEFAULT_PATH, Birth, Program, Stdio

NOTHING = {"argv": ["-"]}
STDIO = (60, 61, 62)  # where the program's lie: beyond what is open by then, below what a bigger table would take


class Quick:
    """A start, for a program with neither terminal nor input. Its stdio goes with the program, or is closed."""

    __slots__ = ("program", "spawn", "stdio")

    def __init__(self) -> None:
        self.program: Program | None = None
        self.stdio: Stdio | None = None
        mask = _signal.pthread_sigmask(_signal.SIG_SETMASK, ())  # the program's is ours of now
        try:
            self.spawn = spawn.Spawn(STDIO)
        finally:
            _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)

    def open(self) -> None:
        """Its stdio, in the park. Raises LaunchFailed."""
        self.stdio = Stdio(Program(NOTHING))
        self.stdio.move(STDIO)

    def takes(self, program: Program, birth: Birth) -> bool:
        """Whether it will start this one, which needs no more than that; else it has to be forked: into a control group, with
        walls of its own, beyond our own limits."""
        if program.tty or program.stdin or program.confine or birth.group >= 0:
            return False
        lower = []
        for name, pair in program.rlimits.items():
            number = getattr(resource, f"RLIMIT_{name}")
            own = resource.getrlimit(number)
            if own != pair:
                lower.append((number, *pair))
            if not within(pair, own):
                return False
        self.program = program
        argv = [os.fsencode(word) for word in program.argv]
        env = [os.fsencode(f"{key}={value}") for key, value in program.env.items()]
        return self.spawn.fill(argv, env, lower)

    def start(self) -> int:
        """Start it, within its view: its pid, or 0 where it cannot be executed this way."""
        program = self.program
        if program is None:
            return 0
        path = os.fsencode(program.argv[0])
        if b"/" not in path:
            search = os.fsencode(program.env.get("PATH", DEFAULT_PATH)).split(b":")
            places = [os.path.join(place, path) for place in search if place.startswith(b"/")]
            path = next((place for place in places if os.access(place, os.X_OK) and os.path.isfile(place)), b"")
        before = os.umask(program.umask)
        try:
            os.chdir(os.fsencode(program.workdir))
            pid = self.spawn.start(path)
            os.sched_yield()  # woken by its exec, we would go on before it where it is on the same core
            return pid
        except OSError:
            return 0
        finally:
            os.umask(before)
            os.chdir("/")

    def close(self) -> None:
        """It is not needed."""
        self.spawn.close()
        if self.stdio is not None:
            self.stdio.close()


def made() -> Quick | None:
    """One, where the machine and its C library have what it takes."""
    return Quick() if spawn.is_possible() else None


def within(pair: tuple[int, int], own: tuple[int, int]) -> bool:
    """Whether a soft and a hard limit can be set by one who has these; -1 is none."""
    soft, hard = (value % (1 << 64) for value in pair)
    return soft <= hard <= own[1] % (1 << 64)
