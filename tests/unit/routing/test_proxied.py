"""The PROXY protocol header, byte by byte as its specification has it."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.routing.proxied import SIGNATURE, header

PORTS = st.integers(0, 65535)
V4 = st.ip_addresses(v=4).map(str)
V6 = st.ip_addresses(v=6).map(str)


def test_as_the_specification_has_it() -> None:
    """Section 2.2: signature, version and command, family, length, addresses, ports."""
    assert bytes.fromhex("0d0a0d0a000d0a515549540a") == SIGNATURE
    made = header(("1.2.3.4", 0x1234), ("5.6.7.8", 0x5678))
    assert made == SIGNATURE + bytes.fromhex("2111000c010203040506070812345678")


@pytest.mark.parametrize(("source", "target"), [("unknown", "unknown"), ("unknown", "127.0.0.1"), ("", "::1")])
def test_what_is_not_known_is_not_said(source: str, target: str) -> None:
    assert header((source, 1), (target, 2)) == SIGNATURE + b"\x20\x00\x00\x00"


@given(st.one_of(V4, V6), PORTS, st.one_of(V4, V6), PORTS)
def test_any_addresses_are_in_it(source: str, from_port: int, target: str, to_port: int) -> None:
    made = header((source, from_port), (target, to_port))
    length = int.from_bytes(made[14:16], "big")
    assert len(made) == 16 + length
    size = {0x11: 4, 0x21: 16}[made[13]]
    said = ipaddress.ip_address(made[16 : 16 + size])
    meant = ipaddress.ip_address(source)
    assert bare(said) == bare(meant)
    assert made[-4:] == from_port.to_bytes(2, "big") + to_port.to_bytes(2, "big")


def test_addresses_in_the_forms_of_the_kernel() -> None:
    assert header(("::ffff:1.2.3.4", 1), ("::ffff:5.6.7.8", 2)) == header(("1.2.3.4", 1), ("5.6.7.8", 2))
    assert header(("fe80::1%lo", 1), ("fe80::2%lo", 2)) == header(("fe80::1", 1), ("fe80::2", 2))


def bare(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> object:
    """An IPv4 address in either spelling."""
    return getattr(address, "ipv4_mapped", None) or address
