"""The JSON Schema of `sandbox.toml`, for editors: generated from the structs, widened by what a file may write instead.

Pure; imports spec. Sizes and durations may be texts, publish and mounts may be short forms; name may be left out.
"""

from typing import Any

import msgspec

from sandboxd.spec import EnvSpec, Mount, Publish
from sandboxd.specfile import shapes

SIZE = {"type": "string", "pattern": "^ *[0-9]+(\\.[0-9]+)? ?([kmgtpKMGTP]([iI]?[bB])?|[bB])? *$"}
DURATION = {"type": "string", "pattern": "^ *([0-9]+(\\.[0-9]+)?|([0-9]+(\\.[0-9]+)? ?(us|µs|ms|s|m|h|d|w) ?)+) *$"}
SHORT: dict[type[msgspec.Struct], str] = {Mount: "SOURCE:TARGET[:ro]", Publish: "[ADDRESS:]HOST_PORT:PORT"}


def json_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) as plain data."""
    (top,), parts = msgspec.json.schema_components([EnvSpec], ref_template="#/$defs/{name}")
    for kind in structs(EnvSpec):
        properties = parts[kind.__name__]["properties"]
        for field, (hint, _) in shapes.fields_of(kind).items():
            unit = shapes.unit_of(hint)
            if unit is not None:
                properties[field] = either(properties[field], SIZE if unit == "size" else DURATION)
            array = shapes.container_of(hint, list)
            item = shapes.struct_of(array.__args__[0]) if array else None
            if item in SHORT:
                form = {"type": "string", "description": SHORT[item]}
                properties[field] = {**properties[field], "items": either(properties[field]["items"], form)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "sandbox.toml",
        **top,
        "$defs": {name: parts[name] for name in sorted(parts)},
    }


def either(schema: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """A schema with one more alternative; its default and description stay outside."""
    outside: dict[str, Any] = {key: schema[key] for key in ("default", "description") if key in schema}
    inside = {key: value for key, value in schema.items() if key not in outside}
    options: list[dict[str, Any]] = inside.get("anyOf") or [inside]
    return {**outside, "anyOf": [*options, other]}


def structs(kind: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    """A struct and every struct below it, each once."""
    found = [kind]
    for current in found:
        for hint, _ in shapes.fields_of(current).values():
            inner = [shapes.struct_of(hint)]
            for container in (shapes.container_of(hint, list), shapes.container_of(hint, dict)):
                inner.extend(shapes.struct_of(argument) for argument in (container.__args__ if container else ()))
            found.extend(part for part in inner if part is not None and part not in found)
    return found
