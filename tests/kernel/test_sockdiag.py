"""sock_diag on the real kernel: listeners of this namespace and of another, and whose socket is at the other end."""

import errno
import os
import socket
import struct
import subprocess
import sys

import pytest

from sandboxd.errors import KernelError
from sandboxd.kernel import sockdiag

INSIDE = """
import array, ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x10000000 | 0x40000000) != 0:
    sys.exit(77)
control = socket.socket(fileno=int(sys.argv[1]))
tcp = socket.create_server(("127.0.0.1", 0))
diag = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 4)
socket.send_fds(control, [str(tcp.getsockname()[1]).encode()], [diag.fileno()])
control.recv(1)
"""


@pytest.fixture
def diag():
    with sockdiag.open_diag() as sock:
        yield sock


def connected(family=socket.AF_INET, address="127.0.0.1"):
    """A connection over loopback: (client, server end)."""
    with socket.socket(family) as listener:
        listener.bind((address, 0))
        listener.listen()
        client = socket.create_connection(listener.getsockname()[:2])
        server, _ = listener.accept()
    return client, server


@pytest.mark.parametrize(
    ("family", "address"),
    [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")],
)
def test_a_listener_is_seen_with_its_owner_and_inode(diag, family, address):
    with socket.socket(family) as listener:
        listener.bind((address, 0))
        port = listener.getsockname()[1]
        assert port not in {row.port for row in sockdiag.dump_listeners(diag)}, "bound is not listening"
        listener.listen()
        rows = [row for row in sockdiag.dump_listeners(diag) if row.port == port]
        assert rows == [sockdiag.ListenerRow(port, family, address, os.getuid(), os.fstat(listener.fileno()).st_ino)]
    assert port not in {row.port for row in sockdiag.dump_listeners(diag)}


def test_many_listeners_span_many_datagrams(diag):
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(400)]
    try:
        ports = {listener.getsockname()[1] for listener in listeners}
        assert ports <= {row.port for row in sockdiag.dump_listeners(diag)}
    finally:
        for listener in listeners:
            listener.close()


def test_a_socket_born_in_another_namespace_answers_for_that_one(diag):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = subprocess.Popen([sys.executable, "-I", "-S", "-c", INSIDE, str(theirs.fileno())], pass_fds=[theirs.fileno()])
        theirs.close()
        try:
            port, fds, _, _ = socket.recv_fds(ours, 16, 1)
            if not port:
                pytest.skip("no unprivileged user namespaces here")
            with socket.socket(fileno=fds[0]) as foreign:
                assert [(row.port, row.address) for row in sockdiag.dump_listeners(foreign)] == [(int(port), "127.0.0.1")]
                assert sockdiag.netns_cookie(foreign) != sockdiag.netns_cookie(diag)
                assert sockdiag.is_diag(foreign)
        finally:
            ours.close()
            child.wait(10)


def test_leftovers_of_an_answer_nobody_read_are_passed_over(diag):
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(800)]  # more than one part of a dump holds
    try:
        sockdiag.send(diag, sockdiag.LISTENING, sockdiag.NLM_F_REQUEST | sockdiag.NLM_F_DUMP, sockdiag.TCPDIAG_GETSOCK)
        assert all(kind != sockdiag.NLMSG_DONE for kind, *_ in sockdiag.receive(diag))
        assert {listener.getsockname()[1] for listener in listeners} <= {row.port for row in sockdiag.dump_listeners(diag)}
    finally:
        for listener in listeners:
            listener.close()


def test_what_is_no_diag_socket_is_refused_and_never_waited_for():
    with socket.socket() as tcp, socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as route:
        assert not sockdiag.is_diag(tcp)
        assert not sockdiag.is_diag(route)
        with pytest.raises(KernelError):
            sockdiag.dump_listeners(route)


def test_a_question_whose_answer_was_stolen_fails_and_does_not_wait(diag):
    """Init keeps a duplicate of the socket it handed out; it may read from it first."""
    sequence = sockdiag.send(diag, b"\0" * 56, sockdiag.NLM_F_REQUEST)
    with socket.socket(fileno=os.dup(diag.fileno())) as thief:
        thief.recv(1 << 16)
    with pytest.raises(KernelError) as caught:
        sockdiag.receive(diag)
    assert sequence
    assert caught.value.errno == errno.EAGAIN


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_uid_at_the_other_end(diag, family, address):
    client, server = connected(family, address)
    with client, server:
        assert sockdiag.peer_uid(server, diag) == os.getuid()
        assert sockdiag.peer_uid(server) == os.getuid()
        assert sockdiag.peer_uid(client, diag) == os.getuid()
        client.shutdown(socket.SHUT_WR)
        assert sockdiag.peer_uid(server, diag) == os.getuid(), "a half-closed client still has an owner"


def test_a_mapped_address_is_the_ipv4_one(diag):
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        client = socket.create_connection(("127.0.0.1", listener.getsockname()[1]))
        server, peer = listener.accept()
        with client, server:
            assert peer[0].startswith("::ffff:")
            assert sockdiag.peer_uid(server, diag) == os.getuid()
        mapped = socket.socket(socket.AF_INET6)
        with mapped:
            mapped.connect(("::ffff:127.0.0.1", listener.getsockname()[1]))
            server, _ = listener.accept()
            with server:
                assert sockdiag.peer_uid(server, diag) == os.getuid()


def test_a_client_that_closed_is_unknown_and_never_root(diag):
    client, server = connected()
    with server:
        client.close()  # now FIN_WAIT2 without an owner: the kernel says uid 0
        assert sockdiag.peer_uid(server, diag) is None


def test_a_reset_client_is_unknown(diag):
    client, server = connected()
    with server:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert sockdiag.peer_uid(server, diag) is None


def test_a_listener_on_the_clients_old_port_is_not_the_client(diag):
    """The kernel falls back to a listener when no connection matches: its owner is not the peer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind(("127.0.0.1", 0))
        client.connect(listener.getsockname())
        name = client.getsockname()
        server, _ = listener.accept()
        with server, socket.socket() as squatter:
            ports = name[1].to_bytes(2, "big"), listener.getsockname()[1].to_bytes(2, "big")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            squatter.bind(name)
            squatter.listen()
            here = socket.inet_aton("127.0.0.1").ljust(16, b"\0")
            answer = sockdiag.exchange(diag, sockdiag.REQUEST.pack(2, 6, 0, 0xFFFFFFFF, *ports, here, here, 0, b"\xff" * 8))
            state = sockdiag.MESSAGE.unpack_from(answer)[1]
            assert state == sockdiag.TCP_LISTEN, "the control: the kernel does answer, with the listener"
            assert sockdiag.uid_of(answer, ports) is None


def test_an_unconnected_socket_has_no_peer(diag):
    with socket.socket() as sock:
        assert sockdiag.peer_uid(sock, diag) is None


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="needs root: makes a client of another uid")
def test_another_users_client_is_told_apart(diag):
    code = "import os,socket,sys; os.setuid(65534); s=socket.create_connection(('127.0.0.1', int(sys.argv[1]))); s.recv(1)"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        child = subprocess.Popen([sys.executable, "-I", "-S", "-c", code, str(listener.getsockname()[1])])
        server, _ = listener.accept()
        with server:
            assert sockdiag.peer_uid(server, diag) == 65534
        child.wait(10)
