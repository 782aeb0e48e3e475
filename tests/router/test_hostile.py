"""Loads that are meant to harm: slow, many, half-open, more than there are descriptors. Others are served meanwhile.

So of sandboxd.router.worker and sandboxd.router.listener. A router listens on the host's loopback unless said otherwise.
"""

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sandboxd.router.worker import MOST_OF_ONE, Router
from sandboxd.routing.framing import Bounds
from tests.require import require
from tests.router.standin import ROOT, Bench, Standin, rested, settle
from tests.router.talk import Talk

HEAD = b"GET / HTTP/1.1\r\nHost: shop.localhost\r\n"
POST = b"POST /digest HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 1000\r\n\r\n"


def test_slowloris(start: Callable[..., Bench], standin: Callable[..., Standin]) -> None:
    """Hundreds that feed a head, a body or a hello byte by byte: others are served, and each is given up in its time."""
    bench = start(head=1.0, stall=1.0)
    bench.push([standin("shop").endpoint()])
    before = rested(bench)
    begun = (HEAD, POST, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"\r\n")
    slow = [Talk(bench.connect()) for _ in range(200)]
    for number, talk in enumerate(slow):
        talk.send(begun[number % len(begun)])
    for _ in range(5):
        for talk in slow:
            try:
                talk.send(b"X" if talk.sock.fileno() % 2 else b"a")
            except OSError:
                continue  # given up already
        with Talk(bench.connect()) as other:
            assert other.get().status == 200
    for talk in slow:
        received = b""
        try:
            while piece := talk.sock.recv(65536):
                received += piece
        except ConnectionResetError:
            pass
        assert received[:12] in (b"HTTP/1.1 408", b"HTTP/1.1 400", b"", b"\x15\x03\x03\0\x02\x02\x32")
        talk.close()
    settle(bench, before + 20)


def test_a_worker_without_descriptors_says_so_and_goes_on(bench: Bench, shop: Standin) -> None:
    before = rested(bench)
    (pid,) = bench.workers()
    limit = max(bench.descriptors()) + 20
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
    idle = [bench.connect() for _ in range(60)]
    log = bench.directory / "router.log"
    while "no more connections are taken at 127.0.0.1" not in log.read_text():
        bench.spin(0.05)
    waiting = Talk(bench.connect())
    waiting.send(HEAD + b"\r\n")
    bench.spin(0.3)
    assert len(bench.descriptors()) <= limit  # it waits in the kernel's queue
    for sock in idle:
        sock.close()
    assert waiting.answer().status == 200
    waiting.close()
    settle(bench, before + 20)


def test_idle_connections_cost_next_to_nothing(bench: Bench, shop: Standin) -> None:
    """Measured by hand with 10,000: 1 kB of private memory each, and the same for the third ten thousand as for the first."""
    rested(bench)
    (pid,) = bench.workers()
    before = private_kilobytes(pid)
    count = min(1000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
    idle = [bench.connect() for _ in range(count)]
    with Talk(bench.connect()) as talk:
        assert talk.get().status == 200  # taken in turn: by now it has all of them
    assert private_kilobytes(pid) - before < 8 * count
    for sock in idle:
        sock.close()


def private_kilobytes(pid: int) -> int:
    """What the process has for itself."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def test_no_far_address_takes_what_all_others_need() -> None:
    """By default: a bound for other hosts' addresses, none for this one's, whose users share one address."""
    router = Router.__new__(Router)
    router.bounds, router._sources, router._most_of_one = Bounds(), {}, MOST_OF_ONE
    for source, admitted in (
        ("10.0.0.1", False),
        ("2001:db8::1", False),
        ("127.0.0.1", True),
        ("::1", True),
        ("unknown", True),
    ):
        router._sources[source] = MOST_OF_ONE - 1
        assert router.admits(source)
        router._sources[source] = MOST_OF_ONE
        assert router.admits(source) is admitted, source
    router.bounds = Bounds(per_source=MOST_OF_ONE)
    assert not router.admits("127.0.0.1")  # said is said
    router.bounds = Bounds(trusted=("10.0.0.0/8",))
    assert router.admits("10.0.0.1")


def test_a_router_on_a_unix_socket(tmp_path: Path, standin: Callable[..., Standin]) -> None:
    """Who connects is known by the kernel, as on loopback; the file is its owner's and goes with the router."""
    path = tmp_path / "http.sock"
    (tmp_path / "state").mkdir()
    bench = Bench(tmp_path / "state", listen=("127.0.0.1:0", f"unix:{path}"))
    try:
        assert bench.handle.listen[1] == f"unix:{path}"
        assert path.lstat().st_mode & 0o777 == 0o600
        shop = standin("shop")
        bench.push([shop.endpoint()])
        with Talk(near(path)) as talk:
            assert talk.get().body == b"shop 1\n"
            seen = talk.get("/show").body
            assert b"X-Forwarded-For: unknown\r\n" in seen
            assert b"Forwarded: for=unknown;proto=http;host=shop.localhost\r\n" in seen
            assert len(talk.get("/bytes?3000000").body) == 3_000_000
            talk.send(HEAD + b"\r\n")
            talk.sock.shutdown(socket.SHUT_WR)
            assert talk.answer().status == 200
            assert talk.at_end()
        hosted = shop.endpoint(env_id="b" * 32, name="blog", dial="", netns_cookie=0, init_pid=os.getpid())
        bench.push([shop.endpoint(), hosted])
        with Talk(near(path)) as talk:
            assert talk.get().status == 403  # we stand in for an env on the host's network
        bench.push([shop.endpoint(owner=os.getuid() + 1)])
        with Talk(near(path)) as talk:
            assert talk.get().status == 403
    finally:
        bench.close()
    assert not path.exists()


def near(path: Path) -> socket.socket:
    """A connection by the Unix socket."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(30)
    sock.connect(str(path))
    return sock


def test_half_open_connections_by_the_thousand() -> None:
    """In a network namespace of its own: SYNs from addresses that never answer, far more than the queue holds."""
    require("userns", "ip")
    command = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-m", "tests.router.flood"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=150)
    if "unshare" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    served, _, half_open = done.stdout.strip().splitlines()[-1].partition("; ")
    assert served == "served 20 of 20"
    assert int(half_open.split()[0]) > 100  # else it was no flood
