"""Which walls this host gives, why not, and what follows: the tier.

Pure. A wall that this version does not have is not spoken of. A wall that is missing is a failure only where the level that
was asked about demands it (`levels.DEMANDED`; `full` demands every wall there is).
"""

from sandboxd.doctor.facts import Facts
from sandboxd.doctor.report import Check, Tier
from sandboxd.isolation import levels
from sandboxd.isolation.facts import Offer
from sandboxd.isolation.hints import APPARMOR, DOCTOR
from sandboxd.isolation.landlock import lacking

WORDS = {
    "user": "user namespace: what is root inside is nobody outside",
    "mount": "mount namespace: the system read-only, home and /tmp of its own",
    "pid": "pid namespace: its own processes only",
    "net": "network namespace: its own loopback and ports",
    "ipc": "ipc namespace: its own shared memory and queues",
    "uts": "uts namespace: its own host name",
    "proc": "a fresh /proc",
    "capabilities": "no capabilities",
    "no_new_privs": "no_new_privs: set-user-id programs give nothing",
    "cgroup": "cgroup namespace: its own control group",
    "landlock": "Landlock: files, ports and signals, a second time",
    "seccomp": "seccomp: a filter of system calls",
}
NAMESPACES = ("user", "mount", "pid", "net", "ipc", "uts", "proc")
TIERS = {
    "T0": "everything",
    "T1": "no user namespaces: Landlock, seccomp and limits on this machine's own network",
    "T2": "no delegated cgroup: limits by rlimits and sampling",
    "T3": "inside an unprivileged container",
}


def walls(facts: Facts, level: str) -> list[Check]:
    """A check for each wall."""
    if facts.host is None:
        why = facts.failed.get("host", "it could not be tried")
        fix = "" if facts.container == "" else "run sandboxd outside the container"
        return [Check(id="wall.trial", group="walls", name="the trial of every wall", status="fail", reason=why, fix=fix)]
    return [wall(facts, name, offer, level) for name, offer in facts.host.walls.items()]


def wall(facts: Facts, name: str, offer: Offer, level: str) -> Check:
    """One wall."""
    demanded = level == "full" or name in levels.DEMANDED[level]
    fix = repair(facts, offer)
    return Check(
        id=f"wall.{name}",
        group="walls",
        name=WORDS.get(name, name),
        status="ok" if offer.offered else "fail" if demanded else "warn",
        offered=offer.offered,
        reason=reason(facts, name, offer),
        fix=fix,
        fixable="root" if can_mend(facts, offer) else "",
    )


def reason(facts: Facts, name: str, offer: Offer) -> str:
    """Why not; with which container it is, where that is known. Of what is there: what of it is not."""
    if not offer.offered:
        return f"{offer.reason} (this is a {facts.container} container)" if facts.container else offer.reason
    if facts.host is not None and name == "proc" and facts.host.proc == "subset":
        return "subset=pid: the host masks parts of its /proc"
    if facts.host is not None and name == "landlock":
        return lacking(facts.host.landlock, on_host=True) or f"ABI {facts.host.landlock}"
    return ""


def repair(facts: Facts, offer: Offer) -> str:
    """What to type, with this program's own path: sudo looks elsewhere."""
    if facts.container and not facts.systemd and offer.fix.startswith("sudo sysctl"):
        return f"on the host, not in the container: {offer.fix}"
    return offer.fix.replace(DOCTOR, f"sudo {facts.command} doctor --fix")


def can_mend(facts: Facts, offer: Offer) -> bool:
    """Whether `--fix` as root could change it."""
    if offer.offered or facts.container:
        return False
    if offer.fix == DOCTOR:
        return facts.apparmor.trusted and facts.apparmor.parser
    return offer.fix.startswith("sudo sysctl -w ")


def instead(facts: Facts) -> list[Check]:
    """What can be had by name where namespaces cannot, and what that does not hold."""
    if facts.host is None:
        return []
    missing = next((name for name in NAMESPACES if not facts.host.walls[name].offered), "")
    words = levels.instead(missing, facts.host) if missing else ""
    return [Check(id="instead", group="walls", name="less, asked for by name", status="note", reason=words)] if words else []


def denials(facts: Facts) -> list[Check]:
    """Whether `why` can tell what the filter refuses: there can be one listener only (seccomp_unotify(2))."""
    if facts.host is None or not facts.host.walls["seccomp"].offered:
        return []
    name = "refused system calls are told (sandbox why)"
    if facts.host.listener:
        return [Check(id="denials", group="walls", name=name, offered=True)]
    why = "a filter above sandboxd's has the only listener there can be: what is refused is refused, and nobody is told"
    return [Check(id="denials", group="walls", name=name, status="note", offered=False, reason=why)]


def apparmor(facts: Facts) -> list[Check]:
    """Ubuntu's restriction of user namespaces, and our way through it."""
    found = facts.apparmor
    if facts.settings.get(APPARMOR) != "1":
        return []
    name = "AppArmor profile for user namespaces"
    by_hand = f"sudo {facts.command} doctor --fix"
    if found.copy == "good" and found.profile and found.label.startswith("sandboxd"):
        return [Check(id="apparmor", group="walls", name=name, offered=True, reason=f"attached to {found.copy_path}")]
    if not found.trusted:
        why = f"{found.source} is not root's alone, so no copy of it may be let through"
        fix = "install sandboxd with the system's python3, in a virtual environment of it"
        return [Check(id="apparmor", group="walls", name=name, status="warn", offered=False, reason=why, fix=fix)]
    if not found.parser:
        return [Check(id="apparmor", group="walls", name=name, status="warn", offered=False,
                      reason="apparmor_parser is not installed", fix="sudo apt install apparmor")]  # fmt: skip
    if found.copy not in ("", "good"):
        why = f"{found.copy_path}: {found.copy}"
    elif not found.copy or not found.profile:
        why = f"{APPARMOR} is 1, and sandboxd's profile is not installed"
    else:
        why = f"the profile is installed but not loaded: a process of {found.copy_path} runs as {found.label!r}"
    return [
        Check(id="apparmor", group="walls", name=name, status="warn", offered=False, reason=why, fix=by_hand, fixable="root")
    ]


def missing(checks: list[Check], names: tuple[str, ...]) -> list[str]:
    """The ids of those walls that this host does not give."""
    wanted = {f"wall.{name}" for name in names} | {"wall.trial"}
    return [check.id for check in checks if check.id in wanted and check.offered is not True]


def tiers(facts: Facts, checks: list[Check]) -> tuple[str, list[Tier]]:
    """The tier that holds, and all four with what keeps this host from T0."""
    spaces = missing(checks, NAMESPACES)
    groups = [check.id for check in checks if check.id == "limit.cgroup" and check.offered is False]
    others = [
        check.id for check in checks if check.id.startswith("wall.") and check.offered is False and check.id not in spaces
    ]
    # a masked /proc is what containers do; in a nested user namespace that we cannot name it gives one away
    boxed = bool(facts.container or (facts.nested and "wall.proc" in spaces and "wall.user" not in spaces))
    tier = "T3" if spaces and boxed else "T1" if spaces else "T2" if groups else "T0"
    lacking = {"T0": [*spaces, *others, *groups], "T1": spaces, "T2": groups, "T3": spaces if boxed else []}
    return tier, [Tier(id=one, name=name, holds=one == tier, missing=lacking[one]) for one, name in TIERS.items()]


def needs_sysctl(facts: Facts) -> list[tuple[str, str]]:
    """The sysctls that keep walls away here, each with the value that gives them."""
    if facts.container or facts.host is None:
        return []
    wanted = {}
    for offer in facts.host.walls.values():
        if not offer.offered and offer.fix.startswith("sudo sysctl -w "):
            name, _, value = offer.fix.removeprefix("sudo sysctl -w ").partition("=")
            wanted[name] = value
    return sorted(wanted.items())


def needs_profile(facts: Facts) -> bool:
    """Whether the profile (and the copy) are to be installed."""
    return any(check.fixable == "root" for check in apparmor(facts))
