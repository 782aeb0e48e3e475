"""Landlock as data: which rights a kernel's ABI has, and which of them an env gets where.

Pure. Inside namespaces (level full) it is a second wall that knows nothing of mounts: whatever leads out of the view (a
descriptor that leaked, a bug in a mount) is outside of every rule. What a ruleset handles is denied but for its rules. Bits
are those of linux/landlock.h; an ABI newer than the newest known here is treated as that one. Rights that UDP has since ABI
10 are left alone: a resolver binds any port, and to bind none is to have no names.
"""

from collections.abc import Iterable

from sandboxd.isolation.facts import Layout
from sandboxd.isolation.steps import Bind, Rules, Ruleset

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (1 << bit for bit in range(6, 13))
REFER, TRUNCATE, IOCTL_DEV, RESOLVE_UNIX = (1 << bit for bit in range(13, 17))
BIND_TCP, CONNECT_TCP = 1, 2
ABSTRACT_UNIX_SOCKET, SIGNAL = 1, 2
LOG_SAME_EXEC_OFF, LOG_SUBDOMAINS_OFF = 1, 4

# Right -> the first ABI that has it; those of ABI 1 are the first thirteen.
SINCE = {REFER: 2, TRUNCATE: 3, IOCTL_DEV: 5, RESOLVE_UNIX: 9}
NET, IOCTL, SCOPES, LOGS = 4, 5, 6, 7

# What a rule may grant where. Device nodes are made nowhere.
READ = EXECUTE | READ_FILE | READ_DIR
CHANGE = WRITE_FILE | TRUNCATE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO | MAKE_SYM | REFER
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV  # landlock_add_rule(2): a file can be given no others
DEVICES = READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE | IOCTL_DEV
PROCESSES = READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE  # oom_score_adj, comm; what must not be written there is masked
SCRATCH = ("/tmp", "/var/tmp", "/dev/shm", "/run")
QUEUES = "/dev/mqueue"


def handled(abi: int) -> int:
    """All file rights of that ABI: what is not handled is allowed everywhere."""
    return (MAKE_SYM << 1) - 1 | sum(right for right, since in SINCE.items() if abi >= since)


def scopes(abi: int) -> int:
    """Signals and abstract sockets reach only what is behind the same wall."""
    return ABSTRACT_UNIX_SOCKET | SIGNAL if abi >= SCOPES else 0


def log_flags(abi: int) -> int:
    """No audit records: a hostile env would fill the host's log with them, and nobody unprivileged can read it."""
    return LOG_SAME_EXEC_OFF | LOG_SUBDOMAINS_OFF if abi >= LOGS else 0


def lacking(abi: int, *, on_host: bool) -> str:
    """What this kernel's Landlock cannot do of what we would have it do, in words. on_host: on the host's network."""
    found = ["truncating files"] if abi < SINCE[TRUNCATE] else []
    found += ["TCP ports"] if on_host and abi < NET else []
    found += ["ioctl on devices"] if abi < IOCTL else []
    found += ["signals", "abstract sockets"] if abi < SCOPES else []
    return f"ABI {abi} of this kernel says nothing of {', '.join(found)}" if found else ""


def base(abi: int, layout: Layout, *, network: bool) -> Ruleset:
    """What every env behind namespaces may do, wherever its own places are. network: a network of its own, any port is its."""
    return Ruleset(
        fs=handled(abi),
        net=0 if network else ports_handled(abi),
        scoped=scopes(abi),
        rules=cut(abi, shared(layout)),
    )


def shared(layout: Layout) -> dict[str, int]:
    """Path -> rights, of what every view has."""
    granted = {"/": READ_DIR, **dict.fromkeys([path for path, _ in layout.directories], READ)}
    granted |= {"/sys": READ, "/proc": PROCESSES, "/dev": DEVICES}
    if layout.queues:
        granted[QUEUES] = READ | CHANGE
    return granted | dict.fromkeys(SCRATCH, READ | CHANGE | RESOLVE_UNIX)


def inside(abi: int, layout: Layout, binds: Iterable[Bind], ports: Iterable[int] | None) -> Rules:
    """The env's own part. binds: what its own view shows. ports: the only ones to bind (None: all of them)."""
    granted, own = shared(layout), {}
    for bind in binds:
        if bind.origin == "inside":  # a mask: nothing of it is to be had
            continue
        wanted = READ | RESOLVE_UNIX | (0 if bind.readonly else CHANGE)
        if bind.file:
            wanted &= OF_FILES
        if wanted & ~beneath(granted, bind.target):
            granted[bind.target] = own[bind.target] = wanted
    return rules(abi, own, ports)


def beneath(granted: dict[str, int], path: str) -> int:
    """What a path has by the rules on it and on all above it."""
    found = 0
    for place, access in granted.items():
        if f"{path}/".startswith(place.rstrip("/") + "/"):
            found |= access
    return found


def rules(abi: int, granted: dict[str, int], ports: Iterable[int] | None) -> Rules:
    """The step that completes the ruleset."""
    bound = [(port, BIND_TCP) for port in sorted(set(ports or ()))] if ports_handled(abi) else []
    return Rules(rules=cut(abi, granted), ports=bound)


def ports_handled(abi: int) -> int:
    """Where ports are restricted: to bind them."""
    return BIND_TCP if abi >= NET else 0


def cut(abi: int, granted: dict[str, int]) -> list[tuple[str, int]]:
    """The rules, each cut down to what the ABI has: more is EINVAL."""
    known = handled(abi)
    return [(path, access & known) for path, access in granted.items()]


def outside(abi: int, granted: dict[str, int], ports: Iterable[int]) -> tuple[Ruleset, Rules]:
    """The wall of a program that shares everything with the host: files, the ports to bind, scopes."""
    known = {path: access for path, access in granted.items() if access & handled(abi)}
    return (
        Ruleset(fs=handled(abi), net=ports_handled(abi), scoped=scopes(abi), rules=cut(abi, known)),
        rules(abi, {}, ports),
    )
