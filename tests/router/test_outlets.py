"""Parts of the egress worker by themselves: what is the host's own, what its files say of names."""

import ipaddress
from pathlib import Path

from sandboxd.egress import HOST, Address, Verdict
from sandboxd.router.bindings import MOST_BOUND, MOST_NAMES, Bindings
from sandboxd.router.ledger import MOST_KEPT, Ledger
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


class Went:
    """A connection, as the ledger sees it."""

    def __init__(self, number: int, state: str, address: Address | None, sent: int = 1) -> None:
        self.number, self.state, self.address, self.port = number, state, address, 443
        self.names: list[str] = []
        self.verdict = Verdict(allowed=state != "denied", rule="open")
        self.reason, self.began, self.sent, self.received = "", 1.5, sent, 2


def test_what_went_out_is_counted_and_the_latest_is_kept() -> None:
    ledger = Ledger("e")
    for number in range(MOST_KEPT + 10):
        ledger.end(Went(number, "closed", ipaddress.ip_address("93.184.216.34")))
        ledger.end(Went(number, "denied", ipaddress.ip_address(number), sent=0))
    ledger.end(Went(998, "failed", None, sent=0))
    ledger.end(Went(999, "denied", HOST, sent=0))
    ledger.end(Went(1000, "denied", HOST, sent=0))
    flows = ledger.flows([Went(1002, "open", HOST), Went(1001, "open", None)])
    assert [one.number for one in flows.passages if one.state in ("closed", "failed")] == [*range(11, MOST_KEPT + 10), 998]
    assert [one.number for one in flows.passages if one.state == "denied"] == [*range(11, MOST_KEPT + 10), 1000], "each once"
    assert [(one.number, one.name) for one in flows.passages[-2:]] == [(1001, ""), (1002, "host.sandbox.internal")]
    assert (flows.denied, flows.sent, flows.received) == (MOST_KEPT + 12, MOST_KEPT + 12, 2 * (2 * MOST_KEPT + 25))


def test_what_another_counted_is_told_once() -> None:
    """Of two workers one tells of what is over, and only one."""
    first, second = Ledger("e"), Ledger("e")
    first.total = 3
    first.end(Went(1, "closed", HOST))
    first.end(Went(2, "denied", HOST, sent=0))
    alive = Went(3, "open", HOST)
    second.take_up(first.leave())
    first.end(alive)
    second.take_up(first.leave())
    told, rest = second.flows([]), first.flows([])
    assert sorted(one.number for one in told.passages) == [1, 2, 3]
    assert (told.total, told.denied, told.sent, told.received) == (3, 1, 2, 6)
    assert (rest.passages, rest.total, rest.denied, rest.sent, rest.received) == ([], 0, 0, 0, 0)
    assert first.traffic([]).out_sent == 2, "each counts its own for the metrics"
    assert second.traffic([]).out_sent == 0


def test_names_of_addresses_are_bounded_and_left_to_another() -> None:
    one, other = Bindings(), Bindings()
    for number in range(MOST_BOUND + 5):
        one.bind(ipaddress.ip_address(number), "many.example")
    site = ipaddress.ip_address("93.184.216.34")
    for number in range(MOST_NAMES + 2):
        one.bind(site, f"name{number}.example")
    assert one.names_of(ipaddress.ip_address(0)) == [], "the oldest is forgotten"
    assert one.names_of(site)[0] == f"name{MOST_NAMES + 1}.example", "the latest comes first"
    assert len(one.names_of(site)) == MOST_NAMES
    other.bind(site, "own.example")
    other.take_up(one.leave())
    assert other.names_of(site)[:2] == ["own.example", f"name{MOST_NAMES + 1}.example"]
    assert other.names_of(ipaddress.ip_address(MOST_BOUND)) == ["many.example"]
    assert [address for address, _ in one.leave(most=MOST_NAMES * 20)][-1] == str(site), "of too much the latest"
    assert one.leave(most=10) == []
