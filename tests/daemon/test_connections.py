"""What the router is told by settings and limits, as a user sees it: `--max-connections`, and SANDBOXD_ACCESS_LOG."""

import http.client
import json
import time
from pathlib import Path
from typing import Any

import pytest

from sandboxd.protocol import messages as m
from tests.daemon.asking import SERVER, inspect
from tests.daemon.test_metrics import numbers
from tests.daemons import PATIENCE, Daemon

# Answers one request a connection; /slow when its next one comes.
PROGRAM = """
import socket, threading
listener = socket.create_server(("127.0.0.1", 3000))
go = threading.Event()
def serve(sock):
    head = sock.recv(65536)
    if b"/slow" in head:
        go.wait()
    if b"/go" in head:
        go.set()
    sock.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nConnection: close\\r\\n\\r\\nok")
    sock.close()
while True:
    threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()
"""


def seen(client: Any, name: str, value: float) -> None:
    """Until the daemon's metrics say so of the env."""
    deadline = time.monotonic() + PATIENCE
    while numbers(client.call(m.Metrics()).text).get((name, "shop")) != value:
        assert time.monotonic() < deadline, f"{name} was never {value}"
        time.sleep(0.1)  # the router tells once a second, and nobody is told of that


def test_requests_past_the_bound_wait_in_line_and_the_bound_can_be_changed(tmp_path: Path) -> None:
    daemon = Daemon(SANDBOXD_CONNECTION_QUEUE="1").start()
    try:
        ran = daemon.sandbox(
            *("run", "-d", "--wait", "--name", "shop", "-p", "3000", "--max-connections", "1", "python3", "-c", PROGRAM),
            cwd=tmp_path,
        )
        assert ran.returncode == 0, ran.stderr
        with daemon.client() as client:
            found = inspect(client, "shop")
            assert (found.limits["max_connections"], found.limits_enforced["max_connections"]) == (1, "router")
            slow = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE)
            slow.request("GET", "/slow", headers={"Host": "shop.localhost"})
            seen(client, "sandboxd_env_connections", 1)
            waits = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=PATIENCE)
            waits.request("GET", "/go", headers={"Host": "shop.localhost"})
            seen(client, "sandboxd_env_queued_requests", 1)
            status, body = daemon.request("shop")
            assert status == 503
            assert b"sandbox update --max-connections 2 shop" in body
            seen(client, "sandboxd_env_refused_requests_total", 1)
            told = daemon.sandbox("why", "shop").stdout
            assert "(max_connections = 1): 1 wait for one, 1 were answered 503 instead" in told
            assert daemon.sandbox("update", "--max-connections", "2", "shop").returncode == 0
            assert waits.getresponse().status == 200
            assert slow.getresponse().status == 200
            assert inspect(client, "shop").limits["max_connections"] == 2
            slow.close()
            waits.close()
    finally:
        daemon.close()


def test_the_access_log_is_where_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    (tmp_path / "index.html").write_text("hello")
    daemon = Daemon(SANDBOXD_ACCESS_LOG=str(path)).start()
    try:
        ran = daemon.sandbox("run", "-d", "--wait", "--name", "shop", "-p", "3000", *SERVER, "3000", cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        assert daemon.request("shop")[0] == 200
        deadline = time.monotonic() + PATIENCE
        while not path.exists() or not path.read_bytes():
            assert time.monotonic() < deadline, "no line came"
            time.sleep(0.05)
        found = json.loads(path.read_bytes().splitlines()[0])
        assert (found["env"], found["service"], found["status"]) == ("shop", "main", 200)
        assert found["host"] == f"shop.localhost:{daemon.port}"
    finally:
        daemon.close()


@pytest.mark.parametrize("name", ["none/log", "."])
def test_a_log_that_cannot_be_written_is_told_of_at_the_start(tmp_path: Path, name: str) -> None:
    daemon = Daemon(SANDBOXD_ACCESS_LOG=f"{tmp_path}/{name}")
    try:
        with pytest.raises(AssertionError, match="SANDBOXD_ACCESS_LOG"):
            daemon.start()
    finally:
        daemon.abandon()
