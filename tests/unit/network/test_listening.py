"""Listeners seen through a diag socket that came from elsewhere: believed only when it is one."""

import socket

import pytest

from sandboxd.errors import KernelError
from sandboxd.kernel import sockdiag
from sandboxd.network.listening import Listening


def test_ports_come_sorted_and_follow_what_happens():
    listening = Listening(sockdiag.open_diag())
    try:
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("::1", 0), family=socket.AF_INET6) as two:
            ports = {one.getsockname()[1], two.getsockname()[1]}
            rows = listening.ports()
            assert ports <= {row.port for row in rows}
            assert [row.port for row in rows] == sorted(row.port for row in rows)
        assert not ports & {row.port for row in listening.ports()}
    finally:
        listening.close()


def test_a_socket_of_another_kind_is_refused():
    with socket.socket() as tcp, pytest.raises(KernelError):
        Listening(tcp)


def test_a_socket_of_another_namespace_is_refused():
    with sockdiag.open_diag() as diag:
        cookie = sockdiag.netns_cookie(diag)
        Listening(diag, cookie=cookie)
        with pytest.raises(KernelError):
            Listening(diag, cookie=cookie + 1)
