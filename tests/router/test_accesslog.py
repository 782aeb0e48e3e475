"""The access log: sandboxd.router.accesslog, and the connections of sandboxd.router.logged."""

import json
import os
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sandboxd.errors import UsageError
from sandboxd.router.accesslog import check
from sandboxd.routing.orders import Published
from tests.router.standin import ROOT, Bench, Standin
from tests.router.talk import Talk
from tests.router.test_tunnels import free_port
from tests.router.test_turns import until
from tests.unit.routing.test_hello import real

Start = Callable[..., Bench]
Make = Callable[..., Standin]
LEAST = 1 << 16


def entries(bench: Bench, path: Path, count: int) -> list[dict[str, Any]]:
    """What the log says, once it has so many entries; each line must be whole."""
    lines: list[bytes] = []
    for _ in range(1000):
        lines = path.read_bytes().splitlines() if path.exists() else []
        if len(lines) >= count:
            return [json.loads(line) for line in lines]
        bench.spin(0.02)
    raise AssertionError(f"{count} lines did not come: {lines}")


def test_each_request_is_one_line(start: Start, standin: Make, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    bench = start(access_log=str(path))
    shop = standin("shop")
    bench.push([shop.endpoint(), shop.endpoint(name="off", env_id="f" * 32, state="stopped")])
    with Talk(bench.connect()) as talk:
        port = talk.sock.getsockname()[1]
        sent = talk.get("/some/where?token=secret")
        assert sent.status == 200
        assert talk.get("/", "off.localhost").status == 503
        assert talk.get("/", "nobody.localhost").status == 404
        talk.send(b"BAD\r\n\r\n")
        assert talk.answer().status == 400
    first, stopped, unknown, bad = entries(bench, path, 4)
    assert (first["method"], first["host"], first["path"], first["protocol"]) == (
        *("GET", "shop.localhost", "/some/where", "HTTP/1.1"),
    )
    assert (first["client"], first["status"], first["held"]) == (f"127.0.0.1:{port}", 200, 0)
    assert (first["env"], first["id"], first["service"]) == ("shop", shop.env_id, "web")
    assert first["bytes"] == len(sent.head) + len(sent.body)
    assert 0 <= first["duration"] < 30
    assert (stopped["status"], stopped["env"]) == (503, "off")
    assert (unknown["status"], unknown["env"], unknown["host"]) == (404, "", "nobody.localhost")
    assert (bad["status"], bad["method"], bad["path"]) == (400, "", "")
    assert b"secret" not in path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_without_the_setting_there_is_none(start: Start, standin: Make, tmp_path: Path) -> None:
    bench = start()
    bench.push([standin("shop").endpoint()])
    with Talk(bench.connect()) as talk:
        assert talk.get().status == 200
    bench.spin(0.3)
    assert not list(tmp_path.rglob("*access*"))


def test_bytes_of_every_form_of_answer(start: Start, standin: Make, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    bench = start(access_log=str(path))
    bench.push([standin("shop").endpoint()])
    with Talk(bench.connect()) as talk:
        large = talk.get("/bytes?3000000")
        assert len(large.body) == 3_000_000
        empty = talk.get("/", method="HEAD")
        talk.send(b"POST / HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: 5\r\n\r\nhello" * 2)  # in one go
        posted = [talk.answer(), talk.answer()]
    found = entries(bench, path, 4)
    wanted = [len(one.head) + len(one.body) for one in (large, empty, *posted)]
    assert [entry["bytes"] for entry in found] == wanted
    assert [entry["method"] for entry in found] == ["GET", "HEAD", "POST", "POST"]


def test_how_long_it_was_held_and_who_went_away(start: Start, standin: Make, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    bench = start(access_log=str(path))
    shop = standin("shop")
    bench.push([shop.endpoint(state="starting")])
    with Talk(bench.connect()) as talk, Talk(bench.connect()) as gone:
        talk.send(b"GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
        bench.spin(0.3)
        bench.push([shop.endpoint()])
        assert talk.answer().status == 200
        (held,) = entries(bench, path, 1)
        assert held["duration"] >= held["held"] >= 0
        gone.send(b"GET /hang HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
        until(bench, shop, open=2)
        gone.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    _, left = entries(bench, path, 2)
    assert (left["path"], left["status"], left["bytes"], left["env"]) == ("/hang", 0, 0, "shop")


def test_raw_connections_tls_and_unix_sockets_are_written_down(start: Start, standin: Make, tmp_path: Path) -> None:
    path, near = tmp_path / "access.log", tmp_path / "near"
    bench = start(listen=["127.0.0.1:0", f"unix:{near}"], access_log=str(path))
    shop = standin("shop")
    bench.push([shop.endpoint(), shop.endpoint(name="off", env_id="f" * 32, state="stopped")])
    port = free_port()
    bench.run(
        bench.handle.publish(Published(address="127.0.0.1", host_port=port, env_id=shop.env_id, service="web", port=3000))
    )
    with Talk(socket.create_connection(("127.0.0.1", port), 30)) as talk:
        answer = talk.get("/secret")
        own = talk.sock.getsockname()[1]
    (raw,) = entries(bench, path, 1)
    assert (raw["protocol"], raw["client"], raw["env"], raw["service"]) == ("tcp", f"127.0.0.1:{own}", "shop", "web")
    assert (raw["method"], raw["path"], raw["status"]) == ("", "", 0)
    assert raw["bytes"] == len(answer.head) + len(answer.body)
    assert raw["duration"] >= raw["held"] >= 0
    for name in ("shop", "off"):
        with socket.create_connection(("127.0.0.1", bench.port), 30) as sock:
            sock.sendall(real(f"{name}.localhost"))
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):  # a service of HTTP's ends it, the router says why
                pass
    _, passed, refused = entries(bench, path, 3)
    assert (passed["protocol"], passed["host"], passed["env"]) == ("tls", "shop.localhost", "shop")
    assert (refused["protocol"], refused["host"], refused["env"], refused["bytes"]) == ("tls", "off.localhost", "off", 0)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(near))
        Talk(sock).get("/near")
    last = entries(bench, path, 4)[3]
    assert (last["client"], last["path"], last["status"]) == (f"unknown:{os.getpid()}", "/near", 200)


def test_hostile_values_stay_in_their_line(start: Start, standin: Make, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    bench = start(access_log=str(path))
    bench.push([standin("shop").endpoint()])
    with Talk(bench.connect()) as talk:
        talk.send(b'GET /"}{\\u0000"%0A?x HTTP/1.1\r\nHost: shop.localhost\r\n\r\n')
        talk.answer()
    with Talk(bench.connect()) as talk:
        talk.send(b"GET / HTTP/1.1\r\nHost: \x9b31m\xff\xfe\r\n\r\n")
        assert talk.answer().status == 400
    first, second = entries(bench, path, 2)
    assert first["path"] == '/"}{\\u0000"%0A'
    assert second["host"].isascii()
    assert all(32 <= byte < 127 or byte == 10 for byte in path.read_bytes())


def test_several_workers_write_whole_lines_and_the_last_ones_at_the_end(start: Start, standin: Make, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    bench = start(workers=2, access_log=str(path))
    bench.push([standin("shop").endpoint()])

    def ask(number: int) -> None:
        with Talk(bench.connect()) as talk:
            for step in range(10):
                assert talk.get(f"/{number}-{step}-{'x' * 500}").status == 200

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(30)))
    bench.run(bench.handle.stop())  # what it had not yet written is written then
    paths = [json.loads(line)["path"] for line in path.read_bytes().splitlines()]
    assert len(paths) == len(set(paths)) == 300


def test_a_log_that_was_moved_away_is_begun_anew(start: Start, standin: Make, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    bench = start(access_log=str(path))
    bench.push([standin("shop").endpoint()])
    with Talk(bench.connect()) as talk:
        talk.get("/one")
        assert [entry["path"] for entry in entries(bench, path, 1)] == ["/one"]
        path.rename(tmp_path / "moved")  # as logrotate does
        talk.get("/two")
        assert [entry["path"] for entry in entries(bench, path, 1)] == ["/two"]


# -- the file --------------------------------------------------------------------------------------------------------------


FILL = """
import sys
from sandboxd.router.accesslog import LogFile
file = LogFile(sys.argv[1], int(sys.argv[2]))
for number in range(200):
    file.write(f"{sys.argv[3]}-{number}-{'x' * 90}\\n".encode() * 5)
"""
REFUSED = """
import resource, signal, sys
from sandboxd.router.accesslog import LogFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (25, 25))
try:
    LogFile(sys.argv[1], int(sys.argv[2])).write(b"123456789\\n" * 3)
except OSError as error:
    print(error.strerror)
"""


def test_writers_of_several_processes_rotate_it_and_keep_its_bound(tmp_path: Path) -> None:
    path, before = tmp_path / "log", tmp_path / "log.1"
    writers = [subprocess.Popen([sys.executable, "-c", FILL, str(path), str(LEAST), name], cwd=ROOT) for name in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert path.stat().st_size <= LEAST
    assert LEAST // 2 < before.stat().st_size <= LEAST
    lines = before.read_text().splitlines() + path.read_text().splitlines()
    assert all(line.endswith("x" * 90) and line[0] in "abc" for line in lines)
    for name in "abc":  # what is left of each is in order, and its end is there or was left behind in order
        numbers = [int(line.split("-")[1]) for line in lines if line[0] == name]
        assert numbers == sorted(numbers)
    assert sorted(os.listdir(tmp_path)) == ["log", "log.1"]


def test_a_disk_that_is_full_leaves_whole_lines(tmp_path: Path) -> None:
    command = [sys.executable, "-c", REFUSED, str(tmp_path / "log"), str(LEAST)]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert told == "only 20 of 30 bytes were taken\n"
    assert (tmp_path / "log").read_bytes() == b"123456789\n" * 2


def test_only_a_file_will_do(tmp_path: Path) -> None:
    check("")
    check(str(tmp_path / "fine"))
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "fine")
    for name in ("fifo", "link", "none/log", "."):
        with pytest.raises(UsageError, match="SANDBOXD_ACCESS_LOG"):
            check(str(tmp_path / name))
