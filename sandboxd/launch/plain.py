"""JSON by the C half of the standard library's json alone, for the processes whose every page is paid per env.

Imports `_json`. The package around it brings regular expressions and enums, a fifth of the launcher's heap (measured), and
makes two objects at each call. The daemon reads and writes the same frames with whatever it likes.
"""

from __future__ import annotations

import _json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def unknown(value: object) -> None:
    """What JSON has no form for."""
    raise TypeError(f"{type(value).__name__} is no JSON")


def constant(name: str) -> None:
    """NaN and the infinities are no JSON (RFC 8259, section 6)."""
    raise ValueError(f"{name} is no JSON")


class Rules:
    """What the C scanner asks its decoder for."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(constant)
    memo: dict[str, str] = {}  # noqa: RUF012 - as json.JSONDecoder has it


_encode = _json.make_encoder(None, unknown, _json.encode_basestring_ascii, None, ":", ",", False, False, False)
_scan = _json.make_scanner(Rules())  # type: ignore[arg-type]


def encode(value: object) -> bytes:
    """Compact, in ASCII; raises TypeError and ValueError for what is no JSON."""
    return "".join(_encode(value, 0)).encode()


def decode(body: bytes | bytearray) -> Any:
    """The one value in it; raises ValueError and RecursionError."""
    text = body.decode().strip(" \t\n\r")
    try:
        value, end = _scan(text, 0)
    except (StopIteration, SystemError, ImportError) as error:
        # Its own error is a class of json.decoder: where that is not loaded, it fails to raise it, one way or the other.
        raise ValueError("no JSON") from error
    if end != len(text):
        raise ValueError("more than one JSON value")
    return value
