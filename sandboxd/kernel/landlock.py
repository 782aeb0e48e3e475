"""Landlock: rules that a process lays upon itself and all it starts, without any privilege (landlock(7)).

Imports `kernel.libc`. Numbers in, numbers out: which rights stand for what, and which of them a kernel has, is
`isolation.landlock`'s. A ruleset is a descriptor until `restrict` makes it a domain, which nothing takes back; that needs
no_new_privs. The kernel takes the newest attribute structure from everybody, as long as what it does not know is zero
(copy_struct_from_user), so one size serves all.
"""

import ctypes

from sandboxd.kernel.libc import check, syscall

VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
PATH_BENEATH, NET_PORT = 1, 2
LOG_SAME_EXEC_OFF, LOG_NEW_EXEC_ON, LOG_SUBDOMAINS_OFF = 1, 2, 4


class RulesetAttr(ctypes.Structure):
    """struct landlock_ruleset_attr as of ABI 6."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("handled_access_fs", "handled_access_net", "scoped")]


class PathBeneath(ctypes.Structure):
    """struct landlock_path_beneath_attr; packed by the kernel, but its eight and four bytes lie the same either way."""

    _fields_ = [("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32)]


class NetPort(ctypes.Structure):
    """struct landlock_net_port_attr."""

    _fields_ = [("allowed_access", ctypes.c_uint64), ("port", ctypes.c_uint64)]


_create_ruleset = syscall(444, ctypes.POINTER(RulesetAttr), ctypes.c_size_t, ctypes.c_uint32)
_add_rule = syscall(445, ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint32)
_restrict_self = syscall(446, ctypes.c_int, ctypes.c_uint32)


def abi() -> int:
    """The newest ABI of this kernel, from 1 on. Raises KernelError: ENOSYS not built in, EOPNOTSUPP not enabled at boot."""
    return check(_create_ruleset(None, 0, VERSION), "landlock_create_ruleset")


def create(handled_fs: int, handled_net: int, scoped: int) -> int:
    """A new ruleset that denies all these, until rules allow some; a descriptor, close-on-exec."""
    attributes = RulesetAttr(handled_fs, handled_net, scoped)
    return check(
        _create_ruleset(ctypes.byref(attributes), ctypes.sizeof(attributes), 0),
        "landlock_create_ruleset",
        f"{handled_fs:#x} {handled_net:#x} {scoped:#x}",
    )


def allow_path(ruleset: int, place: int, access: int, *, subject: str = "") -> None:
    """Allow these rights on the file at that descriptor, or on all beneath the directory."""
    rule = PathBeneath(access, place)
    check(_add_rule(ruleset, PATH_BENEATH, ctypes.byref(rule), 0), "landlock_add_rule", subject)


def allow_port(ruleset: int, port: int, access: int) -> None:
    """Allow these rights on that TCP port."""
    rule = NetPort(access, port)
    check(_add_rule(ruleset, NET_PORT, ctypes.byref(rule), 0), "landlock_add_rule", f"port {port}")


def restrict(ruleset: int, flags: int) -> None:
    """From here on, for this thread and all it starts."""
    check(_restrict_self(ruleset, flags), "landlock_restrict_self")
