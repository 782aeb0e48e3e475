"""Which key a request has for a template: found in its fields, hashed where it is a secret, signed where we handed it out.

Pure: randomness is an argument. A key is written `kind:value`; the kinds never share one, so that no header can name a session
of a cookie. What the router looks up is a key's `slot`, a keyed hash: it is as long as any other, and tells nothing. A token is
known by its hash alone from here on. Invariant: a `cookie:` key is given only for a value that `minted` made with that secret.
"""

import hashlib
import hmac
import ipaddress
import re
from typing import Literal, NamedTuple

import msgspec

from sandboxd.routing.requests import Request
from sandboxd.routing.rules import COOKIES

BEARER = re.compile(r"(?i:bearer) +([!-~]{1,4096})")
COOKIE_VALUE = re.compile(rb"([0-9a-f]{32})\.([0-9a-f]{32})")
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
SEGMENT = re.compile(rb"/([^/?#]{1,256})")
VALUE = re.compile(r"[!-~]([ -~]{0,254}[!-~])?")


class Door(msgspec.Struct, frozen=True, kw_only=True):
    """A template, as the router knows it. host: the name its requests ask for; keys, create, strip, waiting_page: as in
    `[on_demand]`; secret: in hex, this template's own; share: as an endpoint's."""

    host: str
    name: str
    owner: int
    secret: str
    keys: list[str]
    create: bool = False
    strip: bool = False
    waiting_page: bool = False
    share: Literal["", "private", "box", "link"] = ""


class Found(NamedTuple):
    """A request's key. cookie: the Set-Cookie line to answer with, where the key was made just now. path: what to strip."""

    key: str
    cookie: bytes = b""
    path: str = ""


def secret_of(secret: bytes, owner: int, template: str) -> str:
    """A template's own secret: what holds for one says nothing to another."""
    return hashlib.blake2b(f"{owner}:{template}".encode(), key=secret, digest_size=32).hexdigest()


def digest(secret: str, use: bytes, data: bytes) -> str:
    """A keyed hash for one use, which no other use's is equal to."""
    return hashlib.blake2b(data, key=bytes.fromhex(secret), digest_size=16, person=use).hexdigest()


def slot_of(secret: str, key: str) -> str:
    """What a key is looked up by."""
    return digest(secret, b"slot", key.encode("latin-1", "replace"))


def minted(door: Door, chance: bytes) -> tuple[str, bytes]:
    """A new key nobody can guess or make, and the value of the cookie that shows it. chance: 16 random bytes."""
    name = chance.hex()
    return f"cookie:{name}", cookie_value(door.secret, name)


def cookie_value(secret: str, name: str) -> bytes:
    """What a cookie says of a key: its name, and that it is from here."""
    return f"{name}.{digest(secret, b'cookie', name.encode())}".encode()


def cookie_name(door: Door, *, secure: bool) -> bytes:
    """Over TLS browsers take a __Host- cookie from nobody but this very host (RFC 6265bis 4.1.3.2)."""
    return (b"__Host-" if secure else b"") + b"sandboxd-" + door.name.encode()


def set_cookie(door: Door, value: bytes, *, secure: bool) -> bytes:
    """The field line that hands a cookie out."""
    more = b"; Secure" if secure else b""
    return b"Set-Cookie: %b=%b; Path=/; HttpOnly; SameSite=Lax%b\r\n" % (cookie_name(door, secure=secure), value, more)


def find_key(door: Door, label: str, request: Request, source: str, *, trusted: bool, chance: bytes) -> Found | None:
    """The first key of the door's chain that a request has; None: it has none, and none can be made for it.

    label: what stood before the door's host; source: the address it comes from; trusted: whether what it says of TLS holds.
    """
    secure = trusted and request.scheme == b"https"
    for kind in door.keys:
        found = _of_kind(door, kind, label, request, source, secure)
        if found is not None:
            return found
    if "cookie" not in door.keys or label or is_hello(request):
        return None
    key, value = minted(door, chance)
    return Found(key, set_cookie(door, value, secure=secure))


def _of_kind(door: Door, kind: str, label: str, request: Request, source: str, secure: bool) -> Found | None:
    if kind in ("host", "sni"):
        return Found(f"{kind}:{label}") if label and (kind == "host" or is_hello(request)) else None
    if label:
        return None  # a name below the template's is a key or nothing
    if kind == "cookie":
        return _of_cookie(door, request.fields, secure)
    if kind == "ip":
        return Found(f"ip:{source}")
    if kind == "token":
        token = BEARER.fullmatch(field(request.fields, "authorization") or "")
        return Found(hashed(door.secret, token[1].encode())) if token is not None else None
    if kind == "path":
        segment = SEGMENT.match(request.target)
        if segment is None or not VALUE.fullmatch(segment[1].decode("latin-1")):
            return None
        return Found(f"path:{segment[1].decode('latin-1')}", path=f"/{segment[1].decode('latin-1')}" if door.strip else "")
    value = field(request.fields, kind.partition(":")[2])
    return Found(f"header:{value}") if value is not None and VALUE.fullmatch(value) else None


def is_hello(request: Request) -> bool:
    """Whether it is none of HTTP's: a TLS connection, of which the name in its hello is all that is read."""
    return not request.method


def _of_cookie(door: Door, fields: bytes, secure: bool) -> Found | None:
    wanted = cookie_name(door, secure=secure)
    for line in COOKIES.findall(fields):
        for pair in line.split(b";"):
            name, _, given = pair.strip(b" \t").partition(b"=")
            match = COOKIE_VALUE.fullmatch(given) if name == wanted else None
            if match is not None and hmac.compare_digest(given, cookie_value(door.secret, match[1].decode())):
                return Found(f"cookie:{match[1].decode()}")
    return None


def hashed(secret: str, token: bytes) -> str:
    """The key of a token, which does not tell it."""
    return f"token:{digest(secret, b'token', token)}"


def field(fields: bytes, name: str) -> str | None:
    """The value of the one field line of that name; two are none, as two readers may each take another one."""
    wanted = name.lower().encode() + b":"
    values = [line[len(wanted) :].strip(b" \t") for line in fields.split(b"\r\n") if line[: len(wanted)].lower() == wanted]
    if len(values) != 1:
        return None
    return values[0].decode("latin-1")


def named_key(door: Door, text: str) -> str | None:
    """A key as a person or a program names it: `kind:value`, or the value alone of the first kind; None: it can be none."""
    kinds = {kind.partition(":")[0] for kind in door.keys}
    kind, colon, value = text.partition(":")
    if not colon or kind not in kinds:
        kind, value = door.keys[0].partition(":")[0], text
    if kind == "token":
        return hashed(door.secret, value.encode()) if re.fullmatch(r"[!-~]{1,4096}", value) else None
    if kind == "cookie":
        # Any name will do; what shows the key is 32 hex digits, as of one that was drawn.
        name = value if re.fullmatch(r"[0-9a-f]{32}", value) else digest(door.secret, b"name", value.encode())
        return f"cookie:{name}" if VALUE.fullmatch(value) else None
    if kind == "ip":
        try:
            return f"ip:{ipaddress.ip_address(value)}"
        except ValueError:
            return None
    allowed = LABEL if kind in ("host", "sni") else VALUE
    return f"{kind}:{value}" if allowed.fullmatch(value) and (kind != "path" or "/" not in value) else None


def may_create(door: Door, key: str) -> bool:
    """Whether a request may have an env made for its key."""
    return door.create or key.startswith("cookie:")


def source_of(peer: str, forwarded: bytes, *, trusted: bool) -> str:
    """The address a request comes from: the last that a trusted proxy named, else that of the connection."""
    named = forwarded.rstrip(b", ").rpartition(b",")[2].strip().decode("latin-1") if trusted else ""
    try:
        address = ipaddress.ip_address(named or peer)
    except ValueError:
        return peer
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def network_of(source: str) -> str:
    """Whom an address counts as: of IPv6 a host has a /64 to choose from (RFC 4291 2.5.1)."""
    if ":" not in source:
        return source
    try:
        return str(ipaddress.ip_network((source, 64), strict=False))
    except ValueError:
        return source
