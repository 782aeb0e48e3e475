"""The way out of an env, by real programs: what the rules give works, all else is refused at once.

Of `sandboxd.router.egress`, `sandboxd.router.outlet`, `sandboxd.router.ways` and `sandboxd.daemon.passing`.
"""

import contextlib
import errno
import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from sandboxd.router.outlet import MOST_PASSAGES
from tests.daemon.asking import TWO_PARTS, until
from tests.daemons import cli

ASK = """
import errno, json, socket, sys
found = {}
for place in sys.argv[1:]:
    host, _, port = place.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), 20) as sock:
            sock.settimeout(20)
            sock.sendall(b"hello")
            sock.shutdown(socket.SHUT_WR)
            found[place] = sock.makefile("rb").read().decode()
    except socket.gaierror as error:
        found[place] = "no name"
    except OSError as error:
        found[place] = errno.errorcode.get(error.errno, str(error))
print(json.dumps(found))
"""
DENIED = {"ECONNRESET", "ECONNREFUSED", "EPIPE"}


class Echo:
    """A server of the host's loopback: what it is told, it says, and ends."""

    def __init__(self) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        """Until it is closed."""
        while True:
            try:
                connection, _ = self.sock.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"echo " + connection.makefile("rb").read())

    def close(self) -> None:
        """End."""
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self.thread.join()


@pytest.fixture
def echo() -> Iterator[Echo]:
    """One server."""
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def asked(shared_daemon, require, tmp_path) -> Callable[..., dict[str, str]]:
    """What came of connecting to each place, from an env with that way out."""
    require("nft")

    def ask(egress: str, *places: str) -> dict[str, str]:
        chosen = ["--egress", egress] if egress else []
        argv = ["run", "--rm", *chosen, "--", "/usr/bin/python3", "-c", ASK, *places]
        found: dict[str, str] = json.loads(shared_daemon.sandbox(*argv, cwd=tmp_path).stdout)
        return found

    return ask


def test_the_host_is_reached_by_its_word_only(asked, echo) -> None:
    place, name = f"198.51.100.1:{echo.port}", f"host.sandbox.internal:{echo.port}"
    assert asked(f"host:{echo.port}", place, name) == {place: "echo hello", name: "echo hello"}
    for egress in ("", "open", "lan", "host:1", f"host,!host:{echo.port}", "127.0.0.0/8"):
        found = asked(egress, place, f"127.0.0.1:{echo.port}")
        assert set(found.values()) <= DENIED, egress


def test_nobody_there_is_refused(asked) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert asked("host", f"198.51.100.1:{port}")[f"198.51.100.1:{port}"] in DENIED


def test_what_no_rule_gives_is_refused_at_once(asked) -> None:
    places = [
        "93.184.216.34:443",
        "10.0.0.1:80",
        "169.254.169.254:80",
        "198.18.83.67:15001",
        "198.18.83.66:80",
        "[2606:2800::1]:443",
    ]
    found = asked("127.0.0.1:9", *[place.replace("[", "").replace("]", "") for place in places])
    assert set(found.values()) <= DENIED


def test_names_that_no_rule_gives_are_not_asked_for(asked) -> None:
    found = asked("host", "tunnel.example:80", "localhost:1")
    assert found["tunnel.example:80"] == "no name"
    assert found["localhost:1"] == "ECONNREFUSED"


def test_the_router_is_not_to_be_had(asked, shared_daemon) -> None:
    """Behind it are other envs."""
    place = f"198.51.100.1:{shared_daemon.port}"
    assert asked("host", place)[place] in DENIED


def egress_worker(keeper: int) -> psutil.Process:
    """The process of `sandboxd.router.egress`."""
    return next(one for one in psutil.Process(keeper).children(recursive=True) if one.cmdline()[:1] == ["sandboxd-egress"])


def test_a_worker_that_is_killed_is_replaced_and_nobody_notices(shared_daemon, require, echo, tmp_path) -> None:
    """Its listeners are the init's: what connects meanwhile waits in their queue."""
    require("nft")
    place = f"198.51.100.1:{echo.port}"
    shared_daemon.sandbox("run", "-d", "--name", "long", "--egress", "host", "--", "sleep", "1000", cwd=tmp_path)
    try:
        for _ in range(3):
            argv = ["exec", "long", "/usr/bin/python3", "-c", ASK, place]
            assert json.loads(shared_daemon.sandbox(*argv, cwd=tmp_path).stdout) == {place: "echo hello"}
            egress_worker(shared_daemon.keeper.process.pid).kill()
    finally:
        shared_daemon.sandbox("rm", "-f", "long", cwd=tmp_path)


def test_a_service_of_the_host_is_at_the_envs_own_loopback(shared_daemon, require, echo, tmp_path) -> None:
    """By `sandboxd.router.forwarded`, from before the first program runs; without any way out beside it."""
    inside = [echo.port, 15432, 15433]
    with socket.socket(socket.AF_UNIX) as listener:
        path = str(tmp_path / "s.sock")
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=serve_one, args=(listener,))
        thread.start()
        entries = [str(echo.port), f"15432:{echo.port}", f"15433:unix:{path}"]
        places = [f"{host}:{port}" for port in inside[:2] for host in ("127.0.0.1", "localhost")] + ["127.0.0.1:15433"]
        flags = ["--egress", "none", *[word for entry in entries for word in ("--forward", entry)]]
        argv = ["run", "--rm", *flags, "--", "/usr/bin/python3", "-c", ASK, *places, "127.0.0.1:15434", "198.51.100.1:80"]
        found = json.loads(shared_daemon.sandbox(*argv, cwd=tmp_path).stdout)
        thread.join()
    assert {place: found[place] for place in places[:4]} == dict.fromkeys(places[:4], "echo hello")
    assert found["127.0.0.1:15433"] == "by path"
    assert found["127.0.0.1:15434"] == "ECONNREFUSED", "what is not forwarded is the env's own"
    assert found["198.51.100.1:80"] == "ENETUNREACH", "and there is no other way out"


BY_PATH = """
import socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(sys.argv[1])
    sock.sendall(b"hello")
    sock.shutdown(socket.SHUT_WR)
    print(sock.makefile("rb").read().decode())
"""


def test_a_socket_of_the_host_is_at_its_own_path_inside(shared_daemon, require, tmp_path) -> None:
    """Also after a restart, and only where nothing of the host's is shown; without the forward nothing is there."""
    require("userns")
    with tempfile.TemporaryDirectory(prefix="fw", dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as listener:
        path = f"{folder}/below/s.sock"
        Path(path).parent.mkdir()
        listener.bind(path)
        listener.listen()
        run = ["run", "-d", "--name", "by-path", "--egress", "none", "--forward", f"unix:{path}", "--", "sleep", "1000"]
        shared_daemon.sandbox(*run, cwd=tmp_path)
        try:
            for again in (False, True):
                if again:
                    shared_daemon.sandbox("restart", "by-path")
                thread = threading.Thread(target=serve_one, args=(listener,))
                thread.start()
                argv = ["exec", "by-path", "/usr/bin/python3", "-c", BY_PATH, path]
                assert shared_daemon.sandbox(*argv, cwd=tmp_path).stdout == "by path\n"
                thread.join()
                rows = shared_daemon.json("net", "by-path")
                assert [(row["name"], row["rule"], row["sent"]) for row in rows] == [(path, f"forward {path}", 5)]
            assert os.listdir(folder) == ["below"]
            assert os.listdir(f"{folder}/below") == ["s.sock"], "nothing was made on the host"
        finally:
            shared_daemon.sandbox("rm", "-f", "by-path")
        argv = ["run", "--rm", "--egress", "none", "--", "/usr/bin/python3", "-c", BY_PATH, path]
        assert "FileNotFoundError" in shared_daemon.sandbox(*argv, cwd=tmp_path, check=False).stderr
    argv = ["run", "--rm", "--forward", f"unix:{tmp_path}/s.sock", "--", "true"]
    refused = shared_daemon.sandbox(*argv, cwd=tmp_path, check=False)
    assert refused.returncode == 125
    assert f"8080:unix:{tmp_path}/s.sock" in refused.stderr


def test_more_ports_than_are_handed_over_at_once(shared_daemon, require, echo, tmp_path) -> None:
    """Pid 1 hands its listeners over sixteen at a time, two of a port."""
    require("userns")
    ports = range(21000, 21020)
    flags = [word for port in ports for word in ("--forward", f"{port}:{echo.port}")]
    places = [f"{host}:{port}" for host in ("127.0.0.1", "::1") for port in (ports[0], ports[-1])]
    argv = ["run", "--rm", "--egress", "none", *flags, "--", "/usr/bin/python3", "-c", ASK, *places]
    assert json.loads(shared_daemon.sandbox(*argv, cwd=tmp_path).stdout) == dict.fromkeys(places, "echo hello")


def serve_one(listener: socket.socket) -> None:
    """One connection of a Unix socket."""
    connection, _ = listener.accept()
    with connection:
        connection.makefile("rb").read()
        connection.sendall(b"by path")


def test_a_forward_is_not_taken_for_the_envs_own_port(shared_daemon, require, echo, tmp_path) -> None:
    argv = ["run", "-d", "--name", "fw", "--forward", str(echo.port), "--", "sleep", "1000"]
    shared_daemon.sandbox(*argv, cwd=tmp_path)
    try:
        assert shared_daemon.json("ps", "--filter", "name=fw")[0]["ports"] == []
    finally:
        shared_daemon.sandbox("rm", "-f", "fw", cwd=tmp_path)


PROXY = """
import json, os, socket, sys
def told(words):
    with socket.create_connection(("127.0.0.1", int(os.environ["https_proxy"].rpartition(":")[2])), 20) as sock:
        sock.sendall(words)
        head = sock.recv(100)
        if not head.startswith((b"HTTP/1.1 200", b"\\5\\0")):
            return head.decode("latin-1").partition("\\r")[0]
        if head[0] == 5:
            sock.sendall(b"\\5\\1\\0\\1" + socket.inet_aton("198.51.100.1") + int(sys.argv[1]).to_bytes(2, "big"))
            head = sock.recv(100)
            if head[1]:
                return head[1]
        sock.sendall(b"hello")
        sock.shutdown(socket.SHUT_WR)
        return sock.makefile("rb").read().decode()
found = [told(b"CONNECT %s:%d HTTP/1.1\\r\\n\\r\\n" % (host, int(sys.argv[1])))
         for host in (b"198.51.100.1", b"host.sandbox.internal", b"10.0.0.1", b"a.example", b"..")]
found.append(told(b"\\5\\1\\0"))
try:
    socket.create_connection(("198.51.100.1", int(sys.argv[1])), 20)
except OSError as error:
    found.append(error.errno)
print(json.dumps(found))
"""


def test_by_proxy_the_same_rules_decide(shared_daemon, require, echo, tmp_path) -> None:
    """By `sandboxd.router.proxied`: no rules of the kernel are needed, and there is no other way."""
    require("userns")
    found = {}
    for egress in (f"proxy,host:{echo.port}", "proxy"):
        argv = ["run", "--rm", "--egress", egress, "--", "/usr/bin/python3", "-c", PROXY, str(echo.port)]
        found[egress] = json.loads(shared_daemon.sandbox(*argv, cwd=tmp_path).stdout)
    denied, unreachable = "HTTP/1.1 403 Forbidden", errno.ENETUNREACH
    *reached, nowhere, socks, direct = found[f"proxy,host:{echo.port}"]
    assert reached == ["echo hello", "echo hello", denied, denied]
    assert (nowhere, socks, direct) == (denied, "echo hello", unreachable)
    assert found["proxy"][:3] == [denied] * 3
    assert found["proxy"][-2:] == [2, unreachable]


INSIDE = """
import socket
listener = socket.create_server(("127.0.0.1", 5432))
while True:
    sock, _ = listener.accept()
    try:
        sock.sendall(b"inside")
    except OSError:
        pass  # whoever asked was cut off, with the listener that he came by
    sock.close()
"""


def test_a_port_of_an_env_is_at_this_machines_loopback_for_a_while(shared_daemon, require, tmp_path) -> None:
    """By `sandboxd.daemon.forwarding` and `sandboxd.cli.forward`; what the spec publishes stays when it ends."""
    require("userns")
    with socket.create_server(("127.0.0.1", 0)) as free:
        published = free.getsockname()[1]
    argv = ["run", "-d", "--wait", "--name", "db", "-p", f"{published}:5432", "--", "/usr/bin/python3", "-c", INSIDE]
    shared_daemon.sandbox(*argv, cwd=tmp_path)
    argv = [cli(), "forward", "db", "5432"]
    with subprocess.Popen(argv, env=shared_daemon.environ, stdout=subprocess.PIPE, text=True) as forward:
        try:
            assert forward.stdout is not None
            host, _, port = forward.stdout.readline().strip().rpartition(":")
            assert said(host, int(port)) == b"inside"
            taken = shared_daemon.sandbox("forward", "db", "5432", str(published), check=False)
            assert taken.returncode != 0
            assert str(published) in taken.stderr
            forward.send_signal(signal.SIGINT)
            assert forward.wait(30) == 0
        finally:
            forward.kill()
    until(lambda: not said(host, int(port)), "the listener is gone")
    assert said("127.0.0.1", published) == b"inside"
    shared_daemon.sandbox("rm", "-f", "db")
    assert shared_daemon.sandbox("forward", "db", "5432", check=False).returncode != 0


def said(host: str, port: int) -> bytes:
    """What it says; nothing where nobody listens."""
    try:
        with socket.create_connection((host, port), 20) as sock:
            sock.settimeout(20)
            return sock.recv(100)
    except (ConnectionRefusedError, ConnectionResetError):  # it was in the queue of a listener that was closed
        return b""


SEEN = """
import glob, json, socket, sys
own = socket.create_server(("127.0.0.1", 0)) if sys.argv[1] == "private" else None
seen = set()
for path in glob.glob("/proc/[0-9]*/net/tcp") + ["/proc/net/tcp"]:
    with open(path) as file:
        seen |= {int(line.split()[1].rpartition(":")[2], 16) for line in list(file)[1:]}
with open("/proc/net/unix") as file:
    paths = [line.split()[7] for line in file if len(line.split()) > 7]
print(json.dumps([own and own.getsockname()[1], sorted(seen), paths]))
"""


def test_the_connections_of_others_are_not_to_be_seen(shared_daemon, require, echo, tmp_path) -> None:
    """In what /proc tells of a network, for all processes that are seen: only the env's own."""
    require("userns")
    found = {}
    for network in ("private", "host"):
        argv = ["run", "--rm", "--network", network, "--", "/usr/bin/python3", "-c", SEEN, network]
        found[network] = json.loads(shared_daemon.sandbox(*argv, cwd=tmp_path).stdout)
    own, ports, paths = found["private"]
    assert own in ports
    assert not {echo.port, shared_daemon.port} & set(ports)
    assert not any("control.sock" in path for path in paths)
    _, ports, paths = found["host"]
    assert {echo.port, shared_daemon.port} <= set(ports)
    assert any("control.sock" in path for path in paths)


GREEDY = """
import resource, select, socket, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
poll, held = select.poll(), []
for _ in range(int(sys.argv[2])):
    held.append(socket.create_connection((sys.argv[3], int(sys.argv[1])), 60))
    poll.register(held[-1], 0)
over = poll.poll(int(sys.argv[4]))
with open("full", "w") as file:
    file.write(str(len(over)))
select.select([], [], [])
"""


def test_who_takes_all_connections_takes_none_of_a_neighbours(asked, shared_daemon, echo, tmp_path) -> None:
    """What is over is reset at once, by name, and not kept waiting. It takes twice 2,100 connections, so some seconds."""
    count = MOST_PASSAGES + 60
    with ExitStack() as stack:
        for name, how, place, wait in (("greedy", "", "198.51.100.1", 60_000), ("unbound", "host", "127.0.0.1", 0)):
            quiet = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=4096))
            port = str(quiet.getsockname()[1])
            work = tmp_path / name
            work.mkdir()
            os.mkfifo(work / "full")
            flags = ["--network", how] if how else ["--egress", f"host:{port}"]
            argv = ["run", "-d", "--name", name, *flags, "--", "/usr/bin/python3", "-c", GREEDY]
            shared_daemon.sandbox(*argv, port, str(count), place, str(wait), cwd=work)
        try:
            assert int((tmp_path / "greedy" / "full").read_text()) > 0
            assert int((tmp_path / "unbound" / "full").read_text()) == 0, "without the bound all of them stand"
            reasons = {row["reason"] for row in shared_daemon.json("net", "greedy") if row["state"] == "denied"}
            assert len(reasons) == 1
            assert reasons.pop().endswith(" connections are open at once already")
            place = f"198.51.100.1:{echo.port}"
            assert asked(f"host:{echo.port}", place) == {place: "echo hello"}
        finally:
            shared_daemon.sandbox("rm", "-f", "greedy", "unbound")


ITSELF = """
import errno, json, socket
def come(address, port):
    try:
        with socket.create_connection((address, port), 20) as sock:
            sock.settimeout(20)
            sock.sendall(b"x" * 100)
            while sock.recv(100):
                continue
            return "ok"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
found = {f"{address} {port}": come(address, port)
         for address, port in (("198.18.83.67", 15001), ("127.0.0.1", 15001))}
with socket.create_server(("198.18.83.67", 0)) as own, socket.create_connection(own.getsockname(), 20) as sock:
    found["own"] = "ok"
print(json.dumps(found))
"""


def test_the_relay_itself_is_no_place_to_go(asked, shared_daemon, echo, tmp_path) -> None:
    """Its listener is there, and refuses who was not led to it, whatever the rules; at its address the env's own may listen."""
    wide = f"open,lan,host,198.18.0.0/15,host:{echo.port}"
    argv = ["run", "--rm", "--egress", wide, "--", "/usr/bin/python3", "-c", ITSELF]
    found = json.loads(shared_daemon.sandbox(*argv, cwd=tmp_path).stdout)
    assert found.pop("own") == "ok"
    assert found.pop("127.0.0.1 15001") == "ECONNREFUSED", "it is nowhere else"
    assert set(found.values()) <= {"ECONNRESET", "EPIPE"}, "answered, and then reset: it is there"
    assert asked(wide, f"198.51.100.1:{echo.port}")[f"198.51.100.1:{echo.port}"] == "echo hello", "who is led there is served"


def test_who_is_connected_to_an_env_is_seen(shared_daemon, require, tmp_path) -> None:
    """By `sandboxd.router.inbound`: by name and by published port, and of no other env."""
    require("userns")
    with socket.create_server(("127.0.0.1", 0)) as free:
        published = free.getsockname()[1]
    argv = ["run", "-d", "--wait", "-p", f"{published}:3000", "-p", "3000", "--name", "seen"]
    shared_daemon.sandbox(*argv, "--", "/usr/bin/python3", "-c", TWO_PARTS, cwd=tmp_path)
    shared_daemon.sandbox("run", "-d", "--name", "other", "--", "sleep", "1000", cwd=tmp_path)
    try:
        raw = socket.create_connection(("127.0.0.1", published), 30)
        named = http.client.HTTPConnection("127.0.0.1", shared_daemon.port, timeout=30)
        with raw, contextlib.closing(named):
            raw.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert raw.recv(1)
            host = f"seen.localhost:{shared_daemon.port}"
            named.request("GET", "/", headers={"Host": host})
            assert named.getresponse().read() == b"firstlater"
            rows = {row["name"]: row for row in shared_daemon.json("net", "seen")}
            assert rows.keys() == {host, f"127.0.0.1:{published}"}
            for sock, row in ((raw, rows[f"127.0.0.1:{published}"]), (named.sock, rows[host])):
                assert row["address"] == f"127.0.0.1:{sock.getsockname()[1]}"
                assert (row["direction"], row["state"], row["port"]) == ("in", "open", 3000)
            assert rows[f"127.0.0.1:{published}"]["received"] == len("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (rows[f"127.0.0.1:{published}"]["rule"], rows[host]["rule"]) == ("tcp", "http, idle")
            assert shared_daemon.json("net", "other") == []
            assert host in shared_daemon.sandbox("net", "seen").stdout
        until(lambda: not shared_daemon.json("net", "seen"), "nobody is left")
    finally:
        shared_daemon.sandbox("rm", "-f", "seen", "other", cwd=tmp_path)
