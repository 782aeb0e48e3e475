"""A daemon of another version has the router become one of its version: no request, connection or published port is lost.

So of sandboxd.router.handover, sandboxd.router.process and sandboxd.router.master.
"""

import http.client
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from sandboxd.daemon.supervisor import MOST_ROUTERS
from sandboxd.protocol import messages as m
from sandboxd.spec import Network, Publish
from tests.daemon.asking import TWO_PARTS, inspect, remove, run
from tests.daemons import PATIENCE

WHOLE = b"firstlater"


def until(holds, what):
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.05)


def children(pid):
    """The router's workers, but for that of what goes out (see test_egress_upgrade)."""
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {pid for pid in pids if Path(f"/proc/{pid}/comm").read_text() != "sandboxd-egress\n"}


@pytest.fixture
def served(daemon, tmp_path):
    (tmp_path / "server.py").write_text(TWO_PARTS)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with daemon.client() as client:
        network = Network(publish=[Publish(host_port=port, port=3000)])
        run(client, ["python3", "server.py"], name="web", path=tmp_path, port=3000, network=network, wait="ready")
    yield daemon, port
    with daemon.client() as client:
        remove(client, "web")


def upgrade(daemon, version):
    """Another daemon, of that version, finds what this one leaves."""
    daemon.environ["SANDBOXD_LISTEN"] = f"127.0.0.1:{daemon.port}"
    daemon.environ["NEWER"] = version
    daemon.module = "tests.daemon.crash.newer"
    daemon.kill()
    daemon.start()


def raw(port):
    """The published port, asked as HTTP/1.0 is."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: sock.recv(4096), b""))


class Load:
    """Requests without end, each on a connection of its own and each on one that is kept; `failed` has what was not right."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.failed: list[object] = []
        self.count = 0
        self._over = threading.Event()
        works = (self._request, self._request, self._keep_alive, self._keep_alive)
        self._threads = [threading.Thread(target=work) for work in works]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE)

    def _request(self):
        while not self._over.is_set():
            try:
                assert self.daemon.request("web") == (200, WHOLE)
                self.count += 1
            except Exception as error:
                self.failed.append(error)

    def _keep_alive(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.daemon.port, timeout=PATIENCE)
        try:
            while not self._over.is_set():
                connection.request("GET", "/", headers={"Host": f"web.localhost:{self.daemon.port}"})
                answer = connection.getresponse()
                assert (answer.status, answer.read()) == (200, WHOLE)
                self.count += 1
        except Exception as error:
            self.failed.append(error)
        finally:
            connection.close()


def test_who_is_served_goes_on_and_nobody_is_refused(served, tmp_path):
    daemon, port = served
    with daemon.client() as client:
        before = client.call(m.Status())
        pid = inspect(client, "web").pid
    workers = children(before.router_pid)
    assert len(workers) == min(MOST_ROUTERS, len(os.sched_getaffinity(0)))  # one for each core, where nothing is said
    slow = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=2 * PATIENCE)
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as tunnel:
        tunnel.sendall(b"GET /slow HTTP/1.0\r\n\r\n")
        slow.request("GET", "/slow", headers={"Host": f"web.localhost:{daemon.port}"})
        answer = slow.getresponse()
        try:
            with Load(daemon) as load:
                for version in ("98.0", "99.0"):
                    upgrade(daemon, version)
                    assert raw(port).endswith(WHOLE)
        finally:
            (tmp_path / "go").touch()
        assert load.failed == []
        assert load.count > 0
        assert answer.read() == WHOLE  # begun under the first, ended under the third
        tunnel.settimeout(PATIENCE)
        assert b"".join(iter(lambda: tunnel.recv(4096), b"")).endswith(WHOLE)
    slow.close()
    with daemon.client() as client:
        after = client.call(m.Status())
        assert (after.router_pid, after.listen) == (before.router_pid, before.listen)
        assert inspect(client, "web").pid == pid
    until(lambda: not workers & children(before.router_pid), "the workers of the first have ended with their last connection")
    assert len(children(before.router_pid)) == len(workers)
    assert "becomes 99.0" in daemon.log()


def test_a_router_of_the_same_version_is_left_alone(served):
    daemon, _ = served
    with daemon.client() as client:
        before = client.call(m.Status()).router_pid
    workers = children(before)
    daemon.environ["SANDBOXD_LISTEN"] = f"127.0.0.1:{daemon.port}"
    daemon.kill()
    daemon.start()
    with daemon.client() as client:
        assert client.call(m.Status()).router_pid == before
    assert children(before) == workers


def test_a_new_routers_worker_that_dies_is_replaced(served):
    """The new program forks its own, from its own image."""
    daemon, port = served
    upgrade(daemon, "99.0")
    with daemon.client() as client:
        router = client.call(m.Status()).router_pid
    until(lambda: daemon.request("web") == (200, WHOLE), "served")
    first = children(router)
    for pid in first:
        with suppress(ProcessLookupError):  # the first router's workers end by themselves
            os.kill(int(pid), signal.SIGKILL)
    until(lambda: len(children(router) - first) >= 1, "others")
    assert daemon.request("web") == (200, WHOLE)
    assert raw(port).endswith(WHOLE)
