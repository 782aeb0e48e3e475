"""The assembler against an interpreter of its own: whatever the policy, program and policy decide alike."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxd.isolation.seccomp.bpf import ALLOW, ERRNO, KILL_PROCESS, USER_NOTIF, Case, Cases, Match, assemble, ranges
from tests.unit.isolation.interpreter import disassembled, run

X86, I386, ARM64 = 0xC000003E, 0x40000003, 0xC00000B7
UNKNOWN = ERRNO | 38
# Few numbers and bits, so that masks, values and arguments meet.
WORD = st.sampled_from([0, 1, 2, 3, 8, 0xF, 0x5412, 0x7E020000, 1 << 31, 0xFFFFFFFF])
WIDE = st.builds(lambda high, low: high << 32 | low, WORD, WORD)
NUMBER = st.one_of(st.integers(0, 40), st.sampled_from([334, 424, 469, 470, 0x40000000, 0x40000001, 0xFFFFFFFF]))
TEST = st.builds(
    Match,
    arg=st.integers(0, 5),
    mask=st.one_of(WORD, WIDE),
    values=st.lists(st.one_of(WORD, WIDE), min_size=1, max_size=4).map(tuple),
    holds=st.booleans(),
)
CASE = st.builds(Case, st.sampled_from([ERRNO | 1, ERRNO | 97, USER_NOTIF, ALLOW]), st.lists(TEST, max_size=3).map(tuple))
POLICY = st.dictionaries(NUMBER.filter(lambda number: number < 0xFFFFFFFF), st.lists(CASE, max_size=4).map(tuple), max_size=40)


def decided(calls: dict[int, Cases], number: int, args: tuple[int, ...]) -> int:
    """The policy read as it is written."""
    if number not in calls:
        return UNKNOWN
    for case in calls[number]:
        if all((args[test.arg] & test.mask in test.values) is test.holds for test in case.tests):
            return case.answer
    return ALLOW


@settings(max_examples=60, deadline=None)
@given(POLICY, st.lists(st.tuples(NUMBER, st.tuples(*[st.one_of(WORD, WIDE)] * 6)), min_size=1, max_size=8))
def test_program_and_policy_decide_alike(calls: dict[int, Cases], asked: list[tuple[int, tuple[int, ...]]]) -> None:
    program = assemble(X86, calls, UNKNOWN)
    for number, args in itertools.chain(asked, ((number, (1, 0x5412, 3, 0, 0, 0)) for number in calls)):
        assert run(program, X86, number, args)[0] == decided(calls, number, args)
    for arch in (I386, ARM64, 0):
        assert run(program, arch, asked[0][0], asked[0][1])[0] == KILL_PROCESS


@settings(max_examples=60, deadline=None)
@given(POLICY)
def test_jumps_go_forward_and_every_way_returns(calls: dict[int, Cases]) -> None:
    code = disassembled(assemble(X86, calls, UNKNOWN))
    for at, (opcode, yes, no, k) in enumerate(code):
        if opcode == 0x05:
            assert at + 1 + k < len(code)
        elif opcode in (0x15, 0x35):
            assert at + 1 + max(yes, no) < len(code)
        elif opcode != 0x06:
            assert at + 1 < len(code)


def test_a_jump_too_far_for_eight_bits_takes_a_bridge() -> None:
    calls = {number: (Case(ERRNO | number % 90 + 1),) for number in range(600)}
    program = assemble(X86, calls, UNKNOWN)
    assert len(disassembled(program)) > 512
    for number in (0, 1, 299, 300, 598, 599, 600):
        assert run(program, X86, number, (0,) * 6)[0] == decided(calls, number, (0,) * 6)


def test_the_tree_is_balanced() -> None:
    calls = {number: () if number % 2 else (Case(ERRNO | 1),) for number in range(256)}
    program = assemble(X86, calls, UNKNOWN)
    longest = max(run(program, X86, number, (0,) * 6)[1] for number in range(257))
    assert longest <= 3 + 9 + 3, longest  # arch, number; log2 of the ranges; a bridge


def test_neighbours_alike_are_one_range() -> None:
    assert ranges({0: (), 1: (), 2: (Case(7),), 4: ()}, (Case(9),)) == [
        (0, ()), (2, (Case(7),)), (3, (Case(9),)), (4, ()), (5, (Case(9),)),
    ]  # fmt: skip


@pytest.mark.parametrize("high", [0, 1, 0x80000000])
def test_an_int_is_compared_as_the_kernel_cuts_it(high: int) -> None:
    # CVE-2019-10063: flatpak compared 64 bits of ioctl's command, the kernel looks at 32
    program = assemble(X86, {16: (Case(ERRNO | 1, (Match(1, 0xFFFFFFFF, (0x5412,)),)),)}, UNKNOWN)
    assert run(program, X86, 16, (0, high << 32 | 0x5412, 0, 0, 0, 0))[0] == ERRNO | 1
    assert run(program, X86, 16, (0, high << 32 | 0x5413, 0, 0, 0, 0))[0] == ALLOW
