"""An assembler for seccomp's classic BPF: decisions by system call in, the bytes of a program out.

Pure. The program checks the architecture, then finds the call's number in a balanced tree of ranges, so that no call takes more
than a handful of jumps (and those that are always allowed none: the kernel runs the program once for each and remembers, since
5.11). Arguments are 64 bits wide and BPF is 32, so each is tested in halves. Jumps only go forward, as the kernel wants them.
"""

import itertools
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

ALLOW, KILL_PROCESS, USER_NOTIF, ERRNO = 0x7FFF0000, 0x80000000, 0x7FC00000, 0x00050000
LOAD, AND, RET, JA, JEQ, JGE = 0x20, 0x54, 0x06, 0x05, 0x15, 0x35
NR, ARCH, ARGS = 0, 4, 16  # offsets in struct seccomp_data
LOW = 0xFFFFFFFF
NUMBERS = 1 << 32
MAX_LENGTH = 4096  # BPF_MAXINSNS
FARTHEST = 255


class Match(NamedTuple):
    """Whether an argument, masked, is one of the values (one at least); with `holds` false: whether it is none of them."""

    arg: int
    mask: int
    values: tuple[int, ...]
    holds: bool = True

    def is_met(self, args: Sequence[int]) -> bool:
        """What the program decides, of real arguments."""
        return (args[self.arg] & self.mask in self.values) == self.holds


class Case(NamedTuple):
    """What to answer (a SECCOMP_RET_*) when all tests are met."""

    answer: int
    tests: tuple[Match, ...] = ()


# What a call is answered with: the first case that fits; ALLOW if none does.
Cases = tuple[Case, ...]


class Jump(NamedTuple):
    """A conditional jump to labels; the other instructions are (code, 0, 0, k)."""

    code: int
    k: int
    yes: object
    no: object


class Program:
    """Instructions and where labels stand among them."""

    def __init__(self) -> None:
        self.code: list[Jump | tuple[int, int]] = []
        self.labels: dict[object, int] = {}

    def emit(self, code: int, k: int) -> None:
        """One instruction."""
        self.code.append((code, k))

    def jump(self, code: int, k: int, yes: object, no: object) -> None:
        """A conditional jump."""
        self.code.append(Jump(code, k, yes, no))

    def mark(self, label: object) -> None:
        """`label` is here."""
        self.labels[label] = len(self.code)

    def assembled(self) -> bytes:
        """struct sock_filter after struct sock_filter. A jump too far for its 8 bits goes over two JA, which have 32."""
        long: set[int] = set()
        while True:
            places, at = [], 0
            for index in range(len(self.code) + 1):
                places.append(at)
                at += 3 if index in long else 1
            far = {
                index
                for index, one in enumerate(self.code)
                if isinstance(one, Jump) and max(self.distances(index, one, places)) > FARTHEST
            }
            if far <= long:
                break
            long |= far
        assert places[-1] <= MAX_LENGTH, "longer than the kernel takes"
        return b"".join(self.encoded(index, one, places, index in long) for index, one in enumerate(self.code))

    def distances(self, index: int, one: Jump, places: list[int]) -> tuple[int, int]:
        """How many instructions each way skips."""
        yes, no = (places[self.labels[label]] - places[index] - 1 for label in (one.yes, one.no))
        assert min(yes, no) >= 0, "a jump goes back"
        return yes, no

    def encoded(self, index: int, one: Jump | tuple[int, int], places: list[int], is_long: bool) -> bytes:
        """One instruction's bytes, or three."""
        if not isinstance(one, Jump):
            return struct.pack("=HBBI", one[0], 0, 0, one[1])
        yes, no = self.distances(index, one, places)
        if not is_long:
            return struct.pack("=HBBI", one.code, yes, no, one.k)
        bridges = struct.pack("=HBBI", JA, 0, 0, yes - 1) + struct.pack("=HBBI", JA, 0, 0, no - 2)
        return struct.pack("=HBBI", one.code, 0, 1, one.k) + bridges


def assemble(audit: int, calls: Mapping[int, Cases], unknown: int) -> bytes:
    """The program. audit: the one AUDIT_ARCH_* that may call. calls: all numbers that are known; unknown: others' answer.

    Another architecture's call ends the process: programs of such an architecture cannot run here at all, and in one of ours
    it is an attack. What has no number at all (-1, as a tracer sets it to skip a call) is only unknown.
    """
    program = Program()
    program.emit(LOAD, ARCH)
    program.jump(JEQ, audit, "ours", "foreign")
    program.mark("foreign")
    program.emit(RET, KILL_PROCESS)
    program.mark("ours")
    program.emit(LOAD, NR)
    parts = ranges(calls, (Case(unknown),))
    tree(program, parts, "tree")
    for cases in dict.fromkeys(cases for _, cases in parts if goal(cases) == cases):
        leaf(program, cases)
    for answer in sorted(wanted(parts)):
        program.mark(answer)
        program.emit(RET, answer)
    return program.assembled()


def ranges(calls: Mapping[int, Cases], unknown: Cases) -> list[tuple[int, Cases]]:
    """(first number, what holds from there on) over all numbers; neighbours that are treated alike are one."""
    found: list[tuple[int, Cases]] = []
    for number in sorted({0, *calls, *(number + 1 for number in calls)}):
        cases = calls.get(number, unknown)
        if not found or found[-1][1] != cases:
            found.append((number, cases))
    return found


def wanted(parts: list[tuple[int, Cases]]) -> set[int]:
    """Every answer that some call can get."""
    return {ALLOW, *(case.answer for _, cases in parts for case in cases)}


def goal(cases: Cases) -> object:
    """The label to go to for a decision: the answer itself where there is only one, else the leaf that decides."""
    if not cases:
        return ALLOW
    return cases if cases[0].tests else cases[0].answer


def tree(program: Program, parts: list[tuple[int, Cases]], name: object) -> None:
    """Halve the ranges until one is left, which has its place elsewhere: answers and leaves are shared."""
    program.mark(name)
    if len(parts) == 1:
        only = goal(parts[0][1])
        program.jump(JEQ, 0, only, only)
        return
    middle = len(parts) // 2
    halves = (parts[:middle], parts[middle:])
    below, above = (goal(half[0][1]) if len(half) == 1 else (half[0][0], len(half)) for half in halves)
    program.jump(JGE, parts[middle][0], above, below)
    for half, label in zip(halves, (below, above), strict=True):
        if len(half) > 1:
            tree(program, half, label)


def leaf(program: Program, cases: Cases) -> None:
    """The cases in turn, up to one that always fits."""
    program.mark(cases)
    tested = list(itertools.takewhile(lambda case: case.tests, cases))
    otherwise = cases[len(tested)].answer if len(tested) < len(cases) else ALLOW
    for index, case in enumerate(tested):
        missed = otherwise if index + 1 == len(tested) else (cases, index)
        for which, test in enumerate(case.tests):
            is_last = which + 1 == len(case.tests)
            met = case.answer if is_last else (cases, index, which)
            check(program, test, met if test.holds else missed, missed if test.holds else met, (cases, index, which, "next"))
            if not is_last:
                program.mark(met)
        if missed != otherwise:
            program.mark(missed)


def check(program: Program, test: Match, found: object, absent: object, name: object) -> None:
    """Go to `found` if the masked argument is one of the values, else to `absent`; `name` makes labels unique."""
    low, high = test.mask & LOW, test.mask >> 32
    if not high:
        half(program, test.arg, low, upper=False)
        for index, value in enumerate(test.values):
            otherwise = absent if index + 1 == len(test.values) else (name, index)
            # A value with bits outside the mask is never there; comparing it in 32 bits would find it.
            program.jump(JEQ, value & LOW, found if value & ~test.mask == 0 else otherwise, otherwise)
            program.mark((name, index))
        return
    for index, value in enumerate(test.values):
        otherwise = absent if index + 1 == len(test.values) else (name, index)
        half(program, test.arg, high, upper=True)
        program.jump(JEQ, value >> 32, (name, "low", index), otherwise)
        program.mark((name, "low", index))
        half(program, test.arg, low, upper=False)
        program.jump(JEQ, value & LOW, found if value & ~test.mask == 0 else otherwise, otherwise)
        program.mark((name, index))


def half(program: Program, arg: int, mask: int, *, upper: bool) -> None:
    """Load one half of an argument (little endian, as both architectures are) and mask it."""
    program.emit(LOAD, ARGS + 8 * arg + (4 if upper else 0))
    if mask != LOW:
        program.emit(AND, mask)
