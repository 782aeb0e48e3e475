"""Listeners seen through a diag socket that came from elsewhere: believed only when it is one."""

import os
import socket
import subprocess
import sys

import pytest

from sandboxd.errors import KernelError
from sandboxd.kernel import sockdiag
from sandboxd.network.listening import Listening
from tests.require import require


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


LISTEN = """
import socket, sys
print(flush=True)
held = []
for family in (socket.AF_INET, socket.AF_INET6):
    sys.stdin.readline()
    held.append(socket.create_server(("", 0), family=family))
    print(flush=True)
sys.stdin.readline()
"""


def test_what_is_counted_changes_when_one_more_listens():
    require("userns", "ipv6", "unshare")
    command = ["unshare", "--user", "--net", sys.executable, "-I", "-S", "-c", LISTEN]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child,
        sockdiag.open_diag() as diag,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        listening = Listening(diag, pid=child.pid)
        counts = []
        for _ in range(3):
            child.stdout.readline()
            counts.append(listening.count())
            child.stdin.write("\n")
            child.stdin.flush()
        listening.count_no_more()
    assert counts == [(0, 0), (1, 0), (1, 1)]


def test_nothing_is_counted_of_a_process_that_is_not_there():
    with sockdiag.open_diag() as diag:
        assert Listening(diag).count() is None
        assert Listening(diag, pid=1 << 22).count() is None  # pids end below that (proc_sys_kernel(5), pid_max)


def test_what_it_counts_by_is_closed():
    before = os.listdir("/proc/self/fd")
    listening = Listening(sockdiag.open_diag(), pid=os.getpid())
    assert listening.count() is not None
    listening.count_no_more()
    assert len(os.listdir("/proc/self/fd")) == len(before) + 1
    assert listening.count() is not None
    listening.close()
    assert os.listdir("/proc/self/fd") == before


def test_a_socket_of_another_kind_is_refused():
    with socket.socket() as tcp, pytest.raises(KernelError):
        Listening(tcp)


def test_a_socket_of_another_namespace_is_refused():
    with sockdiag.open_diag() as diag:
        cookie = sockdiag.netns_cookie(diag)
        Listening(diag, cookie=cookie)
        with pytest.raises(KernelError):
            Listening(diag, cookie=cookie + 1)
