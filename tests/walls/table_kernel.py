"""Attempts on the kernel's surface: what a service never needs and exploits begin with, reached through the whole product.

Each denied call with its reason stands in test_seccomp.py; here is one of each kind, from inside a real env. A bad pointer or
descriptor as the control's answer (EFAULT, EBADF, EINVAL) proves that the call was reached, EPERM that it was not.
"""
# ruff: noqa: E501 - a row is read across, as a table's

from tests.walls.attempts import CAPABLE, NESTED, OUTSIDE, Attempt
from tests.walls.probe import COLUMN, NUMBERS

TIOCSTI, TIOCLINUX, TIOCGWINSZ = 0x5412, 0x541C, 0x5413
HIGH = 1 << 32
REACHED = "ok|EFAULT|EINVAL|EBADF|E2BIG|ENOMEM|ENOSYS"
NEWUSER, NEWNS, NEWNET = 0x10000000, 0x20000, 0x40000000
OWN_TERMINAL = ["ioctl", TIOCGWINSZ, "12345678"]
SELF = ["read", "/proc/self/status"]

NAMESPACES = [
    Attempt("a user namespace", ["own_namespaces", 0], "EPERM|ENOSPC", NESTED, "ok", SELF, "seccomp"),
    Attempt("user and mount namespaces", ["own_namespaces", NEWNS], "EPERM|ENOSPC", NESTED, "ok", SELF, "seccomp"),
    Attempt("clone into one", ["syscall", "clone", NEWUSER | 17, 0, 0, 0, 0], "EPERM|ENOSPC", NESTED, "ok", SELF, "seccomp"),
    Attempt("clone3 into one", ["syscall", "clone3", ["8Q", NEWUSER, 0, 0, 0, 17, 0, 0, 0], 64], "EPERM|ENOSPC|ENOSYS", NESTED, "ok",
            ["on_child", "kill", None, 0], "seccomp"),
    Attempt("a procfs of its own", ["inner_proc"], "EPERM|ENOSPC", NESTED, "ok", ["list", "/proc"], "seccomp"),
    Attempt("a mount namespace", ["syscall", "unshare", NEWNS], "EPERM", CAPABLE, "ok", SELF),
    Attempt("a network namespace", ["syscall", "unshare", NEWNET], "EPERM", CAPABLE, "ok", SELF),
    Attempt("setns", ["descriptor_call", "setns", "/proc/self/ns/net", NEWNET], "EPERM", CAPABLE, "ok", SELF),
]  # fmt: skip

TERMINALS = [
    Attempt("TIOCSTI (CVE-2017-5226)", ["ioctl", TIOCSTI, "x"], "EPERM", OUTSIDE, "ok|EIO", OWN_TERMINAL, "seccomp"),
    Attempt(
        "TIOCSTI with high bits (CVE-2019-10063)",
        ["ioctl", TIOCSTI | HIGH, "x"],
        "EPERM",
        OUTSIDE,
        "ok|EIO",
        OWN_TERMINAL,
        "seccomp",
    ),
    Attempt("TIOCLINUX", ["ioctl", TIOCLINUX, "\3"], "EPERM", OUTSIDE, "ENOTTY", OWN_TERMINAL, "seccomp"),
    Attempt("the controlling terminal", ["access", "/dev/console"], "ENOENT", OUTSIDE, "ok", OWN_TERMINAL),
]

CALLS = [
    Attempt(name, ["syscall", name, *arguments], "EPERM", without, works, neighbour, wall)
    for name, arguments, without, works, neighbour, wall in (
        ("keyctl", [0, -3, 0], OUTSIDE, "ok|ENOKEY", SELF, "seccomp"),
        ("add_key", [None, None, None, 0, -2], OUTSIDE, "EFAULT", SELF, "seccomp"),
        ("request_key", [None, None, None, -2], OUTSIDE, "EFAULT", SELF, "seccomp"),
        ("io_uring_setup", [1, None], OUTSIDE, "EFAULT", SELF, "seccomp"),
        ("io_uring_enter", [-1, 0, 0, 0, None, 0], OUTSIDE, "EBADF", SELF, "seccomp"),
        ("perf_event_open", [None, 0, -1, -1, 0], OUTSIDE, "EFAULT", SELF, "seccomp"),
        ("userfaultfd", [-1], OUTSIDE, "EINVAL", SELF, "seccomp"),
        ("open_by_handle_at", [-1, None, 0], OUTSIDE, "EFAULT|EBADF", SELF, "seccomp"),
        ("reboot", [0, 0, 0, None], CAPABLE, "EINVAL", SELF, "seccomp"),
        ("quotactl", [0x800001 << 8, None, 0, None], OUTSIDE, "ok", SELF, "seccomp"),
        ("sethostname", ["x", 1], CAPABLE, "ok", SELF, ""),
        ("fanotify_init", [0x200, 0], OUTSIDE, "ok", SELF, "seccomp"),
        ("iopl", [0], OUTSIDE, "ok|ENOSYS", SELF, "seccomp"),
        ("ioperm", [0, 1, 0], OUTSIDE, "ok|ENOSYS", SELF, "seccomp"),
        ("move_pages", ["{init}", 0, None, None, None, 0], OUTSIDE, "ok", SELF, "seccomp"),
        ("migrate_pages", ["{init}", 0, None, None], OUTSIDE, REACHED, SELF, "seccomp"),
    )
    if NUMBERS[name][COLUMN] is not None  # which this machine has
]  # fmt: skip

KERNEL = [*NAMESPACES, *TERMINALS, *CALLS]
