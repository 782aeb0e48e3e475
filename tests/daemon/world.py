"""A daemon in a network of a test's own, with an Internet of the test's making in it.

Run as `python -m tests.daemon.world`, it makes the namespaces, gives the sockets that the test serves to the test (through the
Unix socket WORLD_SOCKET), and becomes the daemon. Public addresses are local to its `lo` by routes that name another source, so
that they look as far away as any: no second namespace, no veth, no program. Nothing of the host's network is touched.
"""

import contextlib
import ctypes
import ipaddress
import json
import os
import socket
import struct
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from sandboxd.kernel import namespaces, nftables
from sandboxd.kernel.libc import check, function
from sandboxd.routing import dns
from tests.daemons import Daemon

PUBLIC, PUBLIC6, PRIVATE = "93.184.216.0/24", "2606:2800:220::/48", "10.9.0.0/16"
METADATA = "169.254.169.254/32"
SOURCE, SOURCE6 = "172.31.255.1", "fd77::1"
NAMES = ("93.184.216.53", 53)
Place = tuple[str, str, int]  # "tcp" or "udp", address, port


def local_route(prefix: str, source: str) -> bytes:
    """All of a prefix is this machine's, and what goes there comes from `source`."""
    address, _, width = prefix.partition("/")
    family = socket.AF_INET6 if ":" in prefix else socket.AF_INET
    scope = 0 if family == socket.AF_INET6 else 254  # RT_SCOPE_HOST
    head = struct.pack("=BBBBBBBBI", family, int(width), 0, 0, 255, 3, scope, 2, 0)  # table local, RTN_LOCAL
    route = head + nftables.attr(1, socket.inet_pton(family, address)) + nftables.attr(4, struct.pack("=I", 1))
    route += nftables.attr(7, socket.inet_pton(family, source))
    flags = nftables.CREATE | nftables.EXCL | nftables.ACK
    return nftables.message(nftables.RTM_NEWROUTE, flags, 1, route)


def make_world() -> None:
    """User and network namespaces of our own, with the routes."""
    uid, gid = os.getuid(), os.getgid()
    namespaces.unshare(namespaces.NEWUSER | namespaces.NEWNET)
    namespaces.write_proc("/proc/self/setgroups", b"deny")
    namespaces.write_proc("/proc/self/uid_map", b"%d %d 1" % (uid, uid))
    namespaces.write_proc("/proc/self/gid_map", b"%d %d 1" % (gid, gid))
    namespaces.loopback_up()
    namespaces.write_proc("/proc/sys/net/ipv4/ip_unprivileged_port_start", b"0")
    for family, address, width in ((socket.AF_INET, SOURCE, 32), (socket.AF_INET6, SOURCE6, 128)):
        nftables.exchange(nftables.NETLINK_ROUTE, nftables.roads(family, (address,), width), "the world's address")
    for prefix in (PUBLIC, PRIVATE, METADATA):
        nftables.exchange(nftables.NETLINK_ROUTE, local_route(prefix, SOURCE), prefix)
    nftables.exchange(nftables.NETLINK_ROUTE, local_route(PUBLIC6, SOURCE6), PUBLIC6)


def born(kind: str, address: str, port: int) -> socket.socket:
    """A socket bound in this network; those of TCP listen."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND: a route is no address (ipv6(7))
    sock.bind((address, port))
    if kind == "tcp":
        sock.listen(1024)
    return sock


class World:
    """The test's side: its daemon, its servers, and who answers to which name."""

    def __init__(self, daemon: Daemon, sockets: dict[Place, socket.socket]) -> None:
        self.daemon = daemon
        self.sockets = sockets
        self.names: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.threads = [threading.Thread(target=self._resolve, args=(sockets["udp", *NAMES],), daemon=True)]
        self.threads[0].start()

    def serve(self, address: str, port: int, handle: Callable[[socket.socket], None]) -> None:
        """Have every connection there handled, one after another."""
        listener = self.sockets["tcp", address, port]

        def loop() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(30)
                    handle(connection)

        self.threads.append(threading.Thread(target=loop, daemon=True))
        self.threads[-1].start()

    def _resolve(self, sock: socket.socket) -> None:
        """The test's name server."""
        while True:
            try:
                data, source = sock.recvfrom(4096)
            except OSError:
                return
            question = dns.read_question(data)
            if question is None:
                if not data:
                    return
                continue
            self.asked.append(question.name)
            found = [ipaddress.ip_address(text) for text in self.names.get(question.name, [])]
            version = 4 if question.kind == dns.A else 6 if question.kind == dns.AAAA else 0
            rcode = dns.NOERROR if question.name in self.names else dns.NXDOMAIN
            answer = dns.reply(question, rcode, [address for address in found if address.version == version], 60)
            with contextlib.suppress(OSError):
                sock.sendto(answer, source)

    def close(self) -> None:
        """End every server."""
        for (kind, _, _), sock in self.sockets.items():
            if kind == "tcp":
                sock.shutdown(socket.SHUT_RDWR)  # accept(2) of a thread returns
            else:
                with contextlib.suppress(OSError):
                    sock.connect(sock.getsockname())
                    sock.send(b"")  # to itself: the thread's recv returns
        for thread in self.threads:
            thread.join(30)
        for sock in self.sockets.values():
            sock.close()


def run_world(*places: Place) -> Iterator[World]:
    """A daemon whose Internet has servers at these places."""
    wanted = [("udp", *NAMES), *places]
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as meeting:
        path = str(Path(folder, "world"))
        meeting.bind(path)
        meeting.listen()
        meeting.settimeout(60)
        environ = {"WORLD": json.dumps(wanted), "WORLD_SOCKET": path, "SANDBOXD_RESOLVERS": f"{NAMES[0]}:{NAMES[1]}"}
        daemon = Daemon(**environ)
        daemon.module = "tests.daemon.world"
        try:
            daemon.start()
            with meeting.accept()[0] as told:
                _, fds, _, _ = socket.recv_fds(told, 1, len(wanted))
        except BaseException:
            daemon.abandon()
            raise
        world = World(daemon, {place: socket.socket(fileno=fd) for place, fd in zip(wanted, fds, strict=True)})
        try:
            yield world
        finally:
            world.close()
            daemon.close()


def join_world(pid: str) -> None:
    """Into the namespaces of a process that is there."""
    join = function("setns", ctypes.c_int, ctypes.c_int)
    opened = [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in ("user", "net")]
    for fd in opened:
        check(join(fd, 0), "setns", pid)
        os.close(fd)


def main() -> None:
    """In the daemon's place."""
    if "WORLD_PID" in os.environ:  # the next daemon, of another version, of a world that is there
        join_world(os.environ["WORLD_PID"])
        os.execv(sys.executable, [sys.executable, "-m", "tests.daemon.crash.newer"])
    make_world()
    sockets = [born(*place) for place in json.loads(os.environ["WORLD"])]
    with socket.socket(socket.AF_UNIX) as told:
        told.connect(os.environ["WORLD_SOCKET"])
        socket.send_fds(told, [b"."], [sock.fileno() for sock in sockets])
    os.execv(sys.executable, [sys.executable, "-m", "sandboxd"])


if __name__ == "__main__":
    main()
