"""The rules that need more than one field, or more than a type: names, ports, cycles, caps, things that cannot be meant.

Pure; imports spec and units. The daemon holds every incoming spec to them, whoever sent it: a struct made in Python was never
checked, and msgspec's patterns let a trailing newline pass (`$` matches before it). The first broken rule is raised.
"""

import itertools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from sandboxd.errors import NameInvalid, SpecInvalid
from sandboxd.spec import EnvSpec, Service
from sandboxd.specfile.lines import Path
from sandboxd.specfile.outward import outward
from sandboxd.specfile.words import SIGNALS, parse_address, signal_number
from sandboxd.units import shown

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
ENV_NAME = re.compile(rf"(?=.{{1,63}}\Z){NAME.pattern}(\.{NAME.pattern})?")
RESTART = re.compile(r"no|on-failure(:[0-9]{1,4})?|always|unless-stopped")
HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){NAME.pattern}(\.{NAME.pattern})*")
PATH = re.compile(r"/[!-~]{0,1023}")
HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
VALUE = re.compile(r"[ -~]{1,256}")
KEY = re.compile(r"cookie|ip|token|host|sni|path|header:[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
KEY_HINT = 'use "cookie", "ip", "token", "host", "sni", "path" or "header:NAME", or several as ["token", "cookie"]'
NAME_HINT = 'a name is a DNS label: 1 to 63 of a-z, 0-9 and inner hyphens, as "shop-2"; an env may have two, as "fix-ui.shop"'
RESTART_HINT = 'use "no", "on-failure", "on-failure:5", "always" or "unless-stopped"'

MAX_SERVICES = 64
MAX_ENTRIES = 256  # of each other list or table
MAX_VARIABLES = 4096
MAX_ARGUMENTS = 4096
MAX_TEXT = 128 << 10  # what execve(2) takes as one argument (MAX_ARG_STRLEN)
MAX_KEYS = 8
MAX_MADE = 100_000
MAX_NAME = 54  # and nine more for -xxxxxxxx
MIN_MEMORY = 1 << 20  # below it nothing starts; whoever writes 512 means 512m


class Problem(NamedTuple):
    """A broken rule: where, what is wrong, what to do."""

    path: Path
    message: str
    hint: str = ""
    kind: type[SpecInvalid] = SpecInvalid


def check(spec: EnvSpec) -> None:
    """Raise SpecInvalid (details: `key`) for the first rule that a spec breaks."""
    for problem in problems(spec):
        raise problem.kind(f"{dotted(problem.path)}: {problem.message}", hint=problem.hint, key=dotted(problem.path))


def problems(spec: EnvSpec, *, placed: bool = True) -> Iterator[Problem]:
    """Every broken rule, in the order of a reader; caps first, so that the rest looks at bounded data.

    placed: host paths must be absolute. A file's are not yet: who reads it knows its directory, and what ~ is.
    """
    yield from caps(spec)
    if spec.name is not None:
        yield from name(("name",), spec.name, ENV_NAME)
    if not spec.services:
        yield Problem(("services",), "there is no service", 'add one: [services.web] with a command = "…"')
    for service_name, service in spec.services.items():
        yield from name(("services", service_name), service_name)
        yield from of_service(("services", service_name), service)
    yield from dependencies(spec)
    yield from ports(spec)
    yield from network(spec)
    yield from routes(spec)
    yield from scale(spec)
    yield from limits(spec)
    yield from variables(("env",), spec.env)
    if not RESTART.fullmatch(spec.lifecycle.restart):
        yield Problem(("lifecycle", "restart"), f"{shown(spec.lifecycle.restart)} is no restart policy", RESTART_HINT)
    yield from idle(spec)
    yield from on_demand(spec)
    yield from paths(spec, placed=placed)
    for key, value in spec.labels.items():
        yield from text(("labels", key), key)
        yield from text(("labels", key), value)
        if not key or "=" in key:
            yield Problem(("labels", key), f"{shown(key)} is no label's name", "a label is KEY=VALUE; the key has no =")


def scale(spec: EnvSpec) -> Iterator[Problem]:
    """Replicas, and what cannot be had more than once."""
    if spec.scale is None:
        return
    if spec.scale.min > spec.scale.max:
        yield Problem(("scale", "min"), f"{spec.scale.min} is above max ({spec.scale.max})", "min <= max")
    if spec.network.mode != "private":
        hint = "leave `mode` out of [network], or [scale] out"
        yield Problem(("scale",), f"replicas need networks of their own, not network mode {spec.network.mode!r}", hint)


def caps(spec: EnvSpec) -> Iterator[Problem]:
    """Counts."""
    counted: list[tuple[Path, int, int]] = [
        (("services",), len(spec.services), MAX_SERVICES),
        (("env",), len(spec.env), MAX_VARIABLES),
        (("labels",), len(spec.labels), MAX_ENTRIES),
        (("mounts",), len(spec.mounts), MAX_ENTRIES),
        (("network", "publish"), len(spec.network.publish), MAX_ENTRIES),
        (("network", "forward"), len(spec.network.forward), MAX_ENTRIES),
        (("network", "egress"), len(spec.network.egress or []), MAX_ENTRIES),
        (("routes",), len(spec.routes), MAX_ENTRIES),
    ]
    for key, service in spec.services.items():
        counted.append((("services", key, "env"), len(service.env), MAX_VARIABLES))
        counted.append((("services", key, "depends_on"), len(service.depends_on), MAX_SERVICES))
    for path, count, most in counted:
        if count > most:
            yield Problem(path, f"{count} are too many: {most} at most")


def name(path: Path, value: str, allowed: re.Pattern[str] = NAME) -> Iterator[Problem]:
    """A DNS label; an env's may have two, BRANCH.PROJECT."""
    if not allowed.fullmatch(value):
        yield Problem(path, f"{shown(value)} is no name", NAME_HINT, NameInvalid)


def text(path: Path, value: str, *, empty: bool = True) -> Iterator[Problem]:
    """What the kernel and our own files can carry: no NUL, no lone surrogates, not endless."""
    if "\0" in value:
        yield Problem(path, "it has a NUL character in it, which no program can be given")
    elif len(value) > MAX_TEXT:
        yield Problem(path, f"it is longer than {MAX_TEXT} characters")
    elif not empty and not value:
        yield Problem(path, "it is empty")
    elif any("\ud800" <= character <= "\udfff" for character in value):
        yield Problem(path, "it is no valid text (a lone surrogate)")


def of_service(path: Path, service: Service) -> Iterator[Problem]:
    """One service by itself."""
    yield from command((*path, "command"), service.command)
    yield from variables((*path, "env"), service.env)
    if service.port is not None and not 1 <= service.port <= 65535:
        yield Problem((*path, "port"), f"{service.port} is no port", "a port is a number from 1 to 65535")
    if service.restart is not None and not RESTART.fullmatch(service.restart):
        yield Problem((*path, "restart"), f"{shown(service.restart)} is no restart policy", RESTART_HINT)
    if signal_number(service.stop_signal) is None:
        known = ", ".join(SIGNALS)
        yield Problem((*path, "stop_signal"), f"{shown(service.stop_signal)} is no signal", f"a name or number: {known}")
    if service.workdir is not None:
        yield from text((*path, "workdir"), service.workdir, empty=False)
    ready = service.ready
    if ready is None:
        return
    if ready.http is not None and ready.command is not None:
        yield Problem((*path, "ready"), "http and command are two checks", "keep one of them")
    if ready.http is not None:
        yield from text((*path, "ready", "http"), ready.http)
        if not ready.http.startswith("/") or re.search(r"[\x00-\x20\x7f]", ready.http) or not ready.http.isascii():
            yield Problem((*path, "ready", "http"), f"{shown(ready.http)} is no path", 'a path starts with /, as "/healthz"')
    if ready.command is not None:
        yield from command((*path, "ready", "command"), ready.command)


def command(path: Path, value: str | list[str]) -> Iterator[Problem]:
    """What is executed: a line for sh, or arguments."""
    if isinstance(value, str):
        yield from text(path, value)
        if not value.strip():
            yield Problem(path, "it is empty", 'write what to run: command = "npm run dev"')
        return
    if not value or not value[0]:
        yield Problem(path, "it is empty", 'write what to run: command = ["npm", "run", "dev"]')
    if len(value) > MAX_ARGUMENTS:
        yield Problem(path, f"{len(value)} arguments are too many: {MAX_ARGUMENTS} at most")
        return
    for index, argument in enumerate(value):
        yield from text((*path, index), argument)


def variables(path: Path, env: dict[str, str]) -> Iterator[Problem]:
    """Environment variables."""
    for key, value in env.items():
        yield from text((*path, key), key)
        yield from text((*path, key), value)
        if not key or "=" in key:
            yield Problem((*path, key), f"{shown(key)} is no variable's name", "a name is not empty and has no =")


def dependencies(spec: EnvSpec) -> Iterator[Problem]:
    """Every dependency exists, and none goes round."""
    for key, service in spec.services.items():
        for index, other in enumerate(service.depends_on):
            if other not in spec.services:
                known = ", ".join(spec.services)
                yield Problem(
                    ("services", key, "depends_on", index), f"there is no service {shown(other)}", f"services are: {known}"
                )
                return
    left = {key: set(service.depends_on) for key, service in spec.services.items()}
    while free := [key for key, needs in left.items() if not needs]:
        for key in free:
            del left[key]
        for needs in left.values():
            needs.difference_update(free)
    if left:  # each of these waits for one of these: walking on from any of them comes round
        walk = [next(iter(left))]
        while walk[-1] not in walk[:-1]:
            walk.append(min(left[walk[-1]]))
        ring = walk[walk.index(walk[-1]) :]
        yield Problem(
            ("services", ring[0], "depends_on"),
            "the dependencies go round: " + " -> ".join(ring),
            "take one of these depends_on away",
        )


def ports(spec: EnvSpec) -> Iterator[Problem]:
    """Services share one network: no two on one port."""
    taken: dict[int, str] = {}
    for key, service in spec.services.items():
        if service.port is not None and taken.setdefault(service.port, key) != key:
            yield Problem(
                ("services", key, "port"),
                f"{service.port} is the port of {taken[service.port]} too",
                "services of one env share its network: give them different ports, or make two envs",
            )


def network(spec: EnvSpec) -> Iterator[Problem]:
    """Published addresses."""
    taken: set[tuple[str, int]] = set()
    for index, publish in enumerate(spec.network.publish):
        path: Path = ("network", "publish", index)
        if not 1 <= publish.port <= 65535 or not publish.host_port <= 65535:
            yield Problem(path, "it has a port out of range", "a port is a number from 1 to 65535")
            continue
        if publish.address.startswith("unix:") != (publish.host_port == 0):
            yield Problem(
                path, "it has a port out of range", 'address "unix:/PATH" without a host_port, or a host_port from 1 to 65535'
            )
            continue
        try:
            address = parse_address(publish.address)
        except SpecInvalid as error:
            yield Problem(path, error.message, error.hint)
            continue
        if (address, publish.host_port) in taken:
            yield Problem(path, f"{publish.where} is published twice", "each host address reaches one port")
        taken.add((address, publish.host_port))
    if spec.network.publish and spec.network.mode != "private":
        why = "has no way in" if spec.network.mode == "none" else "is the host's own: what listens is published already"
        yield Problem(("network", "publish"), f"network mode {spec.network.mode} {why}", 'publish needs mode = "private"')
    yield from itertools.starmap(Problem, outward(spec))
    if spec.network.share == "link" and spec.on_demand is not None:
        yield Problem(("network", "share"), "a template's envs have keys instead of links", 'share = "box", or leave it out')


def routes(spec: EnvSpec) -> Iterator[Problem]:
    """Rules that a request can meet."""
    for index, rule in enumerate(spec.routes):
        path: Path = ("routes", index)
        if rule.host is not None and not HOST_NAME.fullmatch(rule.host):
            yield Problem(
                (*path, "host"), f"{shown(rule.host)} is no host name", 'as host = "shop.example.com", without a port'
            )
        if not PATH.fullmatch(rule.path):
            yield Problem((*path, "path"), f"{shown(rule.path)} is no path", 'a path starts with /, as "/api"')
        for key, allowed in (("header", HEADER), ("cookie", HEADER)):
            for name_, value in getattr(rule, key).items():
                if not allowed.fullmatch(name_) or not VALUE.fullmatch(value):
                    yield Problem((*path, key), f"{shown(name_)} = {shown(value)} is no {key}", 'as { X-Canary = "1" }')
        service = spec.services.get(rule.service) if rule.service is not None else None
        if rule.service is not None and service is None:
            known = ", ".join(spec.services)
            yield Problem((*path, "service"), f"there is no service {shown(rule.service)}", f"services are: {known}")
        elif service is not None and service.expose != "http":
            yield Problem((*path, "service"), f"{shown(rule.service)} does not speak HTTP", 'give it expose = "http"')


def limits(spec: EnvSpec) -> Iterator[Problem]:
    """Ceilings that something can live under."""
    found = spec.limits
    for key in ("memory", "memory_high", "disk", "io_read", "io_write"):
        size = getattr(found, key)
        if size is not None and size < MIN_MEMORY:
            yield Problem(("limits", key), f"{size} bytes are too few for anything to start", f'with a unit: {key} = "{size}m"')
    if found.memory is not None and found.memory_high is not None and found.memory_high > found.memory:
        why = f"{found.memory_high} bytes are more than limits.memory, which would be reached first"
        yield Problem(("limits", "memory_high"), why, "memory_high is the softer limit: give it less than memory")
    if found.cpus is not None and not (math.isfinite(found.cpus) and 0.01 <= found.cpus <= 65536):
        yield Problem(("limits", "cpus"), f"{found.cpus} is no number of CPUs from 0.01 on", "as cpus = 1.5")
    bounds = (("cpu_weight", 1, 10000), ("pids", 1, 1 << 22), ("nofile", 16, 1 << 30), ("max_connections", 1, 1 << 20))
    for key, low, high in bounds:
        count = getattr(found, key)
        if count is not None and not low <= count <= high:
            yield Problem(("limits", key), f"{count} is out of range", f"{key} is a whole number from {low} to {high}")


def idle(spec: EnvSpec) -> Iterator[Problem]:
    """The steps of an idle env in their order, and one at least."""
    rule = spec.lifecycle.idle
    if rule is None:
        return
    path: Path = ("lifecycle", "idle")
    steps = [(name, after) for name in ("suspend", "stop", "remove") if (after := getattr(rule, name)) is not None]
    if not steps:
        yield Problem(path, "it says nothing of what is to happen", 'as idle = { stop = "1h" }')
    for name, after in steps:
        if not (math.isfinite(after) and after >= 1):
            yield Problem((*path, name), f"{after} s are too few to tell whether it is used", f'1 s at least, as {name} = "1h"')
    for (earlier, first), (later, second) in itertools.pairwise(steps):
        if second <= first:
            yield Problem(
                (*path, later), f"it comes before {earlier}", f"all count from when it became idle: make {later} longer"
            )
    if not math.isfinite(rule.cpu):
        yield Problem((*path, "cpu"), f"{rule.cpu} is no percentage", "as cpu = 5")


def on_demand(spec: EnvSpec) -> Iterator[Problem]:
    """A template that many envs at once can be made from."""
    made = spec.on_demand
    if made is None:
        return
    path: Path = ("on_demand",)
    if not made.keys or len(made.keys) > MAX_KEYS:
        yield Problem((*path, "key"), f"{len(made.keys)} keys", f"name one to {MAX_KEYS}: {KEY_HINT}")
    for kind in made.keys:
        if not KEY.fullmatch(kind):
            yield Problem((*path, "key"), f"{shown(kind)} is no key", KEY_HINT)
    if len({kind.partition(":")[0] for kind in made.keys}) < len(made.keys):
        yield Problem((*path, "key"), "two keys are of one kind", "each kind is tried once, in turn")
    bounds = {
        "max": (1, MAX_MADE),
        "warm": (0, made.max),
        "burst": (0, made.max),
        "rate": (0, 1 << 20),
        "per_user": (1, MAX_MADE),
    }
    for key, (low, high) in bounds.items():
        count = getattr(made, key)
        if count is not None and not low <= count <= high:
            most = {"warm": "max, which counts them too", "burst": "max, as no more envs may be made"}.get(key, str(high))
            yield Problem((*path, key), f"{count} is out of range", f"{key} is a whole number from {low} to {most}")
    if made.strip and "path" not in made.keys:
        yield Problem((*path, "strip"), "there is nothing to strip", 'it goes with key = "path"')
    if spec.name is not None and (len(spec.name) > MAX_NAME or "." in spec.name):
        yield Problem(
            ("name",), f"{shown(spec.name)} is too long", f"a template's envs are NAME-xxxxxxxx: {MAX_NAME} at most, no dot"
        )
    if spec.network.mode == "none":
        yield Problem(("network", "mode"), "nobody could reach it", "on_demand needs a network of some kind")
    if spec.network.publish:
        yield Problem(
            ("network", "publish"), "its envs cannot all have one host address", "they are reached through the router"
        )
    if any(rule.host is not None for rule in spec.routes):
        yield Problem(
            ("routes",), "its envs cannot all have one host name", "leave out host: a rule then holds for each env's own"
        )


def paths(spec: EnvSpec, *, placed: bool) -> Iterator[Problem]:
    """Paths that mean the same wherever the daemon stands."""
    if spec.workspace.path is not None:
        yield from text(("workspace", "path"), spec.workspace.path)
        if placed and not spec.workspace.path.startswith("/"):
            yield Problem(("workspace", "path"), f"{shown(spec.workspace.path)} is no absolute path", "start it with /")
    targets: set[str] = set()
    for index, mount in enumerate(spec.mounts):
        for key, path in (("source", mount.source), ("target", mount.target)):
            yield from text(("mounts", index, key), path, empty=False)
            if not path.startswith("/") and (placed or key == "target"):
                yield Problem(("mounts", index, key), f"{shown(path)} is no absolute path", "start it with /")
            elif key == "target" and ".." in path.split("/"):
                yield Problem(("mounts", index, key), f"{shown(path)} goes up by ..", "write the path it comes to")
        target = mount.target.rstrip("/")
        if target in targets:
            yield Problem(("mounts", index, "target"), f"{shown(mount.target)} is mounted on twice", "keep one of them")
        targets.add(target)


def dotted(path: Path) -> str:
    """A path as one writes it: services.web.depends_on[0]."""
    found = ""
    for part in path:
        if isinstance(part, int):
            found += f"[{part}]"
        else:
            plain = re.fullmatch(r"[A-Za-z0-9_-]+", part) and len(part) <= 63
            found += ("." if found else "") + (part if plain else shown(part))
    return found
