"""What a service is told of where a request came from: Forwarded (RFC 7239) and X-Forwarded-For, -Host, -Proto.

Pure. What a request says of this itself is passed on, and added to, only from peers that the operator listed; of anybody else
it is replaced: a service that believes it must not be lied to. Invariant: what is returned ends the head.
"""

import functools
import ipaddress
import re

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


@functools.lru_cache(4096)
def own(peer: bytes, host: bytes | None) -> bytes:
    """The fields for a request that came from `peer` itself, asking for `host`, and the end of the head."""
    return told(peer, host, b"", b"", b"http", b"")


def told(peer: bytes, host: bytes | None, before: bytes, elements: bytes, scheme: bytes, outer: bytes) -> bytes:
    """The same with what proxies before us said: `before`, `elements` of the two lists, `scheme`, and the `outer` host."""
    named = outer or host
    lines = b"X-Forwarded-For: %b%b\r\nX-Forwarded-Proto: %b\r\n" % (before, peer, scheme)
    node = b'"[%b]"' % peer if b":" in peer else peer
    element = b"for=%b;proto=%b" % (node, scheme)
    if named is not None:
        lines += b"X-Forwarded-Host: %b\r\n" % named
        quoted = named if TOKEN.fullmatch(named) else b'"%b"' % named.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
        element += b";host=" + quoted
    return lines + b"Forwarded: %b%b\r\n\r\n" % (elements, element)


@functools.lru_cache(4096)
def is_trusted(source: str, networks: tuple[str, ...]) -> bool:
    """Whether an address is in one of the networks; what is no address (a Unix socket's client) is in none."""
    if "." not in source and ":" not in source:
        return False
    address = ipaddress.ip_address(source.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    return any((mapped or address) in ipaddress.ip_network(network, strict=False) for network in networks)
