"""What runs in a stand-in env: its own user and network namespace, small servers on loopback, dial.sock served as init does.

A program of its own (`python -S -m tests.router.inside JSON`): descriptors come by number. `serve`: which servers on which
address; `dial`: how dial.sock behaves, "good" or one of the ways to cheat in `CHEATS`.
"""

import array
import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
import time

from tests.router.counting import counting
from tests.router.servers import SERVERS, spawn

CLONE_NEWUSER, CLONE_NEWNET, SIOCSIFFLAGS, IFF_UP = 0x10000000, 0x40000000, 0x8914, 1
kept: list[socket.socket] = []


def main() -> None:
    given = json.loads(sys.argv[1])
    host_socket = socket.socket()  # born outside: what a cheating init may hand over
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER | CLONE_NEWNET):
        os._exit(3)
    with socket.socket() as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
        cookie = struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, 71, 8))[0]
    for kind, host, port in given["serve"]:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=512)
        spawn(counting if kind == "counting" else SERVERS[kind], listener, given["name"])
    if given["run"] and os.fork() == 0:
        os.execvp(given["run"][0], given["run"])
    os.write(given["ready"], b"%d\n" % cookie)
    os.close(given["ready"])
    listener = socket.socket(fileno=given["listen"])
    while True:
        peer, _ = listener.accept()
        spawn(CHEATS[given["dial"]], peer, host_socket)


# -- dial.sock -------------------------------------------------------------------------------------------------------------


def births(family: int, count: int) -> list[socket.socket]:
    return [socket.socket({4: socket.AF_INET, 6: socket.AF_INET6}[family], socket.SOCK_STREAM) for _ in range(count)]


def hand_over(peer: socket.socket, socks: list[socket.socket], told: int | None = None) -> None:
    for sock in socks:
        sock.setblocking(False)
    fds = array.array("i", [sock.fileno() for sock in socks])
    peer.sendmsg([bytes((len(socks) if told is None else told, 0))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])


def good(peer: socket.socket, _host: socket.socket) -> None:
    while len(request := peer.recv(64)) == 2:
        socks = births(*request)
        hand_over(peer, socks)
        for sock in socks:
            sock.close()


def no_ipv6(peer: socket.socket, _host: socket.socket) -> None:
    while len(request := peer.recv(64)) == 2:
        if request[0] == 6:
            peer.send(bytes((0, 97)))
            continue
        hand_over(peer, births(*request))


def of_the_host(peer: socket.socket, host: socket.socket) -> None:
    while len(peer.recv(64)) == 2:
        hand_over(peer, [host])


def connected(peer: socket.socket, _host: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        while len(peer.recv(64)) == 2:
            hand_over(peer, [socket.create_connection(listener.getsockname())])


def listening(peer: socket.socket, _host: socket.socket) -> None:
    while len(peer.recv(64)) == 2:
        hand_over(peer, [socket.create_server(("127.0.0.1", 0))])


def datagram(peer: socket.socket, _host: socket.socket) -> None:
    while len(peer.recv(64)) == 2:
        hand_over(peer, [socket.socket(socket.AF_INET, socket.SOCK_DGRAM)])


def unix(peer: socket.socket, _host: socket.socket) -> None:
    while len(peer.recv(64)) == 2:
        hand_over(peer, [socket.socketpair()[0]])


def no_socket(peer: socket.socket, _host: socket.socket) -> None:
    while len(peer.recv(64)) == 2:
        with open("/dev/null", "rb") as file:
            peer.sendmsg([b"\x01\x00"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [file.fileno()]))])


def too_many(peer: socket.socket, _host: socket.socket) -> None:
    while len(request := peer.recv(64)) == 2:
        hand_over(peer, births(request[0], request[1] + 1))


def far_too_many(peer: socket.socket, _host: socket.socket) -> None:
    while len(request := peer.recv(64)) == 2:
        hand_over(peer, births(request[0], 200), told=200)


def silent(peer: socket.socket, _host: socket.socket) -> None:
    while peer.recv(64):
        pass


def ends(peer: socket.socket, _host: socket.socket) -> None:
    peer.recv(64)
    peer.close()


def babbling(peer: socket.socket, _host: socket.socket) -> None:
    peer.recv(64)
    peer.send(b"x" * 64)


def keeping(peer: socket.socket, _host: socket.socket) -> None:
    """Keeps a duplicate of each socket and goes on setting what could hold the router up."""
    while len(request := peer.recv(64)) == 2:
        socks = births(*request)
        hand_over(peer, socks)
        kept.extend(socks)
        if len(kept) == len(socks):
            spawn(meddle)


def meddle() -> None:
    while True:
        for sock in list(kept):
            sock.setblocking(True)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", 0, 0))
        time.sleep(0.0005)


def stealing(peer: socket.socket, _host: socket.socket) -> None:
    """Keeps a duplicate and reads from it, so that what epoll saw is gone when the router comes to splice."""
    while len(request := peer.recv(64)) == 2:
        socks = births(*request)
        hand_over(peer, socks)
        for sock in socks:
            kept.append(sock)
            spawn(steal, sock)
        if len(kept) == len(socks):
            spawn(meddle)


def steal(sock: socket.socket) -> None:
    while True:
        try:
            if not sock.recv(1 << 20):
                time.sleep(0.001)
        except OSError:
            time.sleep(0.001)


CHEATS = {
    function.__name__: function
    for function in (
        *(good, no_ipv6, of_the_host, connected, listening, datagram, unix, no_socket, too_many, far_too_many),
        *(silent, ends, babbling, keeping, stealing),
    )
}


if __name__ == "__main__":
    main()
