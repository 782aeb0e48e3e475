"""What an env may reach outside: the words of `egress`, and the decision over each connection and name.

Pure. A rule is `open` (the public internet), `lan` (private ranges), `host` (this host's own loopback and addresses), a name
(`*.github.com`: all below it), an address or a network, each perhaps with `:PORT`; with a leading `!` it takes away, whatever
the others give. A name is no more than the addresses it was resolved to, and only public ones: a name of somebody else's must
not lead to what is private here (DNS rebinding), so that needs a rule of its own. Addresses of cloud metadata are given by
address only. Invariant: what no rule gives is denied.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal

import msgspec

from sandboxd.errors import SpecInvalid

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Where = Literal["public", "lan", "host", "metadata"]

HOST = ipaddress.IPv4Address("198.51.100.1")  # RFC 5737: stands for this host's loopback, which has no address inside
HOST_NAMES = ("host.sandbox.internal", "host.docker.internal")
WORDS = ("open", "lan", "host")
PROXY = "proxy"  # stands among the rules and is none: by proxy variables, where programs cannot be led to the relay
PROXY_PORT = 15080  # of the env's loopback
BRACKETED = re.compile(r"\[([0-9a-f:.]+)\](/[0-9]+)?")
LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
# Not private by their ranges, or to be told apart from what is: where clouds hand out credentials.
METADATA = tuple(
    ipaddress.ip_network(text)
    for text in ("169.254.0.0/16", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::/32", "fd20:ce::/32")
)
EMBEDDED = tuple((ipaddress.ip_network(text), shift) for text, shift in (("64:ff9b::/96", 0), ("2002::/16", 80)))
FORWARD_HINT = "5432, db.internal:5432, 15432:db.internal:5432, unix:/run/foo.sock or 8080:unix:/run/foo.sock"
PATH_HINT = "unix:/run/foo.sock, there inside, too; or 8080:unix:/run/foo.sock, at a port of its loopback"
LONGEST_PATH = 107  # unix(7): sun_path, with its NUL
HINT = "as registry.npmjs.org, *.github.com:443, 10.0.0.0/8:5432, !169.254.169.254, open, lan or host"


class Rule(msgspec.Struct, frozen=True):
    """One rule. word, name or network: exactly one is set. below: names below `name`, not itself. port 0: any."""

    text: str
    deny: bool = False
    word: str = ""
    name: str = ""
    below: bool = False
    network: ipaddress.IPv4Network | ipaddress.IPv6Network | None = None
    port: int = 0

    def has_port(self, port: int) -> bool:
        """Whether it says something of that port; 0 asks for any."""
        return self.port in (0, port) or not port

    def has_name(self, name: str) -> bool:
        """Whether it says something of that name."""
        return bool(self.name) and (name.endswith(f".{self.name}") if self.below else name == self.name)


class Verdict(msgspec.Struct, frozen=True):
    """allowed, and by which rule. Else `rule` is what denies, or "", and `lacking` the rule that would allow it."""

    allowed: bool
    rule: str = ""
    lacking: str = ""
    by_name: bool = False


def parse(text: str) -> Rule:
    """One rule; raises SpecInvalid."""
    deny = text.startswith("!")
    body = text[1:].strip().lower() if deny else text.strip().lower()
    place, port = split_port(body, text)
    if place in WORDS:
        return Rule(text, deny, word=place, port=port)
    bracketed = BRACKETED.fullmatch(place)
    try:
        network = ipaddress.ip_network("".join(bracketed.groups("")) if bracketed else place)
        return Rule(text, deny, network=network, port=port)
    except ValueError as error:
        if "/" in place or ":" in place or re.fullmatch(r"[0-9.]+", place):
            raise SpecInvalid(f"egress rule {text!r}: {error}", hint=HINT) from None
    below = place.startswith("*.")
    name = (place[2:] if below else place).rstrip(".")
    if len(name) > 253 or not all(LABEL.fullmatch(label) for label in name.split(".")):
        raise SpecInvalid(f"egress rule {text!r} is no name, address or network", hint=HINT)
    return Rule(text, deny, name=name, below=below, port=port)


def split_port(body: str, text: str) -> tuple[str, int]:
    """The place and its port (0: any). An IPv6 address that has a port is in brackets."""
    place, colon, port = body.rpartition(":")
    if not colon or (":" in place and not re.search(r"\](/[0-9]+)?$", place)):
        return body, 0
    if not place or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        if body.endswith("]") or re.search(r"\]/[0-9]+$", body):
            return body, 0
        raise SpecInvalid(f"egress rule {text!r}: {port!r} is no port", hint=HINT)
    return place, int(port)


def parse_all(egress: str | Sequence[str]) -> list[Rule]:
    """The rules of a spec's `egress`; raises SpecInvalid."""
    texts = given(egress)
    return [parse(text) for text in texts if text != PROXY]


def given(egress: str | Sequence[str] | None) -> list[str]:
    """What stands in a spec's `egress`, as a list: None is `open`, and `proxy` alone is `open` by proxy."""
    texts = ["open"] if egress is None else [egress] if isinstance(egress, str) else list(egress)
    return [*texts, "open"] if texts == [PROXY] else [text for text in texts if text != "none"]


@lru_cache(maxsize=4096)
def plain(address: Address) -> Address:
    """What an address really leads to: IPv4 in the clothes of IPv6 is IPv4."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    for network, shift in EMBEDDED:
        if address in network:
            return ipaddress.IPv4Address(int(address) >> shift & 0xFFFFFFFF)
    return address


def where_of(address: Address, *, local: bool) -> Where:
    """What kind of place it is. local: it is one of this host's own addresses."""
    if any(address in network for network in METADATA):
        return "metadata"
    if local or address == HOST or address.is_loopback or address.is_unspecified:
        return "host"
    return "public" if address.is_global and not address.is_multicast else "lan"


def decide(rules: Sequence[Rule], address: Address, port: int, *, names: Iterable[str] = (), local: bool = False) -> Verdict:
    """Over one connection. names: those that this env resolved to the address. port 0: whether any would do."""
    address = plain(address)
    where = where_of(address, local=local)
    known = list(names)
    given: Rule | None = None
    for rule in rules:
        if not rule.has_port(port) or not concerns(rule, address, where, known):
            continue
        if rule.deny:
            if rule.port in (0, port):
                return Verdict(allowed=False, rule=rule.text)
        elif given is None or given.name:  # one that needs no name holds whatever TLS says
            given = rule
    if given is not None:
        return Verdict(allowed=True, rule=given.text, by_name=bool(given.name))
    return Verdict(allowed=False, lacking=lacking(address, port, where, known))


def concerns(rule: Rule, address: Address, where: Where, names: Sequence[str]) -> bool:
    """Whether a rule says something of that place. A name gives only what is public; it denies wherever it leads."""
    if rule.network is not None:
        return address in rule.network
    if rule.word:
        return where == "public" if rule.word == "open" else where == rule.word
    return (rule.deny or where == "public") and any(rule.has_name(name) for name in names)


def lacking(address: Address, port: int, where: Where, names: Sequence[str]) -> str:
    """The rule that would allow it."""
    if where == "host":
        place = "host"
    elif where == "public" and names:
        place = names[0]
    else:
        place = str(address) if address.version == 4 or not port else f"[{address}]"
    return f"{place}:{port}" if port else place


def decide_name(rules: Sequence[Rule], name: str) -> Verdict:
    """Whether a name may be asked for at all: one that leads nowhere is no way to carry messages out."""
    given = ""
    for rule in rules:
        if rule.deny and not rule.port and rule.has_name(name):
            return Verdict(allowed=False, rule=rule.text)
        if not rule.deny and (rule.has_name(name) or rule.word == "open"):
            given = given or rule.text
    return Verdict(allowed=True, rule=given) if given else Verdict(allowed=False, lacking=name)


def allows_tls_name(rules: Sequence[Rule], name: str, port: int) -> bool:
    """Whether the name that a TLS client asks for is one that the rules give, where only a name gave the connection."""
    found = [rule for rule in rules if rule.has_port(port) and rule.has_name(name)]
    return bool(found) and not any(rule.deny for rule in found)


class Forward(msgspec.Struct, frozen=True):
    """A service of elsewhere at a port of the env's own loopback. host "": a Unix socket of this host at `path`; port 0: at
    that path inside, too."""

    port: int
    host: str = ""
    target: int = 0
    path: str = ""


def forward(entry: int | str) -> Forward:
    """One entry of `forward`: PORT, PORT:PORT, HOST:PORT, PORT:HOST:PORT, unix:PATH or PORT:unix:PATH; raises SpecInvalid."""
    parts = str(entry).split(":", 1)
    inside = number(parts[0])
    if len(parts) == 1 and inside:
        return Forward(inside, "127.0.0.1", inside)
    rest = parts[1] if inside and len(parts) > 1 else str(entry)
    if rest.startswith("unix:"):
        path = rest[5:]
        if not path.startswith("/") or "\0" in path or len(path.encode("utf-8", "replace")) > LONGEST_PATH:
            raise SpecInvalid(f"forward {entry!r} names no absolute path of at most {LONGEST_PATH} bytes", hint=PATH_HINT)
        if {".", "..", ""} & set(path[1:].split("/")):
            raise SpecInvalid(f"forward {entry!r}: its path has parts that name nothing, or go back", hint=PATH_HINT)
        return Forward(inside, path=path)
    if inside and number(rest):
        return Forward(inside, "127.0.0.1", number(rest))
    host, _, port = rest.rpartition(":")
    host = host.removeprefix("[").removesuffix("]").lower()
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if not host or not all(LABEL.fullmatch(label) for label in host.split(".")):
            raise SpecInvalid(f"forward {entry!r} is no place", hint=FORWARD_HINT) from None
    if not number(port):
        raise SpecInvalid(f"forward {entry!r}: {port!r} is no port", hint=FORWARD_HINT)
    return Forward(inside or number(port), host, number(port))


def number(text: str) -> int:
    """A port, or 0."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= 65535 else 0
