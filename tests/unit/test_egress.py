"""What an env may reach: the words, and the decision over each kind of place."""

import ipaddress
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.egress import HOST, Forward, allows_tls_name, decide, decide_name, forward, parse, parse_all
from sandboxd.errors import SpecInvalid

PUBLIC, OTHER, LAN, METADATA = (
    ipaddress.ip_address(a) for a in ("93.184.216.34", "2606:2800::1", "10.1.2.3", "169.254.169.254")
)


def allows(egress: str | list[str], address: object, port: int = 443, **facts: object) -> bool:
    """The decision alone."""
    return decide(parse_all(egress), ipaddress.ip_address(str(address)), port, **facts).allowed  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("egress", "address", "allowed"),
    [
        ("open", PUBLIC, True),
        ("open", OTHER, True),
        ("open", LAN, False),
        ("open", "192.168.1.1", False),
        ("open", "100.64.0.1", False),
        ("open", "127.0.0.1", False),
        ("open", "::1", False),
        ("open", "fd00::1", False),
        ("open", "224.0.0.1", False),
        ("open", "0.0.0.0", False),
        ("open", METADATA, False),
        ("open", "100.100.100.200", False),
        ("open", "168.63.129.16", False),
        ("open", "fd00:ec2::254", False),
        ("open", HOST, False),
        # IPv4 in the clothes of IPv6 is IPv4
        ("open", "::ffff:10.1.2.3", False),
        ("open", "64:ff9b::a01:203", False),
        ("open", "2002:a01:203::1", False),
        ("open", "64:ff9b::5db8:d822", True),
        (["lan"], LAN, True),
        (["lan"], PUBLIC, False),
        (["lan"], METADATA, False),
        (["lan"], "fd00:ec2::254", False),
        (["lan"], "127.0.0.1", False),
        (["host"], HOST, True),
        (["host"], "127.0.0.1", True),
        (["host"], LAN, False),
        (["host:5432"], HOST, False),
        (["host:443"], HOST, True),
        (["169.254.169.254"], METADATA, True),
        (["10.0.0.0/8:5432"], LAN, False),
        (["10.0.0.0/8:443"], LAN, True),
        (["open", "!93.184.216.34"], PUBLIC, False),
        (["open", "!93.184.216.34:80"], PUBLIC, True),
        (["open", "lan", "!10.1.0.0/16"], LAN, False),
        (["!10.0.0.0/8"], PUBLIC, False),
        ([], PUBLIC, False),
        ("none", PUBLIC, False),
    ],
)
def test_every_kind_of_place(egress: str | list[str], address: object, allowed: bool) -> None:
    assert allows(egress, address) is allowed


def test_an_address_of_this_host_is_the_hosts() -> None:
    assert not allows("open", PUBLIC, local=True)
    assert allows(["host"], PUBLIC, local=True)


def test_a_name_is_its_public_addresses_and_no_other() -> None:
    rules = ["*.github.com:443"]
    assert allows(rules, PUBLIC, names=["api.github.com"])
    assert not allows(rules, PUBLIC, names=["github.com"])
    assert not allows(rules, PUBLIC, names=["evilgithub.com"])
    assert not allows(rules, PUBLIC, names=[])
    assert not allows(rules, PUBLIC, 80, names=["api.github.com"])
    assert not allows(rules, LAN, names=["api.github.com"]), "rebinding"
    assert not allows(rules, METADATA, names=["api.github.com"])
    assert allows([*rules, "10.0.0.0/8"], LAN, names=["api.github.com"])
    assert not allows(["open", "!evil.example"], PUBLIC, names=["evil.example"])


def test_a_rule_that_needs_no_name_comes_before_one_that_does() -> None:
    verdict = decide(parse_all(["a.example", "open"]), PUBLIC, 443, names=["a.example"])
    assert (verdict.rule, verdict.by_name) == ("open", False)
    assert decide(parse_all(["a.example"]), PUBLIC, 443, names=["a.example"]).by_name


@pytest.mark.parametrize(
    ("address", "names", "lacking"),
    [
        (PUBLIC, ["a.example"], "a.example:443"),
        (PUBLIC, [], "93.184.216.34:443"),
        (OTHER, [], "[2606:2800::1]:443"),
        (LAN, ["a.example"], "10.1.2.3:443"),
        (HOST, [], "host:443"),
    ],
)
def test_what_is_lacking_would_allow_it(address: object, names: list[str], lacking: str) -> None:
    where = ipaddress.ip_address(str(address))
    assert decide([], where, 443, names=names).lacking == lacking
    assert decide([parse(lacking)], where, 443, names=names).allowed


def test_only_names_that_lead_somewhere_are_asked_for() -> None:
    rules = parse_all(["*.github.com:443", "10.0.0.0/8", "lan", "!x.github.com"])
    assert decide_name(rules, "api.github.com").allowed
    assert not decide_name(rules, "x.github.com").allowed
    assert not decide_name(rules, "secret.tunnel.example").allowed
    assert decide_name(parse_all("open"), "any.example").allowed


def test_tls_asks_for_a_name_of_the_list() -> None:
    rules = parse_all(["*.github.com:443", "!x.github.com"])
    assert allows_tls_name(rules, "api.github.com", 443)
    assert not allows_tls_name(rules, "api.github.com", 8443)
    assert not allows_tls_name(rules, "x.github.com", 443)
    assert not allows_tls_name(rules, "other.example", 443)


@pytest.mark.parametrize(
    "text", ["", "*", "a..b", "x:99999", "x:0", "10.0.0.0/99", "10.0.0.1/8", "1.2.3", "a b", ":80", "[::1", "!"]
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(SpecInvalid) as refused:
        parse(text)
    assert refused.value.hint


@pytest.mark.parametrize(
    "text", ["::1", "[::1]", "[::1]:80", "2001:db8::/32", "[2001:db8::]/32:443", "A.Example.:80", "!lan", "*.b"]
)
def test_what_is_one_is_read(text: str) -> None:
    assert parse(text).text == text


@given(st.text(max_size=40))
def test_any_text_is_a_rule_or_our_error(text: str) -> None:
    with suppress(SpecInvalid):
        assert parse(text).text == text


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        (5432, Forward(5432, "127.0.0.1", 5432)),
        ("11434", Forward(11434, "127.0.0.1", 11434)),
        ("8080:80", Forward(8080, "127.0.0.1", 80)),
        ("db.internal:5432", Forward(5432, "db.internal", 5432)),
        ("15432:db.internal:5432", Forward(15432, "db.internal", 5432)),
        ("10.1.2.3:5432", Forward(5432, "10.1.2.3", 5432)),
        ("[::1]:5432", Forward(5432, "::1", 5432)),
        ("8080:unix:/run/foo.sock", Forward(8080, path="/run/foo.sock")),
        ("unix:/run/foo.sock", Forward(0, path="/run/foo.sock")),
    ],
)
def test_what_is_forwarded_where(entry: int | str, found: Forward) -> None:
    assert forward(entry) == found


@pytest.mark.parametrize(
    "entry",
    [
        0,
        70000,
        -1,
        "",
        ":",
        "db",
        "db:0",
        "unix:foo",
        "80:unix:foo",
        "unix:/",
        "unix:/run/../etc/foo",
        "unix:/run//foo",
        "a b:80",
        "1:2:3:4",
    ],
)
def test_what_is_no_forward_is_refused(entry: int | str) -> None:
    with pytest.raises(SpecInvalid) as refused:
        forward(entry)
    assert refused.value.hint
