"""One env's way out, as the egress worker has it: its listeners, its rules, the names it knows, what passes and what did not.

The listeners were born in the env's network namespace and are kept by its init, which hands them over as often as it is asked:
so none is lost with a worker. What init hands over is checked, since a hostile env may be behind it. An address is bound to the
names that this env was told it for, and only to those. Imports outbound, resolver and listener. Invariant: all that is kept for
an env is bounded.
"""

import _socket
import errno
import ipaddress
import os
import socket
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from sandboxd.egress import (
    HOST,
    HOST_NAMES,
    PROXY,
    PROXY_PORT,
    Address,
    Forward,
    Verdict,
    decide,
    decide_name,
    forward,
    parse_all,
)
from sandboxd.errors import ProtocolViolation
from sandboxd.kernel import fds
from sandboxd.kernel.nftables import RELAY, RELAY6
from sandboxd.kernel.sockdiag import netns_cookie
from sandboxd.router.bindings import Bindings
from sandboxd.router.closing import reset
from sandboxd.router.forwarded import Forwarded
from sandboxd.router.ledger import Ledger
from sandboxd.router.listener import Accepted, Listener
from sandboxd.router.loop import READ, Timer
from sandboxd.router.outbound import NOTHING, OURS, Outbound, Way, has_route, is_local, place_of, reached_at, wanted
from sandboxd.router.proxied import Proxied
from sandboxd.router.resolver import MOST_OF_ONE, Datagrams, Inquiry, Respond
from sandboxd.router.sharing import BATCH
from sandboxd.routing import dns, orders
from sandboxd.routing.outlets import Left, Passage, Question
from sandboxd.routing.outlets import Outlet as Given

if TYPE_CHECKING:
    from sandboxd.router.egress import Egress
from sandboxd.router.stock import connect

MOST_PASSAGES = 2048  # connections of one env; what is over is reset
MOST_WAYS, STANDS = 1024, 1.0  # decisions that are remembered; seconds, since this host may get another address
MOST_LISTENERS, MOST_LOTS = 16, 33  # at a time; a spec may forward 256 ports, of two families each
FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
SOON, LATE = 0.05, 2.0
LONGEST_TTL = 300
WAYS = 0  # launch.dialer: the kind of request; its number says which of them
LOOPBACK = {dns.A: "127.0.0.1", dns.AAAA: "::1"}


class Outlet:
    """See above."""

    def __init__(self, worker: "Egress", order: Given) -> None:
        self.worker = worker
        self.loop = worker.loop
        self.pipes = worker.pipes
        self.order = order
        self.rules = parse_all(order.rules)
        self.forwards: dict[int | str, Forward] = {one.port or one.path: one for one in map(forward, order.forward)}
        self.passages: set[Outbound] = set()
        self.inquiries: set[Inquiry] = set()
        self.lookups = 0
        self.ledger = Ledger(order.env_id)
        self._ways: dict[bytes, Way] = {}
        self._batch = 0  # of the loop's, in which connections came last
        self._bindings = Bindings()
        self._listeners: list[Listener | Datagrams] = []
        self._sock: _socket.socket | None = None
        self._timer: Timer | None = None
        self._lot = 0
        self._pause = SOON
        self._asked: list[Question] = []
        self.told_of: orders.Traffic | None = None
        self._ask()

    # -- its listeners ---------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        try:
            self._sock = connect(self.order.dial)
            self.loop.watch(self._sock.fileno(), self, READ)
            self._ask_for(self._sock, 1)
        except OSError:
            self._again()

    def _ask_for(self, sock: _socket.socket, number: int) -> None:
        """The number-th lot of listeners."""
        self._lot = number
        sock.send(bytes((WAYS, number)), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def _again(self) -> None:
        """Init does not take it now, or is gone: then a table without us is on its way."""
        self._hang_up()
        self._shut()
        self._timer = self.loop.at(self.loop.now + self._pause, self._ask)
        self._pause = min(LATE, 2 * self._pause)

    def _hang_up(self) -> None:
        if self._sock is not None:
            self.loop.forget(self._sock.fileno())
            self._sock.close()
            self._sock = None

    def on_event(self, mask: int) -> None:
        """Init answers."""
        if self._sock is None:
            return
        received: list[int] = []
        try:
            data, received = fds.recv(self._sock, 16, max_fds=MOST_LISTENERS, flags=socket.MSG_DONTWAIT)
            if len(data) != 2 or data[1]:
                raise OSError(errno.EPROTO, "init answered something else than was asked")
            is_last = len(received) < MOST_LISTENERS or self._lot == MOST_LOTS
            if not is_last:
                self._ask_for(self._sock, self._lot + 1)
        except BlockingIOError:
            return
        except (OSError, ProtocolViolation):
            fds.close_all(received)
            self._again()
            return
        if is_last:
            self._hang_up()
        for fd in received:
            self._open(fd)

    def abort(self, *, stalled: bool = False) -> None:
        """From the loop, after a failure of ours."""
        self._again()

    def _open(self, fd: int) -> None:
        """Serve one listener, if it is one of this env's network."""
        try:
            sock = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            return
        try:
            if sock.family not in FAMILIES or netns_cookie(sock) != self.order.cookie:
                raise OSError(errno.EINVAL, "not of its network namespace")
            if sock.type == socket.SOCK_STREAM:
                if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    raise OSError(errno.EINVAL, "it does not listen")
                self._listeners.append(Listener(self.loop, sock, self._taker(sock), self._room))
            elif sock.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == socket.IPPROTO_UDP:
                datagrams = Datagrams(self, sock)
                self._listeners.append(datagrams)
                self._ask_again(datagrams)
            else:
                raise OSError(errno.EINVAL, "neither TCP nor UDP")
        except OSError:
            sock.close()

    def _ask_again(self, datagrams: Datagrams) -> None:
        """What another worker left unanswered."""
        own = [one for one in self._asked if (":" in one.host) == (datagrams.family == socket.AF_INET6)]
        self._asked = [one for one in self._asked if one not in own]
        for one in own:
            datagrams.take(one.data, (one.host, one.port))

    def _taker(self, sock: socket.socket) -> Accepted:
        """Who takes the connections of a listener."""
        if sock.family == socket.AF_UNIX:
            entry = self.forwards.get(sock.getsockname())
            if entry is None:
                raise OSError(errno.EINVAL, "nothing is led there")
            return partial(self._forwarded, entry)
        host, port = sock.getsockname()[:2]
        if host in (RELAY, RELAY6):
            return self._accepted
        if host in LOOPBACK.values() and port == PROXY_PORT and PROXY in self.order.rules:
            return self._proxied
        if host in LOOPBACK.values() and port in self.forwards:
            return partial(self._forwarded, self.forwards[port])
        raise OSError(errno.EINVAL, "nothing is led there")

    def _admit(self, sock: _socket.socket) -> bool:
        """Whether there is room for one connection more; else it is reset."""
        self.ledger.total += 1
        self.worker.note(self)
        if len(self.passages) + len(self.inquiries) >= self.worker.most:
            reset(sock)
            self._deny("", NOTHING, f"{self.worker.most} connections are open at once already")
            return False
        return True

    def _proxied(self, sock: _socket.socket, _source: tuple[str, int]) -> None:
        if not self._admit(sock):
            return
        self.worker.numbers += 1
        passage = Proxied(self, sock, self.worker.numbers)
        self.passages.add(passage)
        passage.go()

    def _forwarded(self, entry: Forward, sock: _socket.socket, _source: tuple[str, int]) -> None:
        if not self._admit(sock):
            return
        self.worker.numbers += 1
        passage = Forwarded(self, sock, self.worker.numbers, entry)
        self.passages.add(passage)
        passage.go()

    def _room(self) -> int:
        # Whoever keeps a duplicate of the listener can have accept(2) wait.
        self.loop.guard()
        # As a rule they come singly, and to be told that there is no second one would delay the first.
        is_alone = self.loop.batch - self._batch > 1
        self._batch = self.loop.batch
        return 1 if is_alone else BATCH

    # -- what passes -----------------------------------------------------------------------------------------------------

    def _accepted(self, sock: _socket.socket, _source: tuple[str, int]) -> None:
        if not self._admit(sock):
            return
        try:
            packed = wanted(sock)
        except OSError:  # it was not led here: somebody connects to the relay itself
            reset(sock)
            return
        way = self._ways.get(packed)
        if way is None or way.until < self.loop.now:
            if len(self._ways) >= MOST_WAYS:
                self._ways.clear()
            way = self._ways[packed] = self.way(*place_of(packed))
        if way.port == 53:
            self.inquiries.add(Inquiry(self, sock))
            return
        self.worker.numbers += 1
        passage = Outbound(self, sock, self.worker.numbers)
        self.passages.add(passage)
        passage.begin(way)

    def way(self, address: Address, port: int) -> Way:
        """Where a connection to that address leads to, if it may."""
        until = self.loop.now + STANDS
        place = reached_at(address, port)
        if address in OURS:
            return Way(address, port, [], NOTHING, until, *place, "not a way out")
        local = address != HOST and is_local(address)
        names = self._bindings.names_of(address)
        return Way(address, port, names, self.decide(address, port, names, local=local), until, *place)

    def forget_ways(self) -> None:
        """What a decision rests on has changed."""
        self._ways.clear()

    def decide(self, address: Address, port: int, names: list[str], *, local: bool) -> Verdict:
        """Over one connection."""
        if port in self.worker.own and (local or address == HOST or address.is_loopback):
            return Verdict(allowed=False, rule="the router's own port")  # behind which are the envs of others
        return decide(self.rules, address, port, names=names, local=local)

    def ended(self, passage: Outbound) -> None:
        """A connection is over."""
        self.passages.discard(passage)
        self.ledger.end(passage)
        self.worker.ended(self)

    def deny(self, seen: Passage) -> None:
        """Something was denied before there was a connection."""
        self.ledger.deny(seen)
        self.worker.note(self)

    def traffic(self) -> orders.Traffic:
        """In numbers."""
        return self.ledger.traffic(self.passages)

    def flows(self) -> orders.Flows:
        """All that is known."""
        return self.ledger.flows(self.passages)

    # -- names -----------------------------------------------------------------------------------------------------------

    def resolve(self, question: dns.Question, respond: Respond) -> None:
        """Answer a question of the env's."""
        name, kind = question.name, question.kind
        if name == "localhost" or name.endswith(".localhost"):  # RFC 6761: its own
            addresses = [ipaddress.ip_address(LOOPBACK[kind])] if kind in LOOPBACK else []
            respond(dns.reply(question, dns.NOERROR, addresses, LONGEST_TTL))
            return
        if name in HOST_NAMES:
            verdict = decide(self.rules, HOST, 0)
            if verdict.allowed:
                respond(dns.reply(question, dns.NOERROR, [HOST] if kind == dns.A else [], LONGEST_TTL))
                return
        else:
            verdict = decide_name(self.rules, name)
        if not verdict.allowed:
            self._deny(name, verdict, "")
            respond(dns.reply(question, dns.NXDOMAIN))
        elif kind in (dns.SVCB, dns.HTTPS):  # they carry addresses that would be bound to nothing
            respond(dns.reply(question, dns.NOERROR))
        elif kind in (dns.ANY, dns.AXFR, dns.IXFR):
            respond(dns.reply(question, dns.NOTIMP))
        else:
            self.worker.resolver.ask(self, question, respond)

    def told(self, question: dns.Question, answer: dns.Answer) -> bytes:
        """The answer to give: the addresses that may be reached at all, bound to the name from here on."""
        found: list[Address] = []
        verdict: Verdict | None = None
        for address in answer.addresses:
            local = is_local(address)
            seen = self.decide(address, 0, [question.name], local=local)
            if not seen.allowed:
                verdict = seen
            elif local or address.is_loopback:
                found += [HOST] if question.kind == dns.A and HOST not in found else []
            elif address.version == 4 or has_route(address):
                found.append(address)
        if not found and verdict is not None:
            self._deny(question.name, verdict, "it leads to what is private")
        for address in found:
            self._bindings.bind(address, question.name)
        if found:
            self.forget_ways()
        return dns.reply(question, answer.rcode, found, min(answer.ttl, LONGEST_TTL))

    def _deny(self, name: str, verdict: Verdict, reason: str) -> None:
        """What has no address yet."""
        self.worker.numbers += 1
        self.deny(
            Passage(
                number=self.worker.numbers,
                name=name,
                address="",
                port=0,
                state="denied",
                rule=verdict.rule,
                lacking=verdict.lacking,
                reason=reason,
                began=self.loop.now,
            )
        )

    # -- changes ---------------------------------------------------------------------------------------------------------

    def change(self, order: Given) -> None:
        """Other rules: what they no longer give is cut."""
        self.order = order
        self.rules = parse_all(order.rules)
        self.forget_ways()
        for passage in list(self.passages):
            if (
                not isinstance(passage, Forwarded)
                and passage.address is not None
                and (passage.tunnel is not None or passage.dialling is not None)
                and not self.decide(passage.address, passage.port, passage.names, local=is_local(passage.address)).allowed
            ):
                passage.cut()

    def leave(self, most: int) -> Left:
        """Take nobody more: another worker has what we know of it from here on. most: bytes of names."""
        left = self.ledger.leave()
        asked = [one for listener in self._listeners if isinstance(listener, Datagrams) for one in listener.waiting]
        bound = self._bindings.leave(most)
        self._close()
        return msgspec.structs.replace(left, bound=bound, questions=[*asked, *self._asked], numbers=self.worker.numbers)

    def take_up(self, left: Left) -> None:
        """Go on from where another worker was."""
        self.ledger.take_up(left)
        self._bindings.take_up(left.bound)
        self.forget_ways()
        self._asked += left.questions[: 2 * MOST_OF_ONE]

    def _close(self) -> None:
        """Take nobody more."""
        if self._timer is not None:
            self._timer.cancel()
        self._hang_up()
        self._shut()
        for inquiry in list(self.inquiries):
            inquiry.close()

    def _shut(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def release(self) -> None:
        """Let go of all that is of its network."""
        self._close()
        for passage in list(self.passages):
            passage.cut()
