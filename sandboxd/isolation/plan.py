"""(spec, facts) -> LaunchPlan, or the refusal that names wall, reason and fix. The order of setup is the list in `steps_of`.

Pure. A plan has two halves. `base` depends on the host alone, so a parked child has applied it before anybody asks; `steps`
are this env's own, and short, because they are what `run` waits for. Both are in the order of their phases
(`steps.in_order`). A wall is *demanded* by the spec, *offered* by the host, and *enforced* once launched: the child's last
step tries each of them, and an env whose walls do not hold is not launched at all. Nothing here is weaker by silence.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sandboxd.egress import PROXY, PROXY_PORT, forward, given
from sandboxd.errors import NotOffered, SpecInvalid, WallUnavailable
from sandboxd.isolation import landlock, levels
from sandboxd.isolation.enforcement import enforcement, rlimits
from sandboxd.isolation.facts import LATER, WALLS, HostFacts, Layout, Offer, PlaceFacts
from sandboxd.isolation.seccomp.policy import Demand, filter_text, refusals_text
from sandboxd.isolation.services import InitConfig, environment, roots, service_plans
from sandboxd.isolation.steps import (
    Affinity,
    AnyStep,
    Bind,
    Capabilities,
    Hostname,
    Landlock,
    Listen,
    Prove,
    Resize,
    Rlimits,
    Rules,
    Seal,
    Seccomp,
    in_order,
)
from sandboxd.isolation.view import SCRATCH, base_steps, hosts_file, is_own, own_files, tmp_size, view_steps
from sandboxd.protocol.messages import WallInfo
from sandboxd.spec import EnvSpec

PLAN_LIMIT = 4 << 20
NOBODY = 65534
NEVER_LOOKED = Offer(offered=False, reason="it was never probed")


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Who an env runs as, (inside, outside), and whether it has a network of its own. root: outside uid 0 was asked for.

    namespaces: whether it has any namespace at all.
    """

    uid: tuple[int, int]
    gid: tuple[int, int]
    network: bool = True
    root: bool = False
    namespaces: bool = True


class LaunchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """All that the launcher's child and init need, as data.

    limits: how each is enforced. handed: directories that are handed over as mount descriptors. no_way: why nothing can go out
    although nobody asked for that.
    """

    id: str
    name: str
    profile: Profile
    base: list[AnyStep]
    steps: list[AnyStep]
    init: InitConfig
    network: str
    walls: dict[str, WallInfo]
    limits: dict[str, str]
    handed: list[str] = []
    no_way: str = ""

    def check_size(self) -> None:
        """Raise SpecInvalid where what its spec makes of it is over the cap of 4 MiB. The base is of the host's making."""
        size = len(msgspec.json.encode((self.steps, self.init)))
        if size > PLAN_LIMIT:
            raise SpecInvalid(
                f"the plan of env {self.name} is {size} bytes, over the cap of {PLAN_LIMIT}",
                hint="its commands and environment variables are too long",
            )

    def describe(self) -> list[str]:
        """Every step in words, in order."""
        return [step.describe() for step in [*self.base, *self.steps]]


# Those made, with the layout that each is of: one that is held here keeps its id.
_bases: dict[tuple[object, ...], tuple[Layout, list[AnyStep]]] = {}
MOST_BASES = 32


def plan(  # noqa: PLR0913 - every fact the decision rests on, by name: there is no hidden input
    spec: EnvSpec,
    *,
    id: str,
    name: str,
    host: HostFacts,
    place: PlaceFacts,
    environ: Mapping[str, str],
    uid: int,
    gid: int,
    url: str = "",
    cpus: Sequence[int] = (),
) -> LaunchPlan:
    """The plan, or WallUnavailable, LimitUnenforceable, NotOffered. environ: the caller's; uid, gid: the daemon's own.

    cpus: those to run on, best first, where the number of CPUs is limited that way (none given: the host's first ones).
    """
    refuse(spec, host)
    is_full = spec.isolation.level == "full"
    if not is_full:
        levels.check(spec, place, uid)
        place = msgspec.structs.replace(place, home=place.env_home)
    walls = walls_of(spec, host) if is_full else levels.walls_of(spec, host, (*WALLS, *LATER))
    profile = profile_of(spec, uid, gid)
    # RLIMIT_NPROC counts per user namespace: in the host's own it would count all that this user runs, as it counts root's not.
    ways = enforcement(spec.limits, host.limits, kuid=profile.uid[1] if is_full else 0, pinned=is_pinned(walls))
    limits = rlimits(spec.limits, ways, host.limits.hard)
    own_cpus = sorted((cpus or host.limits.cpus)[: int(spec.limits.cpus or 0)]) if ways.get("cpus") == "affinity" else []
    shared = environment(spec, name, place, environ, url)
    demand = demand_of(spec, host, fixed_affinity=ways.get("cpus") == "affinity")
    confined = [*listeners(spec, host), *confinement(limits, own_cpus), *raised(host, walls, demand)]
    if not is_full:
        shared = {"TMPDIR": levels.scratch(place), **shared}
        confined = [*levels.steps(walls, host, place, ports_of(spec) or set()), *confined]
    each = [] if is_full else [step for step in confined if isinstance(step, levels.OF_A_PROGRAM)]
    # A daemon's directories are not its envs' to walk where they run as someone else.
    handed = is_full and place.real_home is None and (place.foreign or profile.uid[1] != uid)
    made = LaunchPlan(
        id=id,
        name=name,
        profile=profile,
        base=base_of(spec, host) if is_full else [],
        steps=steps_of(spec, name, host, place, handed=handed, confined=confined) if is_full else confined,
        init=InitConfig(
            id=id,
            name=name,
            services=service_plans(spec, shared, limits, place, each),
            start=roots(spec),
            refusals=refusals_text(host.machine, demand) if is_full and host.listener else "",
            sift=demand.clone3 and walls["seccomp"].demanded,
            **arrivals(spec, place, host),
        ),
        network=spec.network.mode,
        walls=walls,
        limits=ways,
        handed=[place.env_home] if handed else [],
        no_way=no_way(spec, host),
    )
    made.check_size()
    return made


def base_of(spec: EnvSpec, host: HostFacts) -> list[AnyStep]:
    """What a parked child has done before. Made once for a host and a kind of env: it is what a plan takes longest for."""
    kind = spec.network.mode != "host", spec.isolation.nested, reaches_out(spec, host) and not by_proxy(spec)
    key = id(host.layout), host.proc, host.landlock, *kind
    found = _bases.get(key)
    if found is None or found[0] is not host.layout:
        network, nested, egress = kind
        steps = base_steps(host.layout, host.proc, network=network, abi=host.landlock, nested=nested, egress=egress)
        if len(_bases) >= MOST_BASES:
            _bases.clear()
        found = _bases[key] = host.layout, steps
    return found[1]


def steps_of(
    spec: EnvSpec, name: str, host: HostFacts, place: PlaceFacts, *, handed: bool, confined: Sequence[AnyStep]
) -> list[AnyStep]:
    """The env's own steps, in the one order that works. confined: those that act on a process, and all it starts."""
    layout = host.layout
    steps: list[AnyStep] = []
    least = [limit for limit in (spec.limits.memory, spec.limits.disk) if limit is not None]
    size = tmp_size(layout.memory, min(least, default=None))
    if size != tmp_size(layout.memory, None):
        steps += [Resize(place, size) for place in SCRATCH]
    steps += [own_files(layout, hosts_file([name, *spec.services], place.hosts), place.resolv_conf), Hostname(name)]
    is_ruled = any(isinstance(step, Landlock) for step in confined)
    binds, rules = shown(place, host, ports_of(spec) if is_ruled else None, handed=handed)
    steps += [*binds, Seal()]
    if is_ruled:
        steps.append(rules)
    steps += confined
    assert in_order(steps), "a step stands after one of a later phase"
    return steps


# What was made of places that differ in nothing but where their home is kept; a layout that is held here keeps its id.
_views: dict[tuple[object, ...], tuple[Layout, list[AnyStep], Rules]] = {}
MOST_VIEWS = 64


def shown(place: PlaceFacts, host: HostFacts, ports: set[int] | None, *, handed: bool) -> tuple[list[AnyStep], Rules]:
    """The env's own part of the view, and the rules of Landlock on that, which many envs of one spec have in common."""
    layout = host.layout
    home = place.env_home
    key = (
        id(layout),
        host.landlock,
        handed,
        None if ports is None else frozenset(ports),
        msgspec.msgpack.encode(msgspec.structs.replace(place, env_home="")),
    )
    found = _views.get(key)
    if found is None or found[0] is not layout:
        view = view_steps(msgspec.structs.replace(place, env_home=""), layout, handed=handed)
        binds = [step for step in view if isinstance(step, Bind)]
        if len(_views) >= MOST_VIEWS:
            _views.clear()
        found = _views[key] = layout, view, landlock.inside(host.landlock, layout, binds, ports)
    own = [
        msgspec.structs.replace(step, source=home) if isinstance(step, Bind) and not step.source else step for step in found[1]
    ]
    return own, found[2]


def arrivals(spec: EnvSpec, place: PlaceFacts, host: HostFacts) -> dict[str, Any]:
    """Where pid 1 listens for what is forwarded: as Unix sockets only where all is its own, and no file made elsewhere."""
    found = [forward(entry) for entry in spec.network.forward]
    paths = [entry.path for entry in found if not entry.port]
    for path in paths:
        if spec.isolation.level != "full" or not is_own(path, place, host.layout):
            raise NotOffered(
                f"forward unix:{path}: {path} is not within the env's own /run, /tmp, /var/tmp, /dev/shm or home",
                hint=f"a port of its loopback instead: 8080:unix:{path}",
            )
    return {"forward": [entry.port for entry in found if entry.port], "paths": paths}


def listeners(spec: EnvSpec, host: HostFacts) -> list[AnyStep]:
    """Pid 1's own for the way out."""
    return [Listen(PROXY_PORT if by_proxy(spec) else 0)] if reaches_out(spec, host) else []


def confinement(limits: Mapping[str, tuple[int, int]], cpus: list[int]) -> list[AnyStep]:
    """What a process limits itself by, and hands down. Its descriptors each program limits for itself: what pid 1 may have in
    flight must be more than what all of an env's programs may (unix(7)), or they could keep it from passing any."""
    steps: list[AnyStep] = [Rlimits([(name, soft, hard) for name, (soft, hard) in limits.items() if name != "NOFILE"])]
    return [*steps, Affinity(cpus)] if cpus else steps


def is_pinned(walls: Mapping[str, WallInfo]) -> bool:
    """Whether an env is kept from changing its own CPUs: only the seccomp wall can."""
    return walls["seccomp"].demanded


def demand_of(spec: EnvSpec, host: HostFacts, *, fixed_affinity: bool) -> Demand:
    """What the filter of system calls depends on."""
    if spec.isolation.level == "full":
        grouped = host.layout.groups and not spec.isolation.nested
        return Demand(nested=spec.isolation.nested, fixed_affinity=fixed_affinity, clone3=grouped)
    return Demand(own_pids=False, unix=host.landlock >= levels.UNIX_ABI, fixed_affinity=fixed_affinity)


def raised(host: HostFacts, walls: Mapping[str, WallInfo], demand: Demand) -> list[AnyStep]:
    """The walls that a process lays upon itself, and the proof of all that are demanded."""
    steps: list[AnyStep] = [Capabilities()] if walls["capabilities"].demanded else []
    if walls["seccomp"].demanded:  # which leaves Landlock's own calls open
        # Without a pid namespace each program is behind a filter of its own, and nobody listens to that.
        listener = host.listener and demand.own_pids
        steps.append(Seccomp(filter_text(host.machine, demand, notify=listener), listener))
    if walls["landlock"].demanded:
        steps.append(Landlock(landlock.log_flags(host.landlock)))
    return [*steps, Prove([wall for wall, info in walls.items() if info.demanded])]


def default_walls(host: HostFacts) -> list[AnyStep]:
    """Those of an env with nothing special asked for; none where this host lacks one of them."""
    spec = EnvSpec(services={})
    try:
        return [*listeners(spec, host), *raised(host, walls_of(spec, host), demand_of(spec, host, fixed_affinity=False))]
    except WallUnavailable:
        return []


def ports_of(spec: EnvSpec) -> set[int] | None:
    """The ports that an env on the host's network may listen on: those it declares, and what PORT says. None: all."""
    if spec.network.mode != "host":
        return None
    named = {service.env["PORT"] for service in spec.services.values() if "PORT" in service.env}
    declared = {service.port for service in spec.services.values() if service.port is not None}
    return declared | {int(port) for port in named if port.isdecimal() and 0 < int(port) < 65536}


def profile_of(spec: EnvSpec, uid: int, gid: int) -> Profile:
    """Who the env runs as. Root's envs are nobody's unless root is asked for; anybody else's are their own."""
    as_root = spec.isolation.user == "root"
    network, namespaces = spec.network.mode != "host", spec.isolation.level == "full"
    if uid == 0 and not as_root:
        return Profile(uid=(NOBODY, NOBODY), gid=(NOBODY, NOBODY), network=network, namespaces=namespaces)
    inside = (0, 0) if as_root else (uid, gid)
    return Profile(uid=(inside[0], uid), gid=(inside[1], gid), network=network, root=uid == 0, namespaces=namespaces)


def default_profile(uid: int, gid: int) -> Profile:
    """Whom the pool is kept for: an env with nothing special asked for."""
    return profile_of(EnvSpec(services={}), uid, gid)


def reaches_out(spec: EnvSpec, host: HostFacts) -> bool:
    """Whether there is a way out of the env's own network."""
    return spec.network.mode == "private" and spec.network.egress != "none" and not no_way(spec, host)


def by_proxy(spec: EnvSpec) -> bool:
    """Whether programs are to reach outside by proxy variables: they are led nowhere, so it takes nothing of the host."""
    return PROXY in given(spec.network.egress)


def no_way(spec: EnvSpec, host: HostFacts) -> str:
    """Why there is none although it is what an env has by default; whoever asks for it by name is refused instead."""
    default = spec.network.mode == "private" and spec.network.egress is None
    return host.egress.reason if default and not host.egress.offered else ""


def refuse(spec: EnvSpec, host: HostFacts) -> None:
    """What cannot be had together, or not here."""
    if spec.network.forward and spec.network.mode != "private":
        raise NotOffered(f"`forward` needs a network of the env's own, not {spec.network.mode}", hint="--network private")
    if spec.network.mode == "host" and isinstance(spec.network.egress, list):
        raise NotOffered("egress cannot be narrowed with --network host", hint="leave `egress` out")
    if reaches_out(spec, host) and not by_proxy(spec) and not host.egress.offered:
        hint = "; or ".join(
            filter(None, [host.egress.fix, "--egress proxy, for programs that obey HTTP_PROXY", "--egress none"])
        )
        raise NotOffered(f"this host cannot give an env a way out: {host.egress.reason}", hint=hint)


def waived(wall: str, spec: EnvSpec) -> str:
    """Why a spec asks to do without a wall; "": it does not."""
    if wall == "net" and spec.network.mode == "host":
        return "--network host shares the host's network"
    if wall == "landlock" and spec.isolation.nested:
        return "--nested: its rules for files would forbid every mount inside (landlock(7))"
    return ""


def walls_of(spec: EnvSpec, host: HostFacts) -> dict[str, WallInfo]:
    """The three answers of each wall; raises WallUnavailable for one that is demanded and not offered."""
    found: dict[str, WallInfo] = {}
    for wall in WALLS:
        offer = host.walls.get(wall, NEVER_LOOKED)
        given_up = waived(wall, spec)
        demanded = not given_up
        if demanded and not offer.offered:
            hint = "; or ".join(filter(None, [offer.fix, levels.instead(wall, host)]))
            raise WallUnavailable(
                f"this host does not offer the {wall} wall: {offer.reason}", hint=hint, wall=wall, reason=offer.reason
            )
        reason = given_up or offer.reason
        if wall == "landlock" and demanded:
            reason = landlock.lacking(host.landlock, on_host=spec.network.mode == "host")
        found[wall] = WallInfo(offered=offer.offered, demanded=demanded, enforced=False, reason=reason)
    for wall in LATER:
        found[wall] = WallInfo(offered=False, demanded=False, enforced=False, reason="not in this version")
    return found
