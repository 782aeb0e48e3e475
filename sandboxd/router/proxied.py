"""A connection to the proxy inside an env: what it asks for goes out by the same rules as what is led to the relay.

For envs whose way out is by proxy variables (`--egress proxy`). A name is resolved and bound as the env's own resolver does it,
so that the decision falls over the address, as everywhere. Unlike there, a refusal can be told, and is. Imports outbound and
routing.proxying. Invariant: nothing is dialled before `egress` gave it.
"""

import _socket
import ipaddress
from typing import TYPE_CHECKING

from sandboxd.egress import HOST, HOST_NAMES, Address, Verdict, decide_name
from sandboxd.router.loop import READ
from sandboxd.router.outbound import Far, Outbound, Sniffing
from sandboxd.router.relay import BUFFER, DONTWAIT
from sandboxd.router.tunnel import Tunnel
from sandboxd.routing import dns
from sandboxd.routing.proxying import DENIED, UNREACHABLE, Asked, Conversation, Refused

if TYPE_CHECKING:
    from sandboxd.router.outlet import Outlet

PATIENCE = 30.0  # seconds for the whole request


class Proxied(Outbound):
    """See above."""

    __slots__ = ("asked", "left", "talk")

    def __init__(self, outlet: "Outlet", sock: _socket.socket, number: int) -> None:
        super().__init__(outlet, sock, number)
        self.talk = Conversation()
        self.asked: Asked | None = None
        self.left: list[Address] = []

    def go(self) -> None:
        """Hear what it asks for."""
        self.timer = self.loop.at(self.loop.now + PATIENCE, lambda: self.fail("it asked for nothing"))
        self.want(READ)

    def readable(self) -> None:
        """A part of the request, or what belongs into the tunnel."""
        if self.outgoing is not None:
            super().readable()
            return
        try:
            data = self.sock.recv(BUFFER, DONTWAIT)
            answer = self.talk.feed(data)
            if answer:
                self.sock.send(answer, DONTWAIT)
        except BlockingIOError:
            return
        except Refused as refused:
            self.refuse(refused.reply)
            return
        except OSError:
            data = b""
        if self.talk.asked is not None:
            self.want(self.mask & ~READ)
            self.asked = self.talk.asked
            self.find(self.asked)
        elif not data:
            self.fail("given up")

    def find(self, asked: Asked) -> None:
        """Its address, or a name to ask for."""
        if self.timer is not None:
            self.timer.cancel()
        self.port = asked.port
        if asked.host in HOST_NAMES:
            self.begin(self.outlet.way(HOST, asked.port))
            return
        try:
            self.begin(self.outlet.way(ipaddress.ip_address(asked.host), asked.port))
            return
        except ValueError:
            self.names = [asked.host]
        verdict = decide_name(self.outlet.rules, asked.host)
        if verdict.allowed:
            self.ask(dns.A)
            return
        self.verdict = verdict if verdict.rule else Verdict(allowed=False, lacking=f"{asked.host}:{asked.port}")
        self.state = "denied"
        self.fail("")

    def ask(self, kind: int) -> None:
        """Have the name resolved for the env."""
        name = self.names[0]
        labels = name.split(".")
        if not all(0 < len(label) < 64 for label in labels):
            self.fail("no such name")
            return
        raw = b"".join(bytes((len(label),)) + label.encode() for label in labels) + bytes((0, 0, kind, 0, 1))
        question = dns.Question(0, name, kind, raw, dns.OUR_SIZE)
        self.outlet.resolve(question, lambda message: self.answered(question, message))

    def answered(self, question: dns.Question, message: bytes) -> None:
        """Its addresses: IPv4 first, as nearly every network has it."""
        if self.done:
            return
        answer = dns.read_answer(message, question)
        self.left = list(answer.addresses) if answer is not None else []
        if self.left:
            self.begin(self.outlet.way(self.left.pop(0), self.port))
        elif question.kind == dns.A:
            self.ask(dns.AAAA)
        else:
            self.fail("no such name, or it leads to what is private")

    def stand(self, sock: _socket.socket) -> None:
        """Say that it stands; from here on it is a tunnel."""
        asked = self.asked
        assert asked is not None
        far = Far(self, sock)
        try:
            if asked.granted:
                self.put(asked.granted)
            if asked.first:
                far.put(asked.first)
        except OSError:
            far.close()
            self.fail("given up")
            return
        self.tunnel = Tunnel(self, far, self.outlet.pipes, self.over)
        self.tunnel.inward.moved += len(asked.first)
        if self.verdict.by_name and not asked.first:
            self.outgoing = Sniffing(self, self.tunnel.inward)

    def fail(self, reason: str) -> None:
        """Tell why, where it was asked for something; else as all others."""
        if self.asked is not None and self.tunnel is None and self.open:
            status = DENIED if self.state == "denied" else UNREACHABLE
            self.reason = self.reason or reason
            allow = f"; to allow it: sandbox net --allow {self.verdict.lacking}" if self.verdict.lacking else ""
            why = (
                f"denied by {self.verdict.rule}"
                if self.verdict.rule and self.state == "denied"
                else reason or "no rule gives it"
            )
            self.refuse(self.talk.refusal(status, f"{self.asked.host}:{self.asked.port}: {why}{allow}"))
        else:
            super().fail(reason)

    def refuse(self, reply: bytes) -> None:
        """The last word."""
        try:
            self.sock.send(reply, DONTWAIT)
            self.sock.recv(BUFFER, DONTWAIT)  # close(2) with unread input would take the answer away
        except OSError:
            pass  # it is gone, or nothing more came
        self.close()
        super().fail(self.reason)
