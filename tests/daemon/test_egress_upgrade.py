"""A daemon of another version has the worker of what goes out replaced, too: nobody is cut off, refused or asked again.

So of sandboxd.router.outgoing and sandboxd.router.bindings.
"""

import json
import socket
from collections.abc import Iterator

import psutil
import pytest

from tests.daemon.test_upgrade import until
from tests.daemon.world import World, run_world

SITE, OTHER = "93.184.216.34", "93.184.216.35"
# By address alone, again and again, while a name is asked for and one connection is kept.
STEADY = """
import json, os, socket, threading
def ask(sock):
    sock.settimeout(60)
    sock.sendall(b"hello")
    sock.shutdown(socket.SHUT_WR)
    return b"".join(iter(lambda: sock.recv(100), b"")).decode()
kept = socket.create_connection(("other.example", 80), 60)
kept.sendall(b"begun")
address = socket.getaddrinfo("site.example", 80, socket.AF_INET, socket.SOCK_STREAM)[0][4]
found, names = [], []
def resolve():
    while not os.path.exists("stop"):
        names.append(socket.gethostbyname("site.example"))
asking = threading.Thread(target=resolve)
asking.start()
while not os.path.exists("stop"):
    try:
        with socket.create_connection(address, 60) as sock:
            found.append(ask(sock))
    except OSError as error:
        found.append(repr(error))
    if len(found) == 3:
        open("ready", "w").close()
asking.join()
print(json.dumps([sorted(set(found)), sorted(set(names)), ask(kept)]))
"""


@pytest.fixture
def world(require) -> Iterator[World]:
    """One of its own: its daemon is replaced."""
    require("userns", "unprivileged", "nft")
    for made in run_world(("tcp", SITE, 80), ("tcp", OTHER, 80)):
        made.names |= {"site.example": [SITE], "other.example": [OTHER]}
        for address in (SITE, OTHER):

            def handle(connection: socket.socket, address: str = address) -> None:
                connection.settimeout(300)
                while connection.recv(65536):
                    continue
                connection.sendall(address.encode())

            made.serve(address, 80, handle)
        yield made


def workers(router: int) -> set[int]:
    """Those of what goes out."""
    return {child.pid for child in psutil.Process(router).children() if child.name() == "sandboxd-egress"}


def test_who_goes_out_goes_on_while_the_worker_is_replaced(world, tmp_path) -> None:
    """What an address was told for is known to the next; connections that were there end where they began."""
    daemon = world.daemon
    argv = ["run", "-d", "--name", "steady", "--egress", "site.example,other.example", "--", "/usr/bin/python3", "-c", STEADY]
    daemon.sandbox(*argv, cwd=tmp_path)
    until((tmp_path / "ready").exists, "it asks")
    router = int(daemon.json("daemon", "status")[0]["router_pid"])
    before = workers(router)
    begun = [row["number"] for row in daemon.json("net", "steady") if row["name"] == "other.example"]
    daemon.environ |= {"SANDBOXD_LISTEN": f"127.0.0.1:{daemon.port}", "WORLD_PID": str(router), "NEWER": "99.0"}
    try:
        daemon.kill()
        daemon.start()
        until(lambda: workers(router) - before, "another worker")
        count = len(world.asked)
        until(lambda: len(world.asked) > count, "it answers")
        rows = daemon.json("net", "steady")
    finally:
        (tmp_path / "stop").touch()
    daemon.sandbox("wait", "--for", "stopped", "steady")
    found, names, kept = json.loads(daemon.sandbox("logs", "steady").stdout)
    assert (found, names, kept) == ([SITE], [SITE], OTHER)
    until(lambda: not workers(router) & before, "that of before ends with its last connection")
    assert len(workers(router)) == 1
    assert [row["number"] for row in rows if row["name"] == "other.example" and row["state"] == "open"] == begun
