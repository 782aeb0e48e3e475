"""Refused calls in words."""

import pytest

from sandboxd.isolation.seccomp.policy import GROUPS, NESTED, Demand, rules
from sandboxd.isolation.seccomp.refusals import in_force, in_words
from sandboxd.isolation.seccomp.syscalls import ARCHES

CALLS = ARCHES["x86_64"].calls


@pytest.mark.parametrize(
    ("name", "args", "what", "group"),
    [
        ("mount", (), "mount", "mounts"),
        ("bpf", (5,), "bpf(5)", "bpf"),
        ("ioctl", (0x5412,), "ioctl(TIOCSTI)", "terminals"),
        ("socket", (40, 1, 0), "socket(AF_VSOCK, SOCK_STREAM, 0)", "address families"),
        ("socket", (99, 77, 5), "socket(family 99, type 77, protocol 5)", "address families"),
        ("socket", (16, 3, 12), "socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER)", "netlink"),
        ("socket", (2, 3, 1), "socket(AF_INET, SOCK_RAW, IPPROTO_ICMP)", "raw sockets"),
        ("socket", (2, 1, 132), "socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP)", "protocols"),
        ("unshare", (0x10020000,), "unshare(CLONE_NEWNS | CLONE_NEWUSER)", "namespaces"),
        ("clone", (0x10000000,), "clone(CLONE_NEWUSER)", "namespaces"),
        ("prlimit64", (1,), "prlimit64(pid 1)", "pid 1"),
        ("setpriority", (2, 0), "setpriority(2, 0)", "pid 1"),
        ("personality", (0x400000,), "personality(0x400000)", "personality"),
    ],
)  # fmt: skip
def test_a_refusal_is_told_as_people_write_it(name: str, args: tuple[int, ...], what: str, group: str) -> None:
    told = in_words("x86_64", CALLS[name], args)
    assert (told.what, told.reason, told.option) == (what, GROUPS[group].reason, GROUPS[group].option)


def test_what_can_be_allowed_says_how() -> None:
    assert in_words("x86_64", CALLS["mount"], ()).option == NESTED


@pytest.mark.parametrize(("number", "args"), [(99999, (1, 2, 3)), (CALLS["socket"], ()), (0, (1,) * 50)])
def test_what_init_makes_up_is_shown_as_numbers(number: int, args: tuple[int, ...]) -> None:
    assert in_words("x86_64", number, args).what
    assert in_words("sparc", number, args).what == f"system call {number}"


def test_the_rules_in_force_name_every_call() -> None:
    text = "\n".join(in_force(Demand()))
    for one in rules(Demand()):
        assert all(name in text for name in one.calls)
    assert "--nested allows it" in text
    assert "--nested" not in "\n".join(in_force(Demand(nested=True)))
