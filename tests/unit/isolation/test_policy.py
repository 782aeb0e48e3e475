"""The policy: what it refuses and why, held against docker's and systemd's, and against its own program."""

import errno
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxd.isolation.seccomp.bpf import ALLOW, ERRNO, KILL_PROCESS, USER_NOTIF
from sandboxd.isolation.seccomp.policy import GROUPS, Demand, Rule, answers, program, rules
from sandboxd.isolation.seccomp.syscalls import ARCHES
from tests.unit.isolation.interpreter import disassembled, run
from tests.unit.isolation.profiles import DOCKER_REFUSES, SYSTEMD_ALLOWS_AND_WE_REFUSE, WE_ALLOW, WE_REFUSE

DEMANDS = [
    Demand(), Demand(nested=True), Demand(own_pids=False, unix=False), Demand(own_pids=False, fixed_affinity=True),
]  # fmt: skip
MACHINES = list(ARCHES)
I386, X32 = 0x40000003, 0x40000000


def asked(machine: str, name: str, *args: int, demand: Demand | None = None, notify: bool = False) -> int:
    """What the program answers to a call."""
    arch = ARCHES[machine]
    code = program(machine, demand or Demand(), notify=notify)
    return run(code, arch.audit, arch.calls[name], (*args, *(0,) * (6 - len(args))))[0]


def refused(demand: Demand | None = None) -> set[str]:
    """Calls that are refused whatever their arguments."""
    return {name for one in rules(demand or Demand()) if not one.when for name in one.calls}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("demand", DEMANDS)
def test_program_and_rules_decide_alike(machine: str, demand: Demand) -> None:
    arch = ARCHES[machine]
    for notify in (False, True):
        code = program(machine, demand, notify=notify)
        for name, number in arch.calls.items():
            mine = [one for one in rules(demand) if name in one.calls]
            for args in telling(mine):
                fits = next((one for one in mine if all(match.is_met(args) for match in one.when)), None)
                wanted = ALLOW
                if fits is not None:
                    wanted = USER_NOTIF if notify and not fits.quiet else ERRNO | fits.errno
                assert run(code, arch.audit, number, args)[0] == wanted, (name, args)


def telling(mine: list[Rule]) -> Iterator[list[int]]:
    """Arguments around every value that the rules compare with, in every argument that they look at."""
    near: dict[int, set[int]] = {}
    for match in (match for one in mine for match in one.when):
        seen = near.setdefault(match.arg, {0, 0x80002})
        seen |= {max(value + step, 0) for value in match.values for step in (-1, 0, 1, 1 << 32)}
        seen |= {match.mask, 1 << 63}
    for chosen in itertools.product(*(sorted(values) for values in near.values())):
        args = [7] * 6
        for index, value in zip(near, chosen, strict=True):
            args[index] = value
        yield args


@pytest.mark.parametrize("machine", MACHINES)
def test_the_common_path_is_short(machine: str) -> None:
    arch = ARCHES[machine]
    code = program(machine, Demand(), notify=True)
    assert len(disassembled(code)) < 200
    for name in ("read", "write", "openat", "futex", "close", "mmap", "epoll_pwait", "sendmsg", "recvmsg", "clock_gettime"):
        answer, steps = run(code, arch.audit, arch.calls[name], (0,) * 6)
        assert (answer, steps <= 12) == (ALLOW, True), (name, steps)


@pytest.mark.parametrize("machine", MACHINES)
def test_other_architectures_end_the_process(machine: str) -> None:
    code = program(machine, Demand(), notify=True)
    for audit in (I386, 0x40000028, *(arch.audit for name, arch in ARCHES.items() if name != machine)):
        assert run(code, audit, 1, (0,) * 6)[0] == KILL_PROCESS


@pytest.mark.parametrize("machine", MACHINES)
def test_unknown_calls_are_not_there(machine: str) -> None:
    arch = ARCHES[machine]
    code = program(machine, Demand(), notify=True)
    unknown = [X32, X32 | 1, X32 | arch.calls["read"], -1, 512, 547, max(arch.calls.values()) + 1, 100_000]
    for number in unknown:
        assert run(code, arch.audit, number, (0,) * 6)[0] == ERRNO | errno.ENOSYS


def test_every_refusal_has_a_reason_and_names_calls_that_there_are() -> None:
    known = {name for arch in ARCHES.values() for name in arch.calls}
    for demand in DEMANDS:
        for one in rules(demand):
            assert GROUPS[one.group].reason
            assert set(one.calls) <= known, set(one.calls) - known
            assert all(match.values for match in one.when)
            assert 0 < one.errno < 4096
    assert {one.group for demand in DEMANDS for one in rules(demand)} == set(GROUPS)


def test_docker_refuses_the_same_but_for_these() -> None:
    known = {name for arch in ARCHES.values() for name in arch.calls}
    assert known >= DOCKER_REFUSES
    assert DOCKER_REFUSES - refused() == set(WE_ALLOW)
    assert refused() - DOCKER_REFUSES == set(WE_REFUSE)


def test_what_systemd_allows_services_and_we_do_not() -> None:
    assert set(SYSTEMD_ALLOWS_AND_WE_REFUSE) <= refused()


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("name", "args", "answer"),
    [
        ("ioctl", (0, 0x5412), errno.EPERM),  # TIOCSTI
        ("ioctl", (0, 0x1_0000_5412), errno.EPERM),  # with a high bit, CVE-2019-10063
        ("ioctl", (0, 0x5413), 0),  # TIOCGWINSZ
        ("clone", (0x10000000 | 17,), errno.EPERM),  # CLONE_NEWUSER | SIGCHLD
        ("clone", (0x4111 | 17,), 0),  # vfork's
        ("unshare", (0x80,), errno.EPERM),  # CLONE_NEWTIME
        ("unshare", (0x400,), 0),  # CLONE_FILES
        ("socket", (17, 3, 768), errno.EAFNOSUPPORT),  # AF_PACKET
        ("socket", (40, 1, 0), errno.EAFNOSUPPORT),  # AF_VSOCK
        ("socket", (38, 5, 0), errno.EAFNOSUPPORT),  # AF_ALG
        ("socket", (1, 1, 0), 0),
        ("socket", (2, 0x80801, 6), 0),  # STREAM | NONBLOCK | CLOEXEC, TCP
        ("socket", (10, 2, 58), 0),  # DGRAM, ICMPv6: ping
        ("socket", (2, 3, 1), errno.EPERM),  # RAW
        ("socket", (2, 0x80003, 255), errno.EPERM),
        ("socket", (2, 10, 768), errno.EPERM),  # SOCK_PACKET
        ("socket", (2, 1, 132), errno.EPROTONOSUPPORT),  # SCTP
        ("socket", (2, 1, 262), errno.EPROTONOSUPPORT),  # MPTCP
        ("socket", (16, 3, 0), 0),  # NETLINK_ROUTE
        ("socket", (16, 3, 4), 0),  # NETLINK_SOCK_DIAG
        ("socket", (16, 3, 12), errno.EPROTONOSUPPORT),  # NETLINK_NETFILTER
        ("socketpair", (1, 1, 0), 0),
        ("socketpair", (30, 1, 0), errno.EAFNOSUPPORT),  # AF_TIPC
        ("personality", (0xFFFFFFFF,), 0),
        ("personality", (0x40000,), 0),  # ADDR_NO_RANDOMIZE: gdb, sanitizers
        ("personality", (0x400000,), errno.EPERM),  # READ_IMPLIES_EXEC
        ("prlimit64", (0, 7), 0),
        ("prlimit64", (1, 7), errno.EPERM),
        ("prlimit64", (77, 7), 0),
        ("setpriority", (0, 0), 0),
        ("setpriority", (0, 1), errno.EPERM),
        ("setpriority", (1, 1), errno.EPERM),
        ("setpriority", (2, 0), errno.EPERM),
        ("ioprio_set", (1, 1), errno.EPERM),
        ("ioprio_set", (3, 1000), errno.EPERM),
        ("sched_setaffinity", (1,), errno.EPERM),
        ("clone3", (0,), errno.ENOSYS),
        ("ptrace", (0,), 0),
        ("process_vm_readv", (5,), 0),
        ("seccomp", (1,), 0),
        ("landlock_restrict_self", (0,), 0),
    ],
)  # fmt: skip
def test_what_is_refused_and_what_is_not(machine: str, name: str, args: tuple[int, ...], answer: int) -> None:
    assert asked(machine, name, *args) == (ERRNO | answer if answer else ALLOW)


def test_demands_open_and_close() -> None:
    nested, host = Demand(nested=True), Demand(own_pids=False)
    for name in ("mount", "pivot_root", "setns", "clone3", "sethostname"):
        assert asked("x86_64", name) != ALLOW
        assert asked("x86_64", name, demand=nested) == ALLOW
    assert asked("x86_64", "unshare", 0x10000000, demand=nested) == ALLOW
    assert asked("x86_64", "bpf", demand=nested) != ALLOW
    assert asked("x86_64", "socket", 16, 3, 12, demand=nested) != ALLOW
    assert asked("x86_64", "prlimit64", 77, demand=host) == ERRNO | errno.EPERM
    assert asked("x86_64", "prlimit64", 0, demand=host) == ALLOW
    assert asked("x86_64", "socket", 1, 1, 0, demand=Demand(unix=False)) == ERRNO | errno.EPERM
    assert asked("x86_64", "sched_setaffinity", 0, demand=Demand(fixed_affinity=True)) == ERRNO | errno.EPERM


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("demand", DEMANDS)
def test_a_listener_has_an_answer_to_every_notification(machine: str, demand: Demand) -> None:
    arch = ARCHES[machine]
    known = answers(machine, demand)
    code = program(machine, demand, notify=True)
    for name, args in (("socket", (2, 3, 0)), ("socket", (40, 1, 0)), ("bpf", ()), ("clone", (0x7E020000,)), ("mount", ())):
        given = (*args, *(0,) * (6 - len(args)))
        number = arch.calls[name]
        fits = next(
            (one for one in rules(demand) if name in one.calls and all(match.is_met(given) for match in one.when)), None
        )
        assert (run(code, arch.audit, number, given)[0] == USER_NOTIF) == (fits is not None), name
        told = next((one for one in known if one[0] == number and all(match.is_met(given) for match in one[3])), None)
        if fits is not None:
            assert (told or (number, errno.EPERM, (), ()))[1:3] == (fits.errno, fits.shown)


def test_the_numbers_are_the_kernels() -> None:
    for machine, header in (("x86_64", "x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "asm-generic/unistd.h")):
        path = Path("/usr/include", header)
        if not path.exists():
            pytest.skip(f"{path} is not there: no kernel headers (linux-libc-dev)")
        found = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\n", path.read_text())}
        ours = ARCHES[machine].calls
        differing = {name: number for name, number in found.items() if name in ours and ours[name] != number}
        assert not differing
        assert len(set(found) & set(ours)) > 300
    shared = ARCHES["x86_64"].calls.keys() & ARCHES["aarch64"].calls.keys()
    newer = {name for name in shared if ARCHES["x86_64"].calls[name] >= 424}
    assert all(ARCHES["aarch64"].calls[name] == ARCHES["x86_64"].calls[name] for name in newer)
    assert len(newer) == 469 - 424 + 1
