"""A classic BPF machine as seccomp(2) has it, the oracle for the assembler: written from the manual, not from our code."""

import struct
from collections.abc import Sequence

INSTRUCTION = struct.Struct("<HBBI")


def run(program: bytes, arch: int, number: int, args: Sequence[int], instruction_pointer: int = 0) -> tuple[int, int]:
    """(what the program returns, how many instructions that took); raises on anything that the kernel would not take."""
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, arch, instruction_pointer, *args)
    code = [INSTRUCTION.unpack_from(program, at) for at in range(0, len(program), INSTRUCTION.size)]
    assert 0 < len(code) <= 4096
    accumulator, at, steps = 0, 0, 0
    while True:
        opcode, yes, no, k = code[at]
        at, steps = at + 1, steps + 1
        if opcode == 0x20:  # BPF_LD | BPF_W | BPF_ABS
            assert k % 4 == 0
            assert k + 4 <= len(data)
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif opcode == 0x54:  # BPF_ALU | BPF_AND | BPF_K
            accumulator &= k
        elif opcode == 0x05:  # BPF_JMP | BPF_JA
            at += k
        elif opcode == 0x15:  # BPF_JMP | BPF_JEQ | BPF_K
            at += yes if accumulator == k else no
        elif opcode == 0x25:  # BPF_JMP | BPF_JGT | BPF_K, which libseccomp uses
            at += yes if accumulator > k else no
        elif opcode == 0x35:  # BPF_JMP | BPF_JGE | BPF_K
            at += yes if accumulator >= k else no
        elif opcode == 0x06:  # BPF_RET | BPF_K
            return k, steps
        else:
            raise AssertionError(f"opcode {opcode:#x} is none of ours")


def disassembled(program: bytes) -> list[tuple[int, int, int, int]]:
    """(opcode, jump if true, jump if false, k)."""
    return [INSTRUCTION.unpack_from(program, at) for at in range(0, len(program), INSTRUCTION.size)]
