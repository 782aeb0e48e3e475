"""Which system calls an env may make, and of each that it may not: why, what it is answered, and what would allow it.

Pure data and the little that turns it into a program. It is an allow-list, as docker's default profile is: a call that
`syscalls` knows and no rule here names is allowed, one that it does not know (a newer kernel's) gets ENOSYS, upon which C
libraries fall back to what came before, where EPERM would make them give up. A deny-list would open every call that the next
kernel brings. Where we differ from docker stands in tests/unit/isolation/profiles.py, each with its reason. Masks of 32 bits
are meant: the kernel cuts these arguments to an int itself, and a filter that compares all 64 is passed by setting a high bit
(CVE-2019-10063).
"""

import binascii
import errno
import functools

import msgspec

from sandboxd.isolation.seccomp.bpf import ERRNO, LOW, USER_NOTIF, Case, Cases, Match, assemble
from sandboxd.isolation.seccomp.syscalls import ARCHES

NESTED = "--nested"
AF_UNIX, AF_INET, AF_INET6, AF_NETLINK = 1, 2, 10, 16
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET; unshare(2) takes NEWTIME besides, a signal's bit in clone(2).
NAMESPACES = 0x7E020000
NEWTIME = 0x80
# Not a class of getpriority(2): the kernel says EINVAL, our filter ENOTUNIQ, and so proves that it is there (launch/walls.py).
PROOF = 0x53424F58
TIOCSTI, TIOCLINUX, TIOCSETD = 0x5412, 0x541C, 0x5423
# PER_LINUX32, UNAME26 as docker, and ADDR_NO_RANDOMIZE for debuggers and sanitizers: it weakens the caller alone.
PERSONALITIES, ASK_PERSONALITY = 0x8 | 0x20000 | 0x40000, LOW
PRIO_PROCESS, PRIO_PGRP, PRIO_USER = 0, 1, 2
IOPRIO_PROCESS, IOPRIO_PGRP, IOPRIO_USER = 1, 2, 3


Shown = tuple[tuple[int, int], ...]


class Group(msgspec.Struct, frozen=True):
    """What refusals have in common. reason: as `why` tells it; option: what allows it ("": nothing does)."""

    reason: str
    option: str = ""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A refusal. when: arguments for which it applies, all of them (none: always). quiet: nobody is told of it; else it is
    noted with the arguments `shown`, (index, mask) each."""

    group: str
    calls: tuple[str, ...]
    errno: int = errno.EPERM
    when: tuple[Match, ...] = ()
    quiet: bool = False
    shown: Shown = ()


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What the policy depends on. nested: namespaces may be made inside. own_pids: behind a pid namespace, so that pid 1 is
    the only process to protect. unix: path sockets may be opened (a file wall stands before them). fixed_affinity: CPUs are
    limited by affinity. clone3: pid 1 needs it to make processes in their control group; each program then gets a filter of
    its own against it (kernel.seccomp.NO_CLONE3)."""

    nested: bool = False
    own_pids: bool = True
    unix: bool = True
    fixed_affinity: bool = False
    clone3: bool = False


GROUPS = {
    "mounts": Group("what an env sees of the file system is one of its walls", NESTED),
    "namespaces": Group("in a user namespace of its own a program has all capabilities over much of the kernel", NESTED),
    "names": Group("the host name is given by sandboxd", NESTED),
    "machine": Group("it acts on the whole machine, which an env shares"),
    "kernel log": Group("the kernel's log tells of the host and of the kernel's addresses"),
    "clock": Group("the clock is the whole machine's"),
    "bpf": Group("programs in the kernel; its verifier was wrong before"),
    "perf": Group("a large part of the kernel that was exploited often, and that sees what other processes do"),
    "keyrings": Group("keyrings do not belong to namespaces: keys of the host would be in reach"),
    "userfaultfd": Group("it holds the kernel up at will, which exploits are made of"),
    "io_uring": Group("it does system calls where no filter sees them; programs fall back to epoll"),
    "handles": Group("a file handle opens files past every directory above them, and so past the view"),
    "watching": Group("it watches whole file systems; inotify is there"),
    "personality": Group("other ways of executing programs switch protections off"),
    "segments": Group("16-bit segments, for which only very old programs ask"),
    "terminals": Group("typing into a terminal for its user, or loading line disciplines into the kernel"),
    "address families": Group("sockets but Unix, IP and netlink: modules that are loaded on demand, vsock is the hypervisor's"),
    "netlink": Group("netlink but routes, socket lists and device events configures the kernel"),
    "raw sockets": Group("raw and packet sockets forge and read others' packets"),
    "protocols": Group("IP protocols but TCP, UDP and ICMP: modules loaded on demand, which no port rule sees"),
    "pid 1": Group("limits, priority and CPUs of pid 1 are sandboxd's"),
    "processes": Group("limits, priority and CPUs of other processes, where they are not the env's alone"),
    "affinity": Group("its CPUs are its limit"),
    "unix sockets": Group("nothing keeps Unix sockets from services of this machine without a file wall that knows them"),
    "proof": Group("an answer that only this filter gives"),
    "gone": Group("calls that Linux no longer has, or that have a successor that can be looked into"),
}


def one_of(arg: int, *values: int, mask: int = LOW) -> Match:
    """The argument, an int to the kernel, is one of these."""
    return Match(arg, mask, values)


def none_of(arg: int, *values: int, mask: int = LOW) -> Match:
    """It is none of these."""
    return Match(arg, mask, values, holds=False)


MOUNTS = (
    "mount umount2 pivot_root chroot open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr open_tree_attr"
)  # fmt: skip
MACHINE = (
    "kexec_load kexec_file_load init_module finit_module delete_module reboot swapon swapoff acct quotactl quotactl_fd "
    "iopl ioperm vhangup"
)  # fmt: skip
GONE = (
    "uselib ustat sysfs _sysctl create_module get_kernel_syms query_module nfsservctl getpmsg putpmsg afs_syscall tuxcall "
    "security vserver set_thread_area get_thread_area epoll_ctl_old epoll_wait_old lookup_dcookie "
    "lsm_get_self_attr lsm_set_self_attr lsm_list_modules"
)  # fmt: skip


FIRST, SECOND = ((0, LOW),), ((1, LOW),)
BOTH = FIRST + SECOND
FLAGS, UNSHARED = ((0, NAMESPACES),), ((0, NAMESPACES | NEWTIME),)
SOCKET = ((0, LOW), (1, 0xF), (2, LOW))  # the type without SOCK_CLOEXEC and SOCK_NONBLOCK


def rule(group: str, calls: str, *when: Match, number: int = errno.EPERM, quiet: bool = False, shown: Shown = ()) -> Rule:
    """A rule, its names as text."""
    return Rule(group=group, calls=tuple(calls.split()), errno=number, when=when, quiet=quiet, shown=shown)


# The first rule that applies to a call is its answer.
ALWAYS = (
    rule("proof", "getpriority", one_of(0, PROOF), number=errno.ENOTUNIQ, quiet=True),
    rule("gone", GONE, number=errno.ENOSYS, quiet=True),
    rule("machine", MACHINE),
    rule("kernel log", "syslog"),
    rule("clock", "clock_settime settimeofday"),  # adjtimex also reads; to set by it takes a capability that nobody has
    rule("bpf", "bpf", shown=FIRST),
    rule("perf", "perf_event_open"),
    rule("keyrings", "add_key request_key keyctl"),
    rule("userfaultfd", "userfaultfd"),
    rule("io_uring", "io_uring_setup io_uring_enter io_uring_register"),
    rule("handles", "open_by_handle_at"),
    rule("watching", "fanotify_init"),
    rule("segments", "modify_ldt"),
    rule(
        "personality", "personality", none_of(0, ASK_PERSONALITY), none_of(0, 0, mask=LOW & ~PERSONALITIES), shown=FIRST
    ),
    rule("terminals", "ioctl", one_of(1, TIOCSTI, TIOCLINUX, TIOCSETD), shown=SECOND),
    # As a kernel without the family or protocol says it, for which programs are prepared.
    rule(
        "address families", "socket", none_of(0, AF_UNIX, AF_INET, AF_INET6, AF_NETLINK), number=errno.EAFNOSUPPORT,
        shown=SOCKET,
    ),
    rule("address families", "socketpair", none_of(0, AF_UNIX), number=errno.EAFNOSUPPORT, shown=SOCKET),
    # ROUTE, SOCK_DIAG and KOBJECT_UEVENT.
    rule(
        "netlink", "socket", one_of(0, AF_NETLINK), none_of(2, 0, 4, 15), number=errno.EPROTONOSUPPORT, shown=SOCKET
    ),
    # STREAM and DGRAM, besides flags; SOCK_PACKET (10) is AF_PACKET by an old name.
    rule("raw sockets", "socket", one_of(0, AF_INET, AF_INET6), none_of(1, 1, 2, mask=0xF), shown=SOCKET),
    # MPTCP: Go asks for it at every listener and takes TCP then; Landlock's rules for TCP ports do not see it.
    rule(
        "protocols", "socket", one_of(0, AF_INET, AF_INET6), one_of(2, 262), number=errno.EPROTONOSUPPORT, quiet=True
    ),
    rule(
        "protocols", "socket", one_of(0, AF_INET, AF_INET6), none_of(2, 0, 1, 6, 17, 58), number=errno.EPROTONOSUPPORT,
        shown=SOCKET,
    ),
)  # fmt: skip

# They may stay where programs make namespaces of their own: what else capabilities in those could reach is refused above.
UNLESS_NESTED = (
    rule("mounts", MOUNTS),
    rule("names", "sethostname setdomainname"),
    rule("namespaces", "clone", none_of(0, 0, mask=NAMESPACES), shown=FLAGS),
    rule("namespaces", "unshare", none_of(0, 0, mask=NAMESPACES | NEWTIME), shown=UNSHARED),
    rule("namespaces", "setns", shown=((1, NAMESPACES | NEWTIME),)),
)

# A process may do this to any other of its uid, dumpable or not (prlimit(2), sched_setaffinity(2)), and so to pid 1.
OF_PIDS = "prlimit64 sched_setparam sched_setscheduler sched_setaffinity sched_setattr"
PID_1 = (
    rule("pid 1", OF_PIDS, one_of(0, 1), shown=FIRST),
    rule("pid 1", "setpriority", one_of(0, PRIO_USER), shown=BOTH),
    rule("pid 1", "setpriority", one_of(0, PRIO_PROCESS, PRIO_PGRP), one_of(1, 1), shown=BOTH),
    rule("pid 1", "ioprio_set", one_of(0, IOPRIO_USER), shown=BOTH),
    rule("pid 1", "ioprio_set", one_of(0, IOPRIO_PROCESS, IOPRIO_PGRP), one_of(1, 1), shown=BOTH),
)

# Without a pid namespace they reach every process of this user; 0 is the caller itself.
OTHERS = (
    rule("processes", OF_PIDS, none_of(0, 0), shown=FIRST),
    rule("processes", "setpriority", none_of(0, PRIO_PROCESS), shown=BOTH),
    rule("processes", "setpriority", none_of(1, 0), shown=BOTH),
    rule("processes", "ioprio_set", none_of(0, IOPRIO_PROCESS), shown=BOTH),
    rule("processes", "ioprio_set", none_of(1, 0), shown=BOTH),
)  # fmt: skip

# Its flags lie in memory, where no filter looks; C libraries then use clone(2) (as docker does it).
NO_CLONE3 = (rule("gone", "clone3", number=errno.ENOSYS, quiet=True),)
NO_UNIX = (rule("unix sockets", "socket", one_of(0, AF_UNIX), shown=SOCKET),)
FIXED_AFFINITY = (rule("affinity", "sched_setaffinity"),)


def rules(demand: Demand) -> tuple[Rule, ...]:
    """Every refusal, in the order in which they are tried."""
    return (
        *ALWAYS,
        *(() if demand.nested else UNLESS_NESTED),
        *(() if demand.nested or demand.clone3 else NO_CLONE3),
        *(PID_1 if demand.own_pids else OTHERS),
        *(() if demand.unix else NO_UNIX),
        *(FIXED_AFFINITY if demand.fixed_affinity else ()),
    )


def program(machine: str, demand: Demand, *, notify: bool) -> bytes:
    """The filter's BPF program for a machine of uname(2). notify: refusals that are not quiet wait for a listener's answer."""
    arch = ARCHES[machine]
    cases: dict[int, Cases] = {number: () for number in arch.calls.values()}
    for one in rules(demand):
        answer = USER_NOTIF if notify and not one.quiet else ERRNO | one.errno
        for name in one.calls:
            if name in arch.calls:
                cases[arch.calls[name]] += (Case(answer, one.when),)
    return assemble(arch.audit, cases, ERRNO | errno.ENOSYS)


def every() -> tuple[Rule, ...]:
    """All rules that some demand has."""
    return (*ALWAYS, *UNLESS_NESTED, *PID_1, *OTHERS, *NO_UNIX, *FIXED_AFFINITY)


# What a listener is told of one rule: (number of the call, errno, what to show, tests).
Answer = tuple[int, int, Shown, tuple[Match, ...]]


def answers(machine: str, demand: Demand) -> list[Answer]:
    """The rules by which a listener answers, but for those that it answers with EPERM and shows nothing of anyway."""
    calls = ARCHES[machine].calls
    return [
        (calls[name], one.errno, one.shown, one.when)
        for one in rules(demand)
        if not one.quiet and (one.shown or one.errno != errno.EPERM)
        for name in one.calls
        if name in calls
    ]


# A program takes a millisecond to assemble, and there are few demands.
@functools.lru_cache(maxsize=32)
def filter_text(machine: str, demand: Demand, *, notify: bool) -> str:
    """The program as a step carries it."""
    return binascii.b2a_base64(program(machine, demand, notify=notify), newline=False).decode()


@functools.lru_cache(maxsize=32)
def refusals_text(machine: str, demand: Demand) -> str:
    """The answers as init carries them."""
    return msgspec.json.encode(answers(machine, demand)).decode()
