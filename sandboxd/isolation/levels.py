"""The levels below full, which are asked for by name: what they demand of a host, what they lack, and the steps they take.

Pure. `landlock` is for hosts without user namespaces: no namespace at all, so no view of its own. What can be reached is
bounded by Landlock and seccomp, which each program takes upon itself; other processes, the host's network and names stay in
sight. `none` bounds nothing; it ends whole, and its limits are kept. Neither gains privileges (no_new_privs): a program of
another uid could not be ended.
"""

from collections.abc import Mapping

from sandboxd.errors import SpecInvalid, WallUnavailable
from sandboxd.isolation import landlock
from sandboxd.isolation.facts import HostFacts, Layout, PlaceFacts
from sandboxd.isolation.steps import AnyStep, Landlock, Rules, Ruleset, Seccomp
from sandboxd.protocol.messages import WallInfo
from sandboxd.spec import EnvSpec

DEMANDED: dict[str, tuple[str, ...]] = {"landlock": ("no_new_privs", "landlock", "seccomp"), "none": ("no_new_privs",)}
UNIX_ABI = landlock.SINCE[landlock.RESOLVE_UNIX]  # below it path sockets are closed by seccomp, all of them
OF_A_PROGRAM = (Ruleset, Rules, Seccomp, Landlock)  # steps that each program takes; init stands outside
LEAST_ABI = landlock.SINCE[landlock.TRUNCATE]
INSTEAD = (
    "--isolation landlock works here: files and ports are bounded, but the host's processes and network stay in sight, "
    "and what lies in the workspace (sandbox.toml, git's hooks) can be rewritten"
)


def instead(wall: str, host: HostFacts) -> str:
    """What to ask for by name where a wall that needs a namespace is missing; "" where that is no way either."""
    offer = host.walls.get("landlock")
    works = wall not in ("landlock", "no_new_privs") and offer is not None and offer.offered and host.landlock >= LEAST_ABI
    return INSTEAD if works else ""


def check(spec: EnvSpec, place: PlaceFacts, uid: int) -> None:
    """What takes mounts or another user cannot be had here: raises SpecInvalid or WallUnavailable."""
    level = spec.isolation.level
    if uid == 0 and spec.isolation.user != "root":
        raise SpecInvalid(
            f"root's envs run as nobody, who cannot reach their home without mounts (isolation {level})",
            hint="run it as an ordinary user, or ask for root by name: --user root",
            key="isolation.level",
        )
    if uid != 0 and spec.isolation.user == "root":
        raise lacking("user", level, "to look like root takes a user namespace", "leave --user out")
    if spec.isolation.nested:
        raise lacking("user", level, "--nested is about namespaces inside, and there are none", "leave --nested out")
    if spec.isolation.home != "private":
        raise lacking("mount", level, "to show the real home without its secrets takes mounts", 'home = "private"')
    if spec.network.mode != "host":
        why = f"network mode {spec.network.mode} takes a network namespace"
        raise lacking("net", level, why, "leave the network mode out: it is the host's")
    if place.own and level == "landlock":  # whose rules only ever add: nothing in a tree can be taken out of it
        why = f"to keep {place.own[0]}, sandboxd's own code, from being rewritten takes mounts"
        raise lacking("mount", level, why, "use level full, or install sandboxd outside of what the env may write")
    for mount in place.mounts:
        if mount.source != mount.target:
            why = f"to show {mount.source} at {mount.target} takes mounts"
            raise lacking("mount", level, why, f"-v {mount.source}:{mount.source}: its own place")


def lacking(wall: str, level: str, reason: str, fix: str) -> WallUnavailable:
    """The refusal of what only a wall of level full gives."""
    return WallUnavailable(f"isolation {level} has no {wall} wall: {reason}", hint=fix, wall=wall, reason=reason)


def walls_of(spec: EnvSpec, host: HostFacts, names: tuple[str, ...]) -> dict[str, WallInfo]:
    """The three answers of each wall; raises WallUnavailable for one that is demanded and not offered."""
    level = spec.isolation.level
    found: dict[str, WallInfo] = {}
    for wall in names:
        offer = host.walls.get(wall)
        offered = offer is not None and offer.offered
        demanded = wall in DEMANDED[level]
        reason = "" if demanded else f"isolation {level} was asked for by name"
        if demanded and wall == "landlock" and offered and host.landlock < LEAST_ABI:
            reason, offered = f"its ABI {host.landlock} lets every file be truncated", False
            hint = "run a kernel of 6.2 or later"
            raise WallUnavailable(f"the landlock wall is too low: {reason}", hint=hint, wall=wall, reason=reason)
        if demanded and not offered:
            why, fix = (offer.reason, offer.fix) if offer is not None else ("it was never probed", "")
            raise WallUnavailable(f"this host does not offer the {wall} wall: {why}", hint=fix, wall=wall, reason=why)
        if demanded and wall == "landlock":
            reason = landlock.lacking(host.landlock, on_host=True)
        found[wall] = WallInfo(offered=offered, demanded=demanded, enforced=False, reason=reason)
    return found


def steps(walls: Mapping[str, WallInfo], host: HostFacts, place: PlaceFacts, ports: set[int]) -> list[AnyStep]:
    """What makes the rules that each program puts itself under."""
    if not walls["landlock"].demanded:
        return []
    return [*landlock.outside(host.landlock, rights(place, host.layout), ports)]


def scratch(place: PlaceFacts) -> str:
    """Where temporary files go: /tmp is everybody's."""
    return f"{place.env_home}/tmp"


def rights(place: PlaceFacts, layout: Layout) -> dict[str, int]:
    """Path -> rights on the host's own tree."""
    granted = dict.fromkeys([source for _, source in layout.directories], landlock.READ)
    granted |= dict.fromkeys(layout.system, landlock.READ)
    granted |= {"/proc": landlock.READ_FILE | landlock.READ_DIR}  # not written: oom_score_adj of processes of the same uid
    granted |= dict.fromkeys(layout.nodes, landlock.DEVICES & landlock.OF_FILES)
    shown = [(layout.resolv_conf, place.resolv_conf), (layout.hosts, place.hosts)]
    granted |= {path: landlock.READ_FILE for path, text in shown if path and text and not landlock.beneath(granted, path)}
    granted |= dict.fromkeys(place.tools, landlock.READ)
    whole = landlock.READ | landlock.CHANGE | landlock.RESOLVE_UNIX
    granted |= dict.fromkeys([place.env_home, *([place.workspace] if place.workspace else [])], whole)
    for mount in place.mounts:
        wanted = landlock.READ | landlock.RESOLVE_UNIX | (0 if mount.readonly else landlock.CHANGE)
        granted[mount.source] = granted.get(mount.source, 0) | (wanted & landlock.OF_FILES if mount.file else wanted)
    return granted
