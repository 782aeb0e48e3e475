"""The PROXY protocol's second version: what a service that asked for it is told before a connection's first byte.

Pure. haproxy's doc/proxy-protocol.txt, 2.2. Only what can be known is said: a client on a Unix socket has no address. Of such
a connection LOCAL is said, the receiver then uses what it sees; after PROXY with AF_UNSPEC, which would be closer, haproxy 2.6
closes (measured). Invariant: a header is complete and of the length it states.
"""

import ipaddress
import struct

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21  # version 2; of the proxy itself, and for somebody else
TCP4, TCP6, UNSPECIFIED = 0x11, 0x21, 0x00


def header(source: tuple[str, int], target: tuple[str, int]) -> bytes:
    """For a TCP connection from source to target, addresses as the kernel prints them; ones that are none are not said."""
    try:
        first, second = plain(source[0]), plain(target[0])
    except ValueError:
        return SIGNATURE + struct.pack(">BBH", LOCAL, UNSPECIFIED, 0)
    if first.version != second.version:
        first, second = mapped(first), mapped(second)
    family = TCP4 if first.version == 4 else TCP6
    body = first.packed + second.packed + struct.pack(">HH", source[1], target[1])
    return SIGNATURE + struct.pack(">BBH", PROXY, family, len(body)) + body


Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def plain(text: str) -> Address:
    """An address without its zone, IPv4 where it is one in IPv6's clothes; raises ValueError."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def mapped(address: Address) -> ipaddress.IPv6Address:
    """As IPv6."""
    return address if isinstance(address, ipaddress.IPv6Address) else ipaddress.IPv6Address(f"::ffff:{address}")
