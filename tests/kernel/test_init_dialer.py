"""Sockets born in an env's network, asked of a real pid 1 by a router that may be stuck or hostile."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from sandboxd.kernel.fds import close_all, recv, send
from sandboxd.kernel.sockdiag import dump_listeners, is_diag, netns_cookie
from sandboxd.launch.dialer import COUNT_LIMIT, PEERS_LIMIT
from sandboxd.launch.initlink import ServiceExited
from tests.kernel.inits import Env, connected, program, run, until

SERVER = """import select, socket
listeners = []
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    server = socket.socket(family)
    server.bind((address, 3000))
    server.listen()
    listeners.append(server)
print("listens", flush=True)
while True:
    for ready in select.select(listeners, [], [])[0]:
        connection, _ = ready.accept()
        connection.sendall(b"inside")
        connection.close()
"""


def dial(env: Env) -> socket.socket:
    """A connection to dial.sock; whatever does not answer fails the test."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(20)
    folder = os.open(env.dir, os.O_PATH)
    try:
        sock.connect(f"/proc/self/fd/{folder}/dial.sock")
    finally:
        os.close(folder)
    return sock


def ask(sock: socket.socket, family: int, count: int) -> tuple[bytes, list[socket.socket]]:
    sock.send(bytes((family, count)))
    data, fds = recv(sock, 10, max_fds=COUNT_LIMIT)
    return data, [socket.socket(fileno=fd) for fd in fds]


def server() -> dict:
    return program("/usr/bin/python3", "-I", "-S", "-c", SERVER)


def test_sockets_reach_the_envs_own_loopback(init_env) -> None:
    env = init_env({"web": server()})
    run(until(lambda: b"listens" in env.text("web")))
    sock = dial(env)
    cookies = set()
    for family, number, address in ((4, socket.AF_INET, "127.0.0.1"), (6, socket.AF_INET6, "::1")):
        reply, found = ask(sock, family, 3)
        assert reply == b"\x03\x00"
        assert len(found) == 3
        for born in found:
            options = [born.getsockopt(socket.SOL_SOCKET, o) for o in (socket.SO_DOMAIN, socket.SO_TYPE, socket.SO_PROTOCOL)]
            assert options == [number, socket.SOCK_STREAM, socket.IPPROTO_TCP]
            assert not os.get_blocking(born.fileno())
            assert not born.get_inheritable()
            cookies.add(netns_cookie(born))
            with pytest.raises(OSError, match="not connected"):
                born.getpeername()
            born.settimeout(20)
            born.connect((address, 3000))
            assert born.recv(100) == b"inside"
            born.close()
    assert len(cookies) == 1
    with socket.socket() as outside:
        assert netns_cookie(outside) not in cookies
    sock.close()


@pytest.mark.parametrize(
    "request_",
    [b"", b"\x04", b"\x04\x01\x00", b"\x05\x01", b"\x04\x00", b"\x04\x11", b"\x06\xff", b"x" * 5000],
    ids=["empty", "short", "long", "family", "none", "many", "most", "huge"],
)
def test_what_is_no_request_closes_the_connection(init_env, request_: bytes) -> None:
    env = init_env()
    sock, other = dial(env), dial(env)
    sock.send(request_)
    assert sock.recv(10) == b""
    sock.close()
    reply, found = ask(other, 4, 16)  # nobody else is harmed
    assert reply == b"\x10\x00"
    for born in found:
        born.close()
    other.close()


def test_descriptors_that_come_along_are_dropped(init_env) -> None:
    env = init_env()
    sock = dial(env)
    reading, writing = os.pipe()
    for _ in range(3):
        send(sock, b"\x04\x01", [writing])
        data, fds = recv(sock, 10)
        assert data == b"\x01\x00"
        close_all(fds)
    os.close(writing)
    assert os.read(reading, 1) == b"", "no copy is left in init"
    os.close(reading)
    sock.close()


def test_a_peer_that_does_not_read_is_cut_off_and_nobody_waits(init_env) -> None:
    env = init_env({"web": server()})
    stuck, other = dial(env), dial(env)
    stuck.setblocking(False)
    gone = False
    for _ in range(3000):
        try:
            stuck.send(b"\x04\x10")
        except BlockingIOError:
            reply, found = ask(other, 4, 1)
            assert len(found) == reply[0]
            for born in found:
                born.close()
        except (BrokenPipeError, ConnectionResetError):
            gone = True
            break
    assert gone
    stuck.close()
    reply, found = ask(other, 4, 1)
    assert reply == b"\x01\x00", "what was in flight to the stuck one is released"
    found[0].close()
    other.close()

    async def main() -> None:
        async with connected(env) as (link, _):
            assert (await link.status()).services["web"].wait_status is None

    run(main())


def test_connections_are_bounded(init_env) -> None:
    env = init_env()
    held = [dial(env) for _ in range(PEERS_LIMIT)]
    for sock in held:
        reply, found = ask(sock, 6, 1)
        assert reply == b"\x01\x00"
        found[0].close()
    refused = dial(env)
    assert refused.recv(10) == b""
    refused.close()
    for sock in held:
        sock.close()

    def is_served() -> bool:
        sock = dial(env)
        try:
            sock.send(b"\x04\x01")
            data, fds = recv(sock, 10)
        except OSError:
            return False
        finally:
            sock.close()
        close_all(fds)
        return data == b"\x01\x00"

    run(until(is_served))


def test_without_descriptors_left_it_says_so_and_goes_on(init_env) -> None:
    env = init_env({}, rlimits={"NOFILE": [40, 40]})
    sock = dial(env)
    reply, found = ask(sock, 4, 16)
    assert reply == b"\x10\x00"
    for born in found:
        born.close()
    others: list[socket.socket] = []
    while True:
        others.append(dial(env))
        others[-1].send(b"\x04\x10")
        data, fds = recv(others[-1], 10)
        close_all(fds)
        if data[:1] != b"\x10":
            break
    assert data[0] < 16
    assert data[1] == 24  # EMFILE
    assert len(fds) == data[0]
    for other in others:
        other.close()
    run(until(lambda: full(sock)))
    sock.close()


def full(sock: socket.socket) -> bool:
    """Whether all that is asked for is given again."""
    reply, found = ask(sock, 4, 16)
    for born in found:
        born.close()
    return reply == b"\x10\x00"


def test_diag_sees_what_listens_inside(init_env) -> None:
    env = init_env({"web": server()})

    async def main() -> None:
        async with connected(env) as (link, heard):
            diag = await link.diag()
            assert is_diag(diag)
            assert not diag.get_inheritable()
            await until(lambda: len(dump_listeners(diag)) == 2)
            assert {(row.address, row.port) for row in dump_listeners(diag)} == {("127.0.0.1", 3000), ("::1", 3000)}
            await link.signal("service:web", 9)
            await heard.wait(ServiceExited)
            await until(lambda: dump_listeners(diag) == [])
            diag.close()

    run(main())


def test_an_env_without_a_dial_socket(init_env, tmp_path: Path) -> None:
    """As on the host's network, where the router needs none."""
    env = init_env({"web": program("true")}, dial=False)

    async def main() -> None:
        async with connected(env) as (link, _):
            while (await link.status()).services["web"].wait_status is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    run(main())
