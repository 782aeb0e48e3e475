"""Names for those inside: questions by datagram and by TCP, answered as this host's own resolver answers.

Each question goes to the host's name servers from a socket of its own (a fresh port, a fresh number: RFC 5452), what comes back
must answer it exactly, and nothing of it is passed on unread. Everything is bounded: questions under way of one env and of all,
time, bytes. The host's own /etc/hosts is asked first, as its programs do. Imports the loop, relay and routing.dns.
"""

import _socket
import ipaddress
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from sandboxd.kernel.nftables import RELAY, RELAY6
from sandboxd.router.loop import READ, WRITE, Loop
from sandboxd.router.relay import DONTWAIT, Side
from sandboxd.routing import dns
from sandboxd.routing.outlets import Question

if TYPE_CHECKING:
    from sandboxd.router.outlet import Outlet

Respond = Callable[[bytes], None]

BATCH = 32
MOST_LOOKUPS, MOST_OF_ONE = 512, 128
PATIENCE, ROUNDS = 2.0, 2  # seconds for a server; times that all of them are asked
IDLE = 10.0  # seconds for the next question over TCP
MOST_UNREAD = 1 << 16
IP_PKTINFO, IPV6_PKTINFO, IPPROTO_IPV6 = 8, 50, 41
HOSTS, RESOLV_CONF = "/etc/hosts", "/etc/resolv.conf"


class Asker(Protocol):
    """Whose question it is. lookups: how many it has under way."""

    lookups: int

    def told(self, question: dns.Question, answer: dns.Answer) -> bytes:
        """What came of it; the message to respond with."""


class Kept:
    """A small file of the host's, read again when it has changed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._lines: list[list[str]] = []

    def lines(self) -> list[list[str]]:
        """Its words, line by line, without comments."""
        try:
            found = os.stat(self._path)
            seen = (found.st_mtime_ns, found.st_size, found.st_ino)
            if seen != self._seen:
                with open(self._path, encoding="utf-8", errors="replace") as file:
                    text = file.read(1 << 20)
                self._lines = [line.partition("#")[0].split() for line in text.splitlines()]
                self._seen = seen
        except OSError:
            self._seen, self._lines = None, []
        return self._lines


class Resolver:
    """All questions under way. servers: HOST:PORT; none: what the host's own resolver asks."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.given: list[tuple[str, int]] = []
        self.lookups: set[Lookup] = set()
        self._hosts, self._conf = Kept(HOSTS), Kept(RESOLV_CONF)

    def servers(self) -> list[tuple[str, int]]:
        """Whom to ask."""
        if self.given:
            return self.given
        found = [(words[1], 53) for words in self._conf.lines() if len(words) > 1 and words[0] == "nameserver"]
        return found[:3] or [("127.0.0.1", 53)]  # resolv.conf(5)

    def known(self, question: dns.Question) -> dns.Answer | None:
        """What /etc/hosts says of a name."""
        if question.kind not in (dns.A, dns.AAAA):
            return None
        found = [words[0] for words in self._hosts.lines() if question.name in [word.lower() for word in words[1:]]]
        if not found:
            return None
        addresses = []
        for text in found:
            try:
                addresses.append(ipaddress.ip_address(text.partition("%")[0]))
            except ValueError:
                continue
        wanted = 4 if question.kind == dns.A else 6
        return dns.Answer(dns.NOERROR, False, [address for address in addresses if address.version == wanted], 60)

    def ask(self, outlet: "Outlet", question: dns.Question, respond: Respond) -> None:
        """Have it answered; SERVFAIL where that cannot be."""
        known = self.known(question)
        if known is not None:
            respond(outlet.told(question, known))
        elif len(self.lookups) >= MOST_LOOKUPS or outlet.lookups >= MOST_OF_ONE:
            respond(dns.reply(question, dns.SERVFAIL))
        else:
            self.lookups.add(Lookup(self, outlet, question, respond))

    def close(self) -> None:
        """Nobody is answered any more."""
        for lookup in list(self.lookups):
            lookup.end()


class Lookup:
    """One question on its way. First by datagram; where the answer does not fit, by TCP."""

    def __init__(self, resolver: Resolver, outlet: Asker, question: dns.Question, respond: Respond) -> None:
        self.resolver = resolver
        self.outlet = outlet
        self.question = question
        self.respond = respond
        self.number = 0
        self.buffer = bytearray()
        self.sock: socket.socket | None = None
        self.tries = [(server, False) for server in resolver.servers()] * ROUNDS
        self.server = ("", 0)
        self.by_tcp = False
        self.short: bytes | None = None
        self.timer = resolver.loop.at(0, lambda: None)
        outlet.lookups += 1
        resolver.loop.at(resolver.loop.now, self.next)  # not at once: `ask` has not put us down yet

    def next(self) -> None:
        """Ask the next server."""
        self._hang_up()
        if self not in self.resolver.lookups:
            return
        if not self.tries:
            self.finish(self.short)
            return
        self.server, self.by_tcp = self.tries.pop(0)
        self.number = int.from_bytes(os.urandom(2), "big")
        self.timer = self.resolver.loop.at(self.resolver.loop.now + PATIENCE, self.next)
        family = socket.AF_INET6 if ":" in self.server[0] else socket.AF_INET
        kind = socket.SOCK_STREAM if self.by_tcp else socket.SOCK_DGRAM
        try:
            self.sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            self.sock.connect_ex(self.server)
            if not self.by_tcp:
                self.sock.send(dns.query(self.question, self.number))
            self.resolver.loop.watch(self.sock.fileno(), self, WRITE if self.by_tcp else READ)
        except OSError:
            self.timer.cancel()
            self.timer = self.resolver.loop.at(self.resolver.loop.now, self.next)

    def on_event(self, mask: int) -> None:
        """An answer, or its beginning, or that there is none."""
        if self.sock is None:
            return
        try:
            if self.by_tcp:
                if not self.buffer and mask & WRITE:
                    asked = dns.query(self.question, self.number)
                    self.sock.send(len(asked).to_bytes(2, "big") + asked)
                    self.resolver.loop.change(self.sock.fileno(), READ)
                    return
                data = self.sock.recv(MOST_UNREAD)
                self.buffer += data
                if data and (len(self.buffer) < 2 or len(self.buffer) < 2 + int.from_bytes(self.buffer[:2], "big")):
                    return
                message = bytes(self.buffer[2:])
            else:
                message = self.sock.recv(MOST_UNREAD)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if dns.is_answer(message, self.question, self.number):
            self._judge(message)
        elif self.by_tcp or not message:
            self.next()

    def _judge(self, message: bytes) -> None:
        answer = dns.read_answer(message, self.question)
        if answer is None or answer.rcode in (dns.SERVFAIL, dns.REFUSED, dns.NOTIMP, dns.FORMERR):
            self.short = self.short or message
            self.next()
        elif answer.truncated and not self.by_tcp:
            self.short = message
            self.tries.insert(0, (self.server, True))
            self.next()
        else:
            self.finish(message)

    def finish(self, message: bytes | None) -> None:
        """Answer with what there is."""
        answer = dns.read_answer(message, self.question) if message is not None else None
        if message is None or answer is None:
            told = dns.reply(self.question, dns.SERVFAIL)
        elif self.question.kind in (dns.A, dns.AAAA):
            told = self.outlet.told(self.question, answer)
        else:
            told = dns.renumbered(message, self.question)
        self.end()
        self.respond(told)

    def end(self) -> None:
        """Nobody waits for it any more."""
        self._hang_up()
        if self in self.resolver.lookups:
            self.resolver.lookups.discard(self)
            self.outlet.lookups -= 1

    def abort(self, *, stalled: bool = False) -> None:
        """From the loop, after a failure of ours."""
        self.end()

    def _hang_up(self) -> None:
        self.timer.cancel()
        self.buffer.clear()
        if self.sock is not None:
            self.resolver.loop.forget(self.sock.fileno())
            self.sock.close()
            self.sock = None


class Datagrams:
    """Questions that come as datagrams, on a socket of the env's network."""

    def __init__(self, outlet: "Outlet", sock: socket.socket) -> None:
        self._outlet = outlet
        self._sock = sock
        self.family = sock.family
        self._open = True
        self._waiting: dict[tuple[tuple[str, int], int], bytes] = {}  # by who asks, and the number of what
        # Bound before `lo` had any address, it has none to answer from (inet_bind, inet_addr_type: a cold launch), so each
        # answer says where it comes from (ip(7), IP_PKTINFO), or the connection it belongs to would not be found.
        if sock.family == socket.AF_INET6:
            self._from = [(IPPROTO_IPV6, IPV6_PKTINFO, socket.inet_pton(socket.AF_INET6, RELAY6) + bytes(4))]
        else:
            self._from = [(socket.IPPROTO_IP, IP_PKTINFO, bytes(4) + socket.inet_aton(RELAY) + bytes(4))]
        outlet.loop.watch(sock.fileno(), self, READ)

    def on_event(self, mask: int) -> None:
        """Some wait."""
        for _ in range(BATCH):
            try:
                data, source = self._sock.recvfrom(4096, DONTWAIT)
            except OSError:
                return
            self.take(data, source)

    def take(self, data: bytes, source: tuple[str, int]) -> None:
        """One came."""
        question = dns.read_question(data)
        if question is not None:
            if len(self._waiting) < MOST_OF_ONE:
                self._waiting[source[:2], question.number] = data
            self._outlet.resolve(question, partial(self._send, question, source))
        else:
            refusal = dns.refusal(data)
            if refusal is not None:
                self._put(refusal, source)

    @property
    def waiting(self) -> list[Question]:
        """Those who have no answer yet."""
        return [Question(data=data, host=source[0], port=source[1]) for (source, _), data in self._waiting.items()]

    def _send(self, question: dns.Question, source: tuple[str, int], message: bytes) -> None:
        self._waiting.pop((source[:2], question.number), None)
        self._put(dns.fit(question, message), source)

    def _put(self, message: bytes, source: tuple[str, int]) -> None:
        try:
            if self._open:
                self._sock.sendmsg([message], self._from, DONTWAIT, source)
        except OSError:
            return  # it asks again, as with any lost datagram

    def abort(self, *, stalled: bool = False) -> None:
        """From the loop: one question failed; the next may be well."""

    def close(self) -> None:
        """Serve it no more."""
        if self._open:
            self._open = False
            self._outlet.loop.forget(self._sock.fileno())
            self._sock.close()


class Inquiry(Side):
    """Questions over one TCP connection, each with its length before it (RFC 7766)."""

    __slots__ = ("_buffer", "_outlet", "_timer")

    def __init__(self, outlet: "Outlet", sock: _socket.socket) -> None:
        super().__init__(outlet.loop, sock)
        self._outlet = outlet
        self._buffer = bytearray()
        self._timer = outlet.loop.at(outlet.loop.now + IDLE, self.close)

    def readable(self) -> None:
        """A question, or a part of it."""
        try:
            data = self.sock.recv(4096, DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._buffer += data
        if not data or len(self.backlog) > MOST_UNREAD:
            self.close()
            return
        while self.open and len(self._buffer) >= 2:
            length = int.from_bytes(self._buffer[:2], "big")
            if len(self._buffer) < 2 + length:
                break
            question = dns.read_question(bytes(self._buffer[2 : 2 + length]))
            del self._buffer[: 2 + length]
            if question is None or length > 4096:
                self.close()
                return
            self._timer.cancel()
            self._timer = self.loop.at(self.loop.now + IDLE, self.close)
            self._outlet.resolve(question, self._send)

    def _send(self, message: bytes) -> None:
        if not self.open:
            return
        try:
            self.put(len(message).to_bytes(2, "big") + message)
        except OSError:
            self.close()

    def broken(self) -> None:
        """It takes no answer."""
        self.close()

    def close(self) -> None:
        """Once."""
        self._timer.cancel()
        self._outlet.inquiries.discard(self)
        super().close()
