"""What the types of a spec say, in words and in numbers: which members a hint allows, its unit, how to ask for it.

Pure; imports spec. One reading of the annotations of `spec.py` for the file reader and for the JSON Schema.
"""

import types
import typing
from typing import Any, Literal

import msgspec

from sandboxd.spec import EnvName, Name, Port

NoneType = type(None)


def members(hint: Any) -> list[Any]:
    """The alternatives of a type, Annotated kept: `Size | None` gives [Size, None]."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [member for option in typing.get_args(hint) for member in members(option)]
    return [hint]


def bare(hint: Any) -> Any:
    """A type without its Annotated."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint


def metas(hint: Any) -> list[msgspec.Meta]:
    """What Annotated says about a type."""
    if typing.get_origin(hint) is not typing.Annotated:
        return []
    return [meta for meta in typing.get_args(hint)[1:] if isinstance(meta, msgspec.Meta)]


def unit_of(hint: Any) -> str | None:
    """ "size", "duration", or None: the `unit` mark of a type or of one of its alternatives."""
    for member in members(hint):
        for meta in metas(member):
            if meta.extra and "unit" in meta.extra:
                return str(meta.extra["unit"])
    return None


def struct_of(hint: Any) -> type[msgspec.Struct] | None:
    """The struct among a type's alternatives."""
    for member in map(bare, members(hint)):
        if isinstance(member, type) and issubclass(member, msgspec.Struct):
            return member
    return None


def container_of(hint: Any, kind: type) -> Any:
    """The `list[…]` or `dict[…]` among a type's alternatives, or None."""
    for member in map(bare, members(hint)):
        if typing.get_origin(member) is kind:
            return member
    return None


def choices(member: Any) -> list[str]:
    """The texts that a Literal allows."""
    plain = bare(member)
    return [str(value) for value in typing.get_args(plain)] if typing.get_origin(plain) is Literal else []


def fields_of(struct: type[msgspec.Struct]) -> dict[str, tuple[Any, bool]]:
    """A struct's fields: name -> (type, required)."""
    hints = typing.get_type_hints(struct, include_extras=True)
    return {field.encode_name: (hints[field.name], field.required) for field in msgspec.structs.fields(struct)}


def words(hint: Any) -> str:
    """How to ask for a value of this type: "a number from 1 to 65535", 'one of "a", "b"'."""
    return " or ".join(found for member in members(hint) if (found := word(member)))


def word(member: Any) -> str:
    """One alternative in words; None has none, since TOML cannot say it."""
    if member == Port:
        return "a port (a whole number from 1 to 65535)"
    if member in (Name, EnvName):
        return "a name"
    plain = bare(member)
    if found := choices(member):
        return "one of " + ", ".join(f'"{value}"' for value in found)
    if typing.get_origin(plain) is list:
        return "a list of " + words(typing.get_args(plain)[0]).replace("a text", "texts").replace("a name", "names")
    if typing.get_origin(plain) is dict or struct_of(plain):
        return "a table"
    unit = unit_of(member)
    if unit:
        return {"size": 'a size, as 1048576 or "512m"', "duration": 'a duration, as 30 or "1m30s"'}[unit]
    name = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}.get(plain, "")
    bounds = [
        f"{text} {value}"
        for meta in metas(member)
        for text, value in (("at least", meta.ge), ("more than", meta.gt), ("at most", meta.le), ("matching", meta.pattern))
        if value is not None
    ]
    described = [meta.description for meta in metas(member) if meta.description]
    return " ".join([name, *bounds]) + (f" ({described[0]})" if described else "")
