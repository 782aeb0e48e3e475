"""Parts of the egress worker by themselves: what is the host's own, what its files say of names."""

import ipaddress
from pathlib import Path

from sandboxd.router.loop import Loop
from sandboxd.router.outbound import has_route, is_local
from sandboxd.router.resolver import Kept, Resolver
from sandboxd.routing import dns


def test_the_hosts_own_addresses_are_told_from_others() -> None:
    assert is_local(ipaddress.ip_address("127.0.0.1"))
    assert is_local(ipaddress.ip_address("127.1.2.3"))
    assert not is_local(ipaddress.ip_address("198.18.83.70"))
    assert has_route(ipaddress.ip_address("127.0.0.1"))


def test_a_file_is_read_again_once_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    kept = Kept(str(path))
    assert kept.lines() == []
    path.write_text("10.0.0.1 a b # c\n\n")
    assert kept.lines() == [["10.0.0.1", "a", "b"], []]
    path.write_text("10.0.0.2 other names\n")
    assert kept.lines() == [["10.0.0.2", "other", "names"]]
    path.unlink()
    assert kept.lines() == []


def test_the_hosts_file_answers_by_family() -> None:
    loop = Loop()
    resolver = Resolver(loop)
    labels = b"\x09localhost\0"
    for kind, version in ((dns.A, 4), (dns.AAAA, 6)):
        question = dns.Question(1, "localhost", kind, labels + bytes((0, kind, 0, 1)), 512)
        answer = resolver.known(question)
        assert answer is not None
        assert all(address.version == version and address.is_loopback for address in answer.addresses)
    assert resolver.known(dns.Question(1, "no.such.example", dns.A, labels, 512)) is None
    resolver.given = [("127.0.0.1", 5353)]
    assert resolver.servers() == [("127.0.0.1", 5353)]
    loop.close()
