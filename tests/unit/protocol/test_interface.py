"""The interface text: an independent parser reads it, and it says what our structs decode."""

import re
from typing import Any

import msgspec
import pytest

from sandboxd.errors import by_code
from sandboxd.protocol.interface import SERVICE_TEXT, description
from sandboxd.protocol.messages import INTERFACE, METHODS
from sandboxd.spec import EnvSpec
from tests.foreign import varlink

scanner = varlink.scanner


@pytest.fixture(scope="module")
def text() -> str:
    found = description(INTERFACE)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def parsed(text: str) -> Any:
    return scanner.Interface(text)


def test_an_independent_parser_reads_both() -> None:
    assert scanner.Interface(SERVICE_TEXT).name == "org.varlink.service"
    assert description("org.varlink.service") == SERVICE_TEXT
    assert description("org.example.other") is None


def test_every_method_and_error_is_declared(parsed: Any) -> None:
    assert {name for name, member in parsed.members.items() if isinstance(member, scanner._Method)} == set(METHODS)
    assert {name for name, member in parsed.members.items() if isinstance(member, scanner._Error)} == set(by_code())


def test_names_are_declared_once(text: str) -> None:
    """Types, methods and errors share one name space: of two the parser would keep the last."""
    names = re.findall(r"^(?:type|method|error) (\w+)", text, re.MULTILINE)
    assert len(names) == len(set(names))


def test_every_type_that_is_used_is_declared(text: str, parsed: Any) -> None:
    used = {
        word for line in text.splitlines() if not line.startswith("#") for word in re.findall(r": [^,]*?\b([A-Z]\w+)", line)
    }
    assert used == {name for name, member in parsed.members.items() if isinstance(member, scanner._Alias)}


@pytest.mark.parametrize("name", METHODS)
def test_members_are_the_structs_own(parsed: Any, name: str) -> None:
    method = parsed.members[name]
    assert list(method.in_type.fields) == list(METHODS[name].params.__struct_encode_fields__)
    assert list(method.out_type.fields) == list(METHODS[name].reply.__struct_encode_fields__)


def test_two_structs_never_share_a_name() -> None:
    seen: dict[str, type] = {}
    waiting: list[Any] = [
        msgspec.inspect.type_info(kind) for method in METHODS.values() for kind in (method.params, method.reply)
    ]
    while waiting:
        kind = waiting.pop()
        if isinstance(kind, msgspec.inspect.StructType):
            if kind.cls.__name__ in seen:
                assert seen[kind.cls.__name__] is kind.cls
                continue
            seen[kind.cls.__name__] = kind.cls
            waiting += [field.type for field in kind.fields]
        for part in ("type", "item_type", "value_type"):
            waiting += [getattr(kind, part)] if hasattr(kind, part) else []
        waiting += getattr(kind, "types", ())
    assert EnvSpec in seen.values()


@pytest.mark.parametrize(
    "line",
    [
        "  all: ?bool,",  # may be left out
        "  target: string,",
        "  envs: []EnvInfo",
        "  services: [string]Service,",
        "  command: object,",  # a string or a list
        "  exit_code: ?int,",
        "  level: ?(full, landlock, none),",
        "  limits: [string]?float,",
        "  restart: ?string,",  # a pattern
        "  mode: ?string",  # a choice of one, which PyPI's parser takes for an error
        "error NotFound (message: string, hint: string, details: object)",
        '# May be called with "more".',
    ],
)
def test_spelling(text: str, line: str) -> None:
    assert line in text.splitlines()


def test_what_a_reply_always_has_is_not_optional(text: str) -> None:
    """Replies are encoded with their defaults, so a typed client may rely on them."""
    assert b'"changed":true' in msgspec.json.encode(METHODS["Run"].reply(env=None))
    assert "  changed: bool," in text.splitlines()
