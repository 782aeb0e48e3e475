"""The interface text that varlink clients read: io.sandboxd.Control from our own structs, org.varlink.service as it stands.

Pure. `messages.METHODS` and `errors.by_code()` are the only source, so the text cannot drift from what is decoded. A member
that may be left out is written `?`; a choice of several types is `object`; a choice of words is an enum where varlink can
spell it. Named types, methods and errors share one name space there, which a test holds us to.
"""

import functools
import re
import textwrap

import msgspec
from msgspec import inspect

from sandboxd.errors import by_code
from sandboxd.protocol.envelopes import SERVICE, bare, takes_null
from sandboxd.protocol.messages import INTERFACE, METHODS, Empty, Params, Reply

# Inside an enum PyPI's varlink takes only these; of one word alone it makes a syntax error.
_WORD = re.compile(r"[A-Za-z](_?[A-Za-z0-9])*")

SERVICE_TEXT = """\
# What every varlink service answers about itself.
interface org.varlink.service

# Who serves here, and which interfaces.
method GetInfo() -> (
  vendor: string,
  product: string,
  version: string,
  url: string,
  interfaces: []string
)

# The text of an interface.
method GetInterfaceDescription(interface: string) -> (description: string)

# No such interface.
error InterfaceNotFound (interface: string)

# The interface has no such method.
error MethodNotFound (method: string)

# The interface has this method, this service does not.
error MethodNotImplemented (method: string)

# A parameter is missing, unknown, or of a wrong type or value.
error InvalidParameter (parameter: string)

# The peer may not do this.
error PermissionDenied ()

# The method answers more than once: call it with "more".
error ExpectedMore ()
"""


class GetInfo(Params, frozen=True, kw_only=True):
    """Parameters of org.varlink.service.GetInfo."""


class Info(Reply, frozen=True, kw_only=True):
    """Who serves here, and which interfaces."""

    vendor: str
    product: str
    version: str
    url: str
    interfaces: list[str]


class GetInterfaceDescription(Params, frozen=True, kw_only=True):
    """Parameters of org.varlink.service.GetInterfaceDescription."""

    interface: str


class Description(Reply, frozen=True, kw_only=True):
    """The text of an interface."""

    description: str


@functools.cache
def description(interface: str) -> str | None:
    """An interface's text in varlink's own language; None where it is not ours."""
    return {SERVICE: lambda: SERVICE_TEXT, INTERFACE: _control}.get(interface, lambda: None)()


def _control() -> str:
    """The text of io.sandboxd.Control."""
    named: dict[str, inspect.StructType] = {}
    methods = []
    for name, method in METHODS.items():
        taken = _members(_struct(method.params), named, wanted=True)
        given = _members(_struct(method.reply), named, wanted=False)
        about = method.params.__doc__ or ""
        if method.streams:
            about += '\n\nMay be called with "more".'
        if method.reply.__doc__ and method.reply is not Empty:
            about += f"\n\nAnswer: {method.reply.__doc__}"
        methods.append(f"{_comment(about)}method {name}{taken} -> {given}\n")
    types = []
    written: set[str] = set()
    while waiting := sorted(named.keys() - written):  # the members of one type name others
        for name in waiting:
            body = _members(named[name], named, wanted=not issubclass(named[name].cls, Reply))
            types.append(f"{_comment(named[name].cls.__doc__ or '')}type {name} {body}\n")
            written.add(name)
    errors = [
        f"{_comment(kind.__doc__ or '')}error {code} (message: string, hint: string, details: object)\n"
        for code, kind in sorted(by_code().items())
    ]
    head = "# Isolated environments on this host, reached by name. Times are RFC 3339 UTC, durations seconds, sizes bytes.\n"
    return "\n".join([f"{head}interface {INTERFACE}\n", *types, *methods, *errors])


def _struct(kind: type[msgspec.Struct]) -> inspect.StructType:
    found = inspect.type_info(kind)
    assert isinstance(found, inspect.StructType)
    return found


def _members(kind: inspect.StructType, named: dict[str, inspect.StructType], *, wanted: bool) -> str:
    """A struct's members; `wanted`: what a caller may leave out is optional (in a reply of ours it is always there)."""
    lines = []
    for field in kind.fields:
        text = _type(field.type, named)
        optional = takes_null(field.type) or (wanted and not field.required)
        lines.append(f"  {field.encode_name}: {'?' if optional else ''}{text}")
    return "(\n" + ",\n".join(lines) + "\n)" if lines else "()"


def _type(kind: inspect.Type, named: dict[str, inspect.StructType]) -> str:
    """A type's name without its `?`."""
    match bare(kind):
        case inspect.LiteralType(values=words):
            spelled = len(words) > 1 and all(isinstance(word, str) and _WORD.fullmatch(word) for word in words)
            text = f"({', '.join(map(str, words))})" if spelled else "string"
        case inspect.ListType(item_type=item):
            text = f"[]{'?' if takes_null(item) else ''}{_type(item, named)}"
        case inspect.DictType(value_type=value):
            text = f"[string]{'?' if takes_null(value) else ''}{_type(value, named)}"
        case inspect.UnionType(types=choices):
            left = [choice for choice in choices if not isinstance(choice, inspect.NoneType)]
            names = {_type(choice, named) for choice in left}
            # JSON has one kind of number: whole or not is for the reader
            text = names.pop() if len(names) == 1 else "float" if names == {"int", "float"} else "object"
        case inspect.StructType(cls=cls) as struct:
            named.setdefault(cls.__name__, struct)
            text = cls.__name__
        case other:
            text = _SIMPLE.get(type(other), "object")
    return text


_SIMPLE: dict[type[inspect.Type], str] = {
    inspect.BoolType: "bool",
    inspect.IntType: "int",
    inspect.FloatType: "float",
    inspect.StrType: "string",
}


def _comment(text: str) -> str:
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    lines = [line for part in paragraphs if part for line in textwrap.wrap(part, 110)]
    return "".join(f"# {line}\n" for line in lines)
