"""`sandbox.toml` into an EnvSpec: for any bytes an EnvSpec or SpecInvalid with file, line, key and what would be right.

Pure: the text is an argument, nothing is opened. The value tree is walked beside the types of `spec.py`, so that each fault
has its own path and from it a line; units and the short forms of `words` become what the structs hold; what is left of a
value is msgspec's to judge. Then `rules` are asked.
"""

import difflib
import posixpath
import re
import tomllib
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from sandboxd.errors import NameInvalid, SpecInvalid
from sandboxd.spec import EnvName, EnvSpec, Idle, Mount, Name, Publish
from sandboxd.specfile import shapes
from sandboxd.specfile.lines import Path, line_of, locate
from sandboxd.specfile.rules import NAME_HINT, RESTART_HINT, Problem, dotted, problems
from sandboxd.specfile.words import parse_idle, parse_mount, parse_publish
from sandboxd.units import parse_duration, parse_size, shown

MAX_BYTES = 256 << 10
MAX_DEPTH = 16  # a spec needs five; deeper ones only serve to exhaust a stack

# tomllib makes a tuple of every prefix of a dotted key: one of 130,000 parts takes 68 GB (measured: killed, Python 3.11).
LONG_KEY = re.compile(r"""(?:^|[\[{,\n])[ \t]*(?:(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')[ \t]*\.[ \t]*){32}""")

SHORT_FORMS: dict[type[msgspec.Struct], Callable[[str], msgspec.Struct]] = {
    Mount: parse_mount,
    Publish: parse_publish,
    Idle: parse_idle,
}
UNITS: dict[str, Callable[[object], float]] = {"size": parse_size, "duration": parse_duration}

# Named in the design or known from elsewhere: what to say instead of "unknown key". A * stands for any one key.
NOT_YET = {
    ("services", "*", "scale"): "scaling one service",
    ("services", "*", "replicas"): "scaling",
    ("limits", "io"): "limiting disk traffic",
}
OTHER_WORDS = {
    "environment": "env", "cmd": "command", "run": "command", "depends": "depends_on", "ports": "port", "mem": "memory",
    "cpu": "cpus", "volumes": "mounts", "working_dir": "workdir", "cwd": "workdir", "healthcheck": "ready", "health": "ready",
    "service": "services", "mount": "mounts", "label": "labels", "limit": "limits", "entrypoint": "command",
}  # fmt: skip
IMAGES = {"image", "build", "dockerfile"}


class Fault(Exception):
    """What is wrong, and where; `parse_spec` adds file and line."""

    def __init__(self, path: Path, message: str, hint: str = "", kind: type[SpecInvalid] = SpecInvalid) -> None:
        super().__init__(message)
        self.problem = Problem(path, message, hint, kind)


def parse_spec(text: bytes, *, file: str, default_name: str | None, directory: str | None = None) -> EnvSpec:
    """Read a sandbox.toml; raises SpecInvalid (details: file, line, key) and nothing else.

    file: its name for messages; if it is absolute, relative paths in it start at its directory, or at `directory`; else they
    stay as they are, and so do those that start with ~, for the caller to place.
    default_name: the env's name when the file has none.
    """
    source, tree = read_toml(text, file)
    base = directory or (posixpath.dirname(file) if file.startswith("/") else None)
    try:
        built = struct(tree, EnvSpec, ())
        if default_name is not None:
            built.setdefault("name", leaf(default_name, default_name, EnvName, ("name",)))
        spec = rebased(msgspec.convert(built, EnvSpec), base)
        for problem in problems(spec, placed=False):
            raise Fault(*problem)
    except Fault as fault:
        complain(fault.problem, file, source)
    except (msgspec.ValidationError, RecursionError) as error:  # no fault of ours is known to come here; no bytes may escape
        raise SpecInvalid(f"{file}: {error}", file=file) from None
    return spec


def complain(problem: Problem, file: str, source: str) -> NoReturn:
    """Raise a problem with its place in the file."""
    details: dict[str, object] = {"file": file, "key": dotted(problem.path)}
    place = file
    line = line_of(locate(source), problem.path)
    if line is not None:
        details["line"] = line
        place = f"{file}:{line}"
    where = f"{dotted(problem.path)}: " if problem.path and not problem.message.startswith("unknown key") else ""
    raise problem.kind(f"{place}: {where}{problem.message}", hint=problem.hint, **details)


def read_toml(text: bytes, file: str) -> tuple[str, dict[str, Any]]:
    """The decoded text and its tree; raises SpecInvalid."""
    if len(text) > MAX_BYTES:
        raise SpecInvalid(f"{file} is {len(text)} bytes long; {MAX_BYTES} is the most", hint="is it the right file?", file=file)
    try:
        source = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        message = f"{file}:{line}: not UTF-8 text (byte 0x{text[error.start]:02x})"
        raise SpecInvalid(message, hint="save it as UTF-8", file=file, line=line) from None
    if endless := LONG_KEY.search(source):
        line = source.count("\n", 0, endless.end()) + 1
        raise SpecInvalid(f"{file}:{line}: a key is nested too deeply", file=file, line=line)
    try:
        tree = tomllib.loads(source)
    except RecursionError:
        raise SpecInvalid(f"{file}: it is nested too deeply", file=file) from None
    except ValueError as error:  # TOMLDecodeError is one; so is int() of 5,000 digits, or a date that is none
        found = re.search(r" \(at line (\d+), column (\d+)\)$| \(at end of document\)$", str(error))
        what = str(error)[: found.start()] if found else str(error)
        line = int(found[1]) if found and found[1] else source.count("\n") + 1
        column = f":{found[2]}" if found and found[2] else ""
        message = f"{file}:{line}{column}: no valid TOML: {what}"
        raise SpecInvalid(message, hint="see https://toml.io; texts need quotes", file=file, line=line) from None
    return source.replace("\r\n", "\n"), tree


def struct(value: Any, kind: type[msgspec.Struct], path: Path) -> dict[str, Any]:
    """A table as the keys and values of a struct."""
    if not isinstance(value, dict):
        raise Fault(path, f"{told(value)} is not a table", f"write [{dotted(path)}] and its keys below")
    fields = shapes.fields_of(kind)
    built = {}
    for key, item in value.items():
        if key not in fields:
            raise unknown((*path, key), fields)
        built[key] = build(item, fields[key][0], (*path, key))
    for key, (hint, required) in fields.items():
        if required and key not in value:
            example = '[services.web] with a command = "…"' if key == "services" else f"{key} = …: {shapes.words(hint)}"
            raise Fault(path, f"{key} is missing", f"add {example}")
    return built


def build(value: Any, hint: Any, path: Path) -> Any:
    """A value as its type has it; raises Fault."""
    if len(path) > MAX_DEPTH:
        raise Fault(path, "it is nested too deeply")
    kind = shapes.struct_of(hint)
    unit = shapes.unit_of(hint)
    if kind is not None and isinstance(value, str) and kind in SHORT_FORMS:
        return msgspec.to_builtins(checked(SHORT_FORMS[kind], value, path))
    if kind is not None:
        return struct(value, kind, path)
    if unit is not None and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        return leaf(checked(UNITS[unit], value, path), value, hint, path)
    if isinstance(value, dict) and (table := shapes.container_of(hint, dict)):
        key_hint, item_hint = table.__args__
        return {name(key, key_hint, (*path, key)): build(item, item_hint, (*path, key)) for key, item in value.items()}
    if isinstance(value, list) and (array := shapes.container_of(hint, list)):
        return [build(item, array.__args__[0], (*path, index)) for index, item in enumerate(value)]
    return leaf(value, value, hint, path)


def checked(read: Callable[[Any], Any], value: Any, path: Path) -> Any:
    """What a reader of units or short forms makes of a value."""
    try:
        return read(value)
    except SpecInvalid as error:
        raise Fault(path, error.message, error.hint) from None


def name(key: str, hint: Any, path: Path) -> str:
    """A table's key, where it must be a name."""
    if hint == Name:
        leaf(key, key, hint, path)
    return key


def leaf(value: Any, written: Any, hint: Any, path: Path) -> Any:
    """A value that holds no others, held against its type."""
    try:
        return msgspec.convert(value, hint)
    except (msgspec.ValidationError, ValueError, OverflowError):
        pass
    if {Name, EnvName} & set(shapes.members(hint)) and isinstance(written, str):
        raise Fault(path, f"{told(written)} is no name", NAME_HINT, NameInvalid)
    if path[-1] == "restart" and isinstance(written, str):
        raise Fault(path, f"{told(written)} is no restart policy", RESTART_HINT)
    if path == ("workspace", "mode") and written in ("cow", "copy"):
        raise Fault(path, f'"{written}" is not in this version of sandboxd', 'use mode = "bind"')
    expected = shapes.words(hint)
    choices = [value for member in shapes.members(hint) for value in shapes.choices(member)]
    near = difflib.get_close_matches(written[:64], choices, n=1) if isinstance(written, str) else []
    hint_text = f'did you mean "{near[0]}"?' if near else f"write {expected}"
    if (
        isinstance(written, str)
        and re.fullmatch(r"[0-9]+(\.[0-9]+)?", written)
        and expected.startswith(("a port", "a whole", "a number"))
    ):
        hint_text = f"without the quotes: {dotted(path[-1:])} = {written}"
    elif str in map(shapes.bare, shapes.members(hint)) and isinstance(written, (int, float)):
        hint_text = f'a text needs quotes: {dotted(path[-1:])} = "{told(written)}"'
    raise Fault(path, f"{told(written)} is not {expected}", hint_text)


def unknown(path: Path, fields: dict[str, tuple[Any, bool]]) -> Fault:
    """The fault for a key that is not there: a later version's, another's word, a slip, or another table's."""
    key, table = str(path[-1]), path[:-1]
    for pattern, later in NOT_YET.items():
        if len(pattern) == len(path) and all(want in ("*", part) for want, part in zip(pattern, path, strict=True)):
            return Fault(path, f"{later} is not in this version of sandboxd", "take it out, or use a newer version")
    what = f"unknown key {told(key)} " + (f"in [{dotted(table)}]" if table else "at the top level")
    known = "known here: " + ", ".join(fields)
    if key in IMAGES:
        return Fault(path, "there are no images: an env runs this machine's own programs", f"say what to run; {known}")
    near = OTHER_WORDS.get(key.lower(), "")
    if near not in fields:
        near = next(iter(difflib.get_close_matches(key[:64].lower(), fields, n=1)), "")
    if near:
        return Fault(path, what, f"did you mean {near}? {known}")
    for other in sorted(homes(key) - {table}):
        return Fault(path, what, f"it belongs into [{dotted(other)}]; {known}")
    return Fault(path, what, known)


def homes(key: str) -> set[tuple[str, ...]]:
    """The tables that have a key."""
    found: set[tuple[str, ...]] = set()
    for part, (hint, _) in shapes.fields_of(EnvSpec).items():
        table = shapes.container_of(hint, dict)
        kind = shapes.struct_of(table.__args__[1] if table else hint)
        if kind is not None and key in shapes.fields_of(kind):
            found.add((part, "NAME") if table else (part,))
    return found


def rebased(spec: EnvSpec, base: str | None) -> EnvSpec:
    """The spec with its relative host paths made absolute, where we know from what."""
    if base is None:
        return spec

    def absolute(path: str) -> str:
        return posixpath.normpath(posixpath.join(base, path)) if path and not path.startswith("~") else path

    workspace = spec.workspace
    if workspace.path is not None:
        workspace = msgspec.structs.replace(workspace, path=absolute(workspace.path))
    mounts = [msgspec.structs.replace(mount, source=absolute(mount.source)) for mount in spec.mounts]
    return msgspec.structs.replace(spec, workspace=workspace, mounts=mounts)


def told(value: Any) -> str:
    """A value as TOML writes it, cut to a line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        quoted = value if len(value) <= 60 else value[:57] + "…"
        return '"' + "".join(character if character.isprintable() else f"\\u{ord(character):04x}" for character in quoted) + '"'
    return shown(value) if isinstance(value, (int, float)) else str(value)
