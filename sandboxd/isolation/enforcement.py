"""How each limit of an env is enforced on this host, or the refusal that names limit, reason and fix.

Pure. Best first: the kernel's own account of the whole env (cgroup v2), then what binds each process or the env's user
namespace (rlimit), the CPUs it may run on (affinity), and last our own looking (sampled), which stops an env after the fact.
Connections are made, and so counted, by the router. A limit that nothing here enforces is refused, never ignored. What the
words mean is shown by `inspect` as `limits_enforced`.
"""

from collections.abc import Mapping
from typing import Literal

from sandboxd.errors import LimitUnenforceable
from sandboxd.isolation.facts import LimitFacts
from sandboxd.spec import Limits

Way = Literal["cgroup", "rlimit", "affinity", "sampled", "router"]

# limit -> the cgroup controller that enforces it
CONTROLLERS = {
    "memory": "memory",
    "memory_high": "memory",
    "cpus": "cpu",
    "cpu_weight": "cpu",
    "pids": "pids",
    "io_read": "io",
    "io_write": "io",
}
DATA_SLACK = 256 << 20


def enforcement(limits: Limits, facts: LimitFacts, *, kuid: int, pinned: bool) -> dict[str, str]:
    """Limit -> how it is enforced; raises LimitUnenforceable.

    kuid: whom the env is on the host; RLIMIT_NPROC does not bind uid 0 (setrlimit(2)). pinned: an env cannot change its own
    CPUs, so that choosing them for it is a limit.
    """
    found: dict[str, str] = {}
    for name in limits.__struct_fields__:
        value = getattr(limits, name)
        if value is not None:
            found[name] = way(name, value, facts, kuid=kuid, pinned=pinned)
    return found


def way(name: str, value: float, facts: LimitFacts, *, kuid: int, pinned: bool) -> Way:
    """How one limit is enforced."""
    if name == "cpus" and value > len(facts.cpus):
        raise refused(name, f"this host has {len(facts.cpus)} for us, not {value:g}", f"ask for at most {len(facts.cpus)}")
    if CONTROLLERS.get(name) in facts.controllers:
        if name in ("io_read", "io_write") and not facts.devices:
            raise refused(name, "the disk behind our state directory is not known", f"leave {name} out")
        return "cgroup"
    match name:
        case "max_connections":
            if facts.unbound:
                raise refused(
                    name, facts.unbound, "sandbox daemon stop --all ends it with its envs, and the next start is of one version"
                )
            return "router"
        case "nofile":
            return "rlimit"
        case "pids":
            return "rlimit" if kuid != 0 else "sampled"
        case "memory" | "disk":
            return "sampled"
        case "cpus" if pinned and value == int(value):
            return "affinity"
    reason, fix = lacking(name, facts)
    if name == "cpus" and pinned:
        raise refused(
            name,
            f"part of a CPU takes a cgroup, and {reason}",
            f"ask for whole CPUs, as --cpus {max(1, round(value))}; or {fix}",
        )
    raise refused(name, f"it takes a cgroup, and {reason}", fix)


def lacking(name: str, facts: LimitFacts) -> tuple[str, str]:
    """Why the controller of a limit is not there, and what to do about it."""
    controller = CONTROLLERS[name]
    if not facts.controllers:
        return facts.reason, facts.fix or f"leave {name} out"
    have = ", ".join(facts.controllers)
    return (
        f"its controller {controller!r} is not delegated to us (we have {have})",
        f"add it: systemctl edit user@.service, [Service] Delegate={' '.join(sorted({*facts.controllers, controller}))}",
    )


def refused(name: str, reason: str, fix: str) -> LimitUnenforceable:
    """A limit by name, why not, and what to do."""
    return LimitUnenforceable(f"the limit {name!r} cannot be enforced: {reason}", hint=fix, limit=name, reason=reason)


def rlimits(limits: Limits, ways: Mapping[str, str], hard: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """rlimits (soft, hard) of each process of the env, none above the daemon's own hard ones, which nobody may pass.

    DATA and FSIZE only bound how far one process overshoots between two looks at what is sampled: their hard limits stay, since
    an unprivileged daemon could not raise them again when the limit is (setrlimit(2)).
    """
    found = {"CORE": (0, 0)}
    if limits.nofile is not None:
        nofile = lowest(limits.nofile, hard.get("NOFILE", -1))
        found["NOFILE"] = (nofile, nofile)
    if limits.pids is not None and ways.get("pids") == "rlimit":
        # Init is one of them, and it forks to start each service. Counted per user namespace, kernel >= 5.14.
        pids = lowest(limits.pids, hard.get("NPROC", -1))
        found["NPROC"] = (pids, pids)
    if limits.memory is not None and ways.get("memory") == "sampled":
        # Twice, since RLIMIT_DATA counts reserved pages of thread stacks and allocators that are never touched.
        found["DATA"] = soft(2 * limits.memory + DATA_SLACK, hard.get("DATA", -1))
    if limits.disk is not None:
        found["FSIZE"] = soft(limits.disk, hard.get("FSIZE", -1))
    return found


def soft(value: int, hard: int) -> tuple[int, int]:
    """A soft limit below a hard one that stays."""
    return lowest(value, hard), hard


def lowest(value: int, hard: int) -> int:
    """Of two rlimits; -1 is none (RLIM_INFINITY)."""
    return value if hard < 0 else min(value, hard)
