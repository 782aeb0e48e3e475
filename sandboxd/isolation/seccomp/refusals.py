"""A refused call in words: what it was, why it is refused, and the option that would allow it.

Pure. Init tells numbers only (of the call, and of the few arguments that say which rule it was); what is not in the tables, as
anything that a hostile init may make up, is shown as the number it is.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sandboxd.isolation.seccomp.policy import GROUPS, OF_PIDS, Demand, Rule, every, rules
from sandboxd.isolation.seccomp.syscalls import ARCHES

OTHERS = 0xFFFFFFFF  # what init could not keep apart any more
FAMILIES = {
    1: "AF_UNIX", 2: "AF_INET", 3: "AF_AX25", 4: "AF_IPX", 5: "AF_APPLETALK", 9: "AF_X25", 10: "AF_INET6", 15: "AF_KEY",
    16: "AF_NETLINK", 17: "AF_PACKET", 21: "AF_RDS", 26: "AF_LLC", 29: "AF_CAN", 30: "AF_TIPC", 31: "AF_BLUETOOTH",
    33: "AF_RXRPC", 35: "AF_PHONET", 36: "AF_IEEE802154", 38: "AF_ALG", 39: "AF_NFC", 40: "AF_VSOCK", 41: "AF_KCM",
    42: "AF_QIPCRTR", 43: "AF_SMC", 44: "AF_XDP", 45: "AF_MCTP",
}  # fmt: skip
TYPES = {
    1: "SOCK_STREAM",
    2: "SOCK_DGRAM",
    3: "SOCK_RAW",
    4: "SOCK_RDM",
    5: "SOCK_SEQPACKET",
    6: "SOCK_DCCP",
    10: "SOCK_PACKET",
}
NETLINKS = {
    5: "NETLINK_NFLOG", 6: "NETLINK_XFRM", 7: "NETLINK_SELINUX", 9: "NETLINK_AUDIT", 11: "NETLINK_CONNECTOR",
    12: "NETLINK_NETFILTER", 16: "NETLINK_GENERIC", 20: "NETLINK_RDMA", 21: "NETLINK_CRYPTO",
}  # fmt: skip
PROTOCOLS = {
    1: "IPPROTO_ICMP", 6: "IPPROTO_TCP", 17: "IPPROTO_UDP", 33: "IPPROTO_DCCP", 115: "IPPROTO_L2TP", 132: "IPPROTO_SCTP",
    136: "IPPROTO_UDPLITE", 255: "IPPROTO_RAW", 262: "IPPROTO_MPTCP",
}  # fmt: skip
COMMANDS = {0x5412: "TIOCSTI", 0x541C: "TIOCLINUX", 0x5423: "TIOCSETD"}
NAMESPACES = {
    0x80: "CLONE_NEWTIME", 0x20000: "CLONE_NEWNS", 0x2000000: "CLONE_NEWCGROUP", 0x4000000: "CLONE_NEWUTS",
    0x8000000: "CLONE_NEWIPC", 0x10000000: "CLONE_NEWUSER", 0x20000000: "CLONE_NEWPID", 0x40000000: "CLONE_NEWNET",
}  # fmt: skip


class Refusal(NamedTuple):
    """what: the call as people write it. reason, option: as of its group."""

    what: str
    reason: str
    option: str


def in_words(machine: str, number: int, args: Sequence[int]) -> Refusal:
    """The refusal of a call of which these arguments were told, in the order in which its rule shows them."""
    if number == OTHERS:
        return Refusal("other system calls", "", "")
    arch = ARCHES.get(machine)
    name = arch.names.get(number, f"system call {number}") if arch else f"system call {number}"
    mine = [one for one in every() if name in one.calls and len(one.shown) == len(args)]
    if not mine:
        return Refusal(name, "", "")
    found = next((one for one in mine if fits(one, args)), mine[0])
    group = GROUPS[found.group]
    words = ", ".join(argument(name, index, value, args) for (index, _), value in zip(found.shown, args, strict=True))
    return Refusal(f"{name}({words})" if words else name, group.reason, group.option)


def fits(one: Rule, args: Sequence[int]) -> bool:
    """Whether a rule applies, as far as its arguments were told."""
    told = {index: value for (index, _), value in zip(one.shown, args, strict=True)}
    return all((told[match.arg] & match.mask in match.values) == match.holds for match in one.when if match.arg in told)


def argument(name: str, index: int, value: int, args: Sequence[int]) -> str:
    """One argument as people write it."""
    match name, index:
        case (("socket" | "socketpair"), 0):
            return FAMILIES.get(value, f"family {value}")
        case "socket", 1:
            return TYPES.get(value, f"type {value}")
        case "socket", 2:
            return (NETLINKS if args[0] == 16 else PROTOCOLS).get(value, f"protocol {value}" if value else "0")
        case "ioctl", 1:
            return COMMANDS.get(value, hex(value))
        case (("clone" | "unshare" | "setns"), _):
            named = [flag for bit, flag in NAMESPACES.items() if value & bit and (bit != 0x80 or name != "clone")]
            return " | ".join(named) or hex(value)
        case _, 0 if name in OF_PIDS.split():
            return f"pid {value}"
    return hex(value) if name == "personality" else str(value)


def in_force(demand: Demand) -> list[str]:
    """Every rule in words, for those who want to read them: by group, its calls, and what allows them."""
    found: dict[str, list[str]] = {}
    for one in rules(demand):
        partly = " (some)" if one.when else ""
        found.setdefault(one.group, []).extend(f"{name}{partly}" for name in one.calls)
    return [
        f"{group}: {', '.join(dict.fromkeys(calls))}: {GROUPS[group].reason}"
        + (f" ({GROUPS[group].option} allows it)" if GROUPS[group].option else "")
        for group, calls in found.items()
    ]
