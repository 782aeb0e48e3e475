"""Answers the system calls that the env's filter refuses, and counts them: which call, by which program, how often.

Runs inside pid 1, as listener of the filter that its services inherit; stdlib and sandboxd.{errors,kernel,launch} only. A
refused call waits until it is answered here, so a program that makes them in a loop is slowed to a rate that leaves pid 1 free
for everybody else. The filter holds for pid 1 too: it makes no call that waits for itself. The table is bounded; what has no
place in it any more is counted as one. Only numbers go to the daemon, which has the words.
"""

from __future__ import annotations

import os
import select
import time

from sandboxd.kernel.seccomp import receive, refuse
from sandboxd.launch import plain
from sandboxd.launch.loop import READ, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sandboxd.launch.frames import Message

    Key = tuple[int, tuple[int, ...], str]  # number of the call, arguments that are shown, program

EPERM = 1
BATCH = 16  # calls answered in one turn of the loop
BURST, EACH = 512, 0.01  # calls that may be answered at once, and seconds until BATCH more may: 1600 a second
KEPT = 128
QUIET = 0.25  # seconds between two reports
MOST = 0xFFFFFFFF
OTHERS: Key = (MOST, (), "")


class Denials:
    """The listener, the table, and the reports. rules: JSON, read when the first call is refused; listener: -1 for none."""

    __slots__ = ("answers", "credit", "dirty", "listener", "loop", "paid", "reporting", "rules", "table", "tell")

    def __init__(self, loop: Loop, rules: str, listener: int, tell: Callable[[Message], None]) -> None:
        self.loop = loop
        self.tell = tell
        self.rules = rules
        self.listener = listener
        self.answers: dict[int, list[Any]] = {}
        self.table: dict[Key, list[float]] = {}
        self.dirty: set[Key] = set()
        self.credit, self.paid = BURST, 0.0
        self.reporting = False
        self.watch()

    def watch(self) -> None:
        """Hear of refused calls."""
        if self.listener >= 0:
            self.loop.watch(self.listener, READ, self.heard)

    def heard(self, _events: int) -> None:
        """Some calls wait."""
        try:
            self.answer()
        except BaseException:
            # Without a listener the kernel answers ENOSYS: better than to wait for ever.
            self.loop.forget(self.listener)
            os.close(self.listener)
            self.listener = -1
            raise

    def answer(self) -> None:
        """A few calls, and with no credit left none for a while: then their callers wait, and nobody else does."""
        waiting = select.poll()
        waiting.register(self.listener, select.POLLIN)
        for _ in range(BATCH):
            if not self.may_answer():
                self.loop.forget(self.listener)
                self.loop.after(EACH, self.watch)
                return
            call = receive(self.listener)
            if call is not None:
                self.one(*call)
            if not waiting.poll(0):
                return

    def may_answer(self) -> bool:
        """Take one from the credit, which grows with time."""
        now = time.monotonic()
        earned = int((now - self.paid) / EACH) * BATCH
        if earned:
            self.credit, self.paid = min(BURST, self.credit + earned), now
        self.credit -= 1 if self.credit > 0 else 0
        return self.credit > 0

    def one(self, cookie: int, pid: int, number: int, args: tuple[int, ...]) -> None:
        """Answer a call, and count it. The name is read before, while its caller waits and is surely there."""
        errno, shown = self.rule(number, args)
        name = program(pid)
        refuse(self.listener, cookie, errno)
        self.count((number, tuple(args[index] & mask for index, mask in shown), name))

    def rule(self, number: int, args: tuple[int, ...]) -> tuple[int, list[tuple[int, int]]]:
        """The first rule that fits, as the filter found it."""
        if self.rules:
            for known, errno, shown, tests in plain.decode(self.rules.encode()):
                self.answers.setdefault(known, []).append((errno, shown, tests))
            self.rules = ""
        for errno, shown, tests in self.answers.get(number, ()):
            if all(((args[arg] & mask) in values) == holds for arg, mask, values, holds in tests):
                return errno, shown
        return EPERM, []

    def count(self, key: Key) -> None:
        """One more of that kind."""
        if key not in self.table and len(self.table) >= KEPT:
            key = OTHERS
        row = self.table.setdefault(key, [0, 0.0])
        row[0] += 1
        row[1] = time.time()
        self.dirty.add(key)
        if not self.reporting:
            self.reporting = True
            self.loop.after(QUIET, self.ring)

    def ring(self) -> None:
        """It is time for a report."""
        self.reporting = False
        self.report()

    def report(self) -> None:
        """Tell what has changed since."""
        if self.dirty:
            rows, self.dirty = self.rows(self.dirty), set()
            self.tell({"event": "denied", "rows": rows})

    def rows(self, keys: Any) -> list[Message]:
        """Rows of the table as they are told."""
        return [
            {
                "call": key[0],
                "args": key[1],
                "program": key[2],
                "count": min(int(self.table[key][0]), MOST),
                "time": self.table[key][1],
            }
            for key in keys
        ]

    def all(self) -> list[Message]:
        """The whole table."""
        return self.rows(self.table)


def program(pid: int) -> str:
    """The name of a thread's program (proc(5), comm), "" if it is gone."""
    try:
        fd = os.open(f"/proc/{pid}/comm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, 64).decode("utf-8", "replace").rstrip("\n")
    except OSError:
        return ""
    finally:
        os.close(fd)
