"""Our tables and programs against libseccomp's, for both machines: names lead to the same numbers, programs decide alike.

libseccomp compiles for any machine on any, so that aarch64 is checked without one. Its rules have no order, so of calls that
several of our rules look at, only those are compared of which one does; our own interpreter compares the rest (test_policy.py).
"""

import ctypes
import ctypes.util
import itertools
import os
import tempfile
from collections.abc import Iterator
from functools import cache

import pytest

from sandboxd.isolation.seccomp.bpf import ALLOW, ERRNO, LOW, Match
from sandboxd.isolation.seccomp.policy import Demand, Rule, program, rules
from sandboxd.isolation.seccomp.syscalls import ARCHES
from tests.require import unmet
from tests.unit.isolation.interpreter import run

MACHINES = list(ARCHES)
NE, EQ_MASKED = 1, 7  # enum scmp_compare
MANY = 600  # more than any number of a call so far
KNOWN = 442  # mount_setattr, the last that libseccomp 2.5 knows
PSEUDO = -1  # __NR_SCMP_ERROR; what another machine has and this one lacks is below it


class Compare(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


@cache
def library() -> ctypes.CDLL:
    """libseccomp, or a skip that says that it is not there."""
    name = ctypes.util.find_library("seccomp")
    if name is None:
        unmet("libseccomp", "libseccomp is not installed")
    lib = ctypes.CDLL(name, use_errno=True)
    lib.seccomp_init.restype = ctypes.c_void_p
    return lib


def checked(result: int) -> int:
    """What it gave, or its error."""
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def compiled(machine: str, default: int, refusals: list[tuple[int, str, list[Compare]]]) -> bytes:
    """libseccomp's program of (action, call, comparisons)."""
    lib = library()
    context = ctypes.c_void_p(lib.seccomp_init(ctypes.c_uint32(default)))
    audit = ARCHES[machine].audit
    try:
        if checked(lib.seccomp_arch_exist(context, audit) + 17) != 17:  # EEXIST: it is this machine's own
            checked(lib.seccomp_arch_add(context, audit))
            checked(lib.seccomp_arch_remove(context, 0))
        for action, name, comparisons in refusals:
            number = lib.seccomp_syscall_resolve_name(name.encode())  # of this machine: it finds the other's by itself
            array = (Compare * len(comparisons))(*comparisons)
            checked(lib.seccomp_rule_add_array(context, ctypes.c_uint32(action), number, len(array), array))
        with tempfile.TemporaryFile() as file:
            checked(lib.seccomp_export_bpf(context, file.fileno()))
            file.seek(0)
            return file.read()
    finally:
        lib.seccomp_release(context)


def own(demand: Demand) -> dict[str, list[Rule]]:
    """Our rules by call."""
    found: dict[str, list[Rule]] = {}
    for one in rules(demand):
        for name in one.calls:
            found.setdefault(name, []).append(one)
    return found


def comparable(mine: list[Rule]) -> bool:
    """One rule, of at most one test, and none that libseccomp has no form for (it is none of several, behind a mask)."""
    (match, *more) = [match for one in mine for match in one.when] or [Match(0, LOW, (0,))]
    return len(mine) == 1 and not more and (match.holds or (match.mask == LOW and len(match.values) == 1))


def comparisons(one: Rule) -> Iterator[list[Compare]]:
    """The rule as libseccomp's, which has one for each value."""
    for match in one.when:
        for value in match.values:
            yield [Compare(match.arg, *((EQ_MASKED, match.mask, value) if match.holds else (NE, value, 0)))]
    if not one.when:
        yield []


@pytest.mark.parametrize("machine", MACHINES)
def test_a_name_leads_to_the_same_number(machine: str) -> None:
    lib, arch, seen = library(), ARCHES[machine], 0
    for name, number in arch.calls.items():
        theirs = lib.seccomp_syscall_resolve_name_arch(arch.audit, name.encode())
        if theirs != PSEUDO:
            assert theirs == number, name
            seen += 1
    assert seen > 280
    lib.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    numbers = {number: name for name, number in arch.calls.items()}
    for number in range(KNOWN):
        name = lib.seccomp_syscall_resolve_num_arch(arch.audit, number)
        if name is not None:
            assert numbers[number] == ctypes.string_at(name).decode(), "a call that our table lacks, or by another name"


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("demand", [Demand(), Demand(nested=True), Demand(own_pids=False, unix=False, fixed_affinity=True)])
def test_programs_decide_alike(machine: str, demand: Demand) -> None:
    arch, mine = ARCHES[machine], own(demand)
    skipped = {name for name, its in mine.items() if not comparable(its)}
    assert len(skipped) <= 12, sorted(skipped)
    skipped |= {name for name in arch.calls if library().seccomp_syscall_resolve_name(name.encode()) == PSEUDO}
    refusals = [
        (ERRNO | one.errno, name, comparison)
        for name, its in mine.items()
        if name in arch.calls and name not in skipped
        for one in its
        for comparison in comparisons(one)
    ]
    refusing = compiled(machine, ALLOW, refusals)
    knowing = compiled(machine, ERRNO | 38, [(ALLOW, name, []) for name in arch.calls if name not in skipped])
    ours = program(machine, demand, notify=False)
    numbers = {number: name for name, number in arch.calls.items()}
    compared = 0
    for number in range(MANY):
        name = numbers.get(number, "")
        if name in skipped:
            continue
        compared += 1
        matches = [match for one in mine.get(name, []) for match in one.when]
        values = {0, 1, 7, *(value + step for match in matches for value in match.values for step in (-1, 0, 1))}
        for value, index in itertools.product(sorted(value & LOW for value in values), {match.arg for match in matches} or {0}):
            args = [7] * 6
            args[index] = value
            found = run(ours, arch.audit, number, args)[0]
            theirs = run(refusing if name else knowing, arch.audit, number, args)[0]
            assert found == theirs, (name or number, args)
    assert compared > MANY - 60
    assert run(ours, 0, 0, (0,) * 6)[0] != ALLOW
    assert run(refusing, 0, 0, (0,) * 6)[0] != ALLOW
