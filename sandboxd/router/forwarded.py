"""A connection to a port that is forwarded: it leads to one place that the spec names, whatever `egress` says.

The place is looked up anew for each connection, by the host's resolver; all of its addresses are tried in turn. Imports
outbound and resolver. Invariant: it connects to no other place.
"""

import _socket
import ipaddress
import os
import socket
from typing import TYPE_CHECKING

from sandboxd.egress import Forward, Verdict
from sandboxd.router.outbound import Outbound, reached_at
from sandboxd.router.resolver import Lookup
from sandboxd.routing import dns

if TYPE_CHECKING:
    from sandboxd.router.outlet import Outlet

MOST_TRIED = 16  # addresses of a name


class Forwarded(Outbound):
    """See above."""

    __slots__ = ("entry", "left", "lookups")

    def __init__(self, outlet: "Outlet", sock: _socket.socket, number: int, entry: Forward) -> None:
        super().__init__(outlet, sock, number)
        self.entry = entry
        self.port = entry.target
        self.names = [entry.path or entry.host]
        self.verdict = Verdict(allowed=True, rule=f"forward {entry.port or entry.path}")
        self.left: list[dns.Address] = []
        self.lookups = 0

    def go(self) -> None:
        """Find the place and connect."""
        entry = self.entry
        if entry.path and os.geteuid() != self.outlet.order.owner:
            self.fail("its owner is not who sandboxd runs as")  # whose rights the owner need not have
        elif entry.path:
            self.connect(socket.AF_UNIX, entry.path)
        else:
            self.find()

    def find(self) -> None:
        """Its address, or one to ask for."""
        entry, own = self.entry, self.outlet.worker.own
        try:
            found = [ipaddress.ip_address(entry.host)]
        except ValueError:
            self.ask()
            return
        if found[0].is_loopback and entry.target in own:
            self.fail("it is the router's own port")  # behind which are the envs of others
        else:
            self.told_of(found)

    def ask(self) -> None:
        """Have the name resolved."""
        labels = b"".join(bytes((len(label),)) + label.encode() for label in self.entry.host.split(".")) + b"\0"
        question = dns.Question(0, self.entry.host, dns.A, labels + bytes((0, dns.A, 0, 1)), dns.OUR_SIZE)
        resolver = self.outlet.worker.resolver
        known = resolver.known(question)
        if known is not None:
            self.told_of(known.addresses)
        else:
            resolver.lookups.add(Lookup(resolver, self, question, self.answered))

    def told(self, question: dns.Question, answer: dns.Answer) -> bytes:
        """From the lookup."""
        self.left = answer.addresses
        return b""

    def answered(self, _message: bytes) -> None:
        """The lookup is over."""
        if not self.done:
            self.told_of(self.left)

    def told_of(self, addresses: list[dns.Address]) -> None:
        """Try them in turn."""
        self.left = list(addresses[:MOST_TRIED])
        if not self.left:
            self.fail("no such name")
            return
        self.address = self.left.pop(0)
        self.connect(*reached_at(self.address, self.port))

    def dialled(self, sock: _socket.socket, number: int) -> None:
        """The connection stands; or the next address is tried."""
        if number and self.left:
            sock.close()
            self.told_of(self.left)
        else:
            super().dialled(sock, number)
