"""The config file: the settings of a daemon as TOML, read as strictly as a `sandbox.toml`, and where each value came from.

Pure: texts in, values out. Every name of `settings.KINDS` is a key, `[limits]` is for envs whose spec says nothing, `[quota]`
for users and groups. The environment wins over the file. Invariant: for any bytes a `Config` or SpecInvalid with file, line
and key.
"""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from sandboxd.errors import UsageError
from sandboxd.settings import KINDS, Settings, Whole, variable
from sandboxd.spec import EnvSpec, Limits, Quotas
from sandboxd.specfile.lines import line_of, locate
from sandboxd.specfile.parse import Fault, complain, read_toml, struct, told
from sandboxd.specfile.rules import Problem
from sandboxd.units import format_size

LIMITS, QUOTA = "limits", "quota"
TABLES: dict[str, type[msgspec.Struct]] = {LIMITS: Limits, QUOTA: Quotas}
# What a daemon takes on while it runs. The rest is built into processes: the router's outlive their daemon.
LIVE = frozenset({
    "listen", "pool", "pool_memory", "max_envs", "max_starting", "max_memory", "queue", "queue_wait", "memory_reserve",
    "memory_critical", "log_limit", "hold", "resolvers", *TABLES,
})  # fmt: skip
SIZES = frozenset({"memory", "memory_high", "disk", "io_read", "io_write"})
ROUTERS = frozenset({
    "router_workers", "trusted_proxies", "max_per_source", "head_timeout", "client_timeout", "connect_timeout", "drain_timeout",
    "connection_queue", "connection_timeout", "access_log", "access_log_limit",
})  # fmt: skip


class Config(NamedTuple):
    """What one reading gave. sources: where a value came from, by its name; what is not there is as usual."""

    settings: Settings
    file: str
    sources: dict[str, str]


class Change(NamedTuple):
    """A setting that is not as it was. holds: now, or after what."""

    name: str
    before: str
    after: str
    holds: str


def read(environ: Mapping[str, str], uid: int, file: str, text: bytes | None) -> Config:
    """The settings by environment and file; text: None where there is no file. Raises UsageError; SpecInvalid is one."""
    said, lines = parse(text, file) if text is not None else ({}, {})
    settings = Settings.from_environ(environ, uid, said)
    sources = {name: f"{file}:{lines[name]}" for name in said}
    sources.update((name, variable(name)) for name in KINDS if variable(name) in environ)
    return Config(settings, file, sources)


def parse(text: bytes, file: str) -> tuple[dict[str, Any], dict[str, int]]:
    """Values by name, and the line of each; raises SpecInvalid."""
    source, tree = read_toml(text, file)
    said = {}
    try:
        for name, value in tree.items():
            said[name] = value_of(name, value)
    except Fault as fault:
        complain(fault.problem, file, source)
    except RecursionError:
        complain(Problem((), "it is nested too deeply"), file, source)
    lines = locate(source)
    return said, {name: line_of(lines, (name,)) or 1 for name in said}


def value_of(name: str, value: object) -> Any:
    """One value of the file; raises Fault."""
    if name in TABLES:
        return struct(value, TABLES[name], (name,))
    if name not in KINDS:
        near = difflib.get_close_matches(name[:64].lower().removeprefix("sandboxd_"), [*KINDS, *TABLES], n=1)
        known = "known here: " + ", ".join([*KINDS, *(f"[{name}]" for name in TABLES)])
        found = f"did you mean {near[0]}? {known}" if near else known
        raise Fault((name,), f"unknown key {told(name)} at the top level", found)
    if isinstance(KINDS[name], Whole) and isinstance(value, str):
        raise Fault((name,), f"{told(value)} is not a whole number", "without the quotes")
    try:
        return KINDS[name].read(value)
    except UsageError as error:
        raise Fault((name,), error.message, error.hint) from None


def written(settings: Settings) -> dict[str, str]:
    """Every setting in words, by its name; limits of envs as `limits.NAME`, quotas as `quota.group.GROUP.NAME`."""
    words = {name: kind.write(getattr(settings, name)) for name, kind in KINDS.items()}
    usual = msgspec.structs.asdict(Limits()) | settings.limits
    return words | dict(flat(LIMITS, usual)) | dict(flat(QUOTA, settings.quota))


def flat(path: str, table: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every value of a table in words, by its dotted name."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from flat(f"{path}.{name}", value)
        else:
            yield f"{path}.{name}", word(name, value)


def word(name: str, value: Any) -> str:
    """A limit in words."""
    if value is None:
        return ""
    return format_size(value) if name in SIZES else str(value)


def taken_on(now: Settings, new: Settings) -> tuple[Settings, list[Change]]:
    """What holds after a reading, and each difference: what can be, is taken on now."""
    before, after = written(now), written(new)
    changes = [
        Change(name, before.get(name, ""), after.get(name, ""), holds(name.partition(".")[0]))
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    ]
    return replace(now, **{name: getattr(new, name) for name in LIVE}), changes


def holds(name: str) -> str:
    """From when on a changed value holds."""
    if name in LIVE:
        return "now"
    return "after `sandbox daemon stop --all`" if name in ROUTERS else "after `sandbox daemon restart`"


def with_usual_limits(spec: EnvSpec, limits: Mapping[str, Any]) -> EnvSpec:
    """The spec with those limits where it says nothing of its own: what it leaves out, and what it says as everybody has it."""
    if not limits:
        return spec
    usual = Limits()
    given = {name: value for name, value in limits.items() if getattr(spec.limits, name) == getattr(usual, name)}
    return replace(spec, limits=replace(spec.limits, **given))
