"""TLS through the router's own address, by the name in its hello: Python's ssl, openssl and curl as clients.

So of sandboxd.router.secure and sandboxd.routing.hello.
"""

import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sandboxd.routing.hello import ACCESS_DENIED, INTERNAL_ERROR, UNRECOGNIZED_NAME, alert
from tests.require import require
from tests.router.standin import Bench, Standin
from tests.router.talk import Talk
from tests.unit.routing.test_hello import in_records, real

# Answers with what it agreed on; a thread to a connection.
SERVER = """
import http.server, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = f"{sys.argv[2]} {self.connection.selected_alpn_protocol()} {self.headers['Host']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
context.set_alpn_protocols(["http/1.1"])
server = http.server.ThreadingHTTPServer(("127.0.0.1", 3000), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for every name under localhost, with its key."""
    require("openssl")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "9"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:shop.localhost,DNS:blog.localhost"]
    subprocess.run([*command, "-keyout", str(path) + ".key", "-out", str(path)], check=True, capture_output=True)
    with path.open("a") as file:
        file.write(Path(str(path) + ".key").read_text())
    return path


@pytest.fixture
def env(certificate: Path, standin: Callable[..., Standin]) -> Callable[[str], Standin]:
    """Make an env with a TLS server."""
    return lambda name: standin(name, serve=(), run=[sys.executable, "-c", SERVER, str(certificate), name])


def wrapped(bench: Bench, certificate: Path, name: str | None = "shop.localhost") -> ssl.SSLSocket:
    """A TLS connection through the router; raises ssl.SSLError, OSError."""
    context = ssl.create_default_context(cafile=str(certificate))
    context.check_hostname = name is not None
    context.set_alpn_protocols(["h2", "http/1.1"])
    sock = bench.connect()
    try:
        return context.wrap_socket(sock, server_hostname=name)
    except BaseException:
        sock.close()
        raise


def until_up(bench: Bench, certificate: Path, name: str = "shop.localhost") -> None:
    """Until the server inside is up; before, the router says that it cannot be reached."""
    for _ in range(600):
        try:
            wrapped(bench, certificate, name).close()
        except ssl.SSLError:
            bench.spin(0.05)
        else:
            return
    raise AssertionError("the server inside did not come up")


def test_each_name_leads_to_its_env_and_alpn_is_the_services(
    bench: Bench, env: Callable[[str], Standin], certificate: Path
) -> None:
    envs = [env(name) for name in ("shop", "blog")]
    bench.push([one.endpoint() for one in envs])
    for name in ("shop", "blog"):
        until_up(bench, certificate, f"{name}.localhost")
        with wrapped(bench, certificate, f"{name}.localhost") as sock:
            assert sock.selected_alpn_protocol() == "http/1.1"
            talk = Talk(sock)
            for _ in range(2):
                assert talk.get(host="whatever").body.decode() == f"{name} http/1.1 whatever"
            talk.file.close()


def test_curl_and_openssl(bench: Bench, env: Callable[[str], Standin], certificate: Path) -> None:
    require("curl", "openssl")
    bench.push([env("shop").endpoint()])
    until_up(bench, certificate)
    address = f"shop.localhost:{bench.port}"
    command = ["curl", "-sS", "--max-time", "30", "--cacert", str(certificate), "--resolve", f"{address}:127.0.0.1"]
    done = subprocess.run([*command, f"https://{address}/"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"shop http/1.1 {address}"), done.stderr
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{bench.port}", "-servername", "shop.localhost", "-quiet"]
    command += ["-verify_quiet", "-CAfile", str(certificate), "-verify_return_error"]
    asked = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False, timeout=60)
    assert "shop None a" in done.stdout, done.stderr


@pytest.mark.parametrize("name", [None, "nobody.localhost"])
def test_no_name_and_an_unknown_one_are_told_so(bench: Bench, shop: Standin, certificate: Path, name: str | None) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized name"):
        wrapped(bench, certificate, name)
    with bench.connect() as sock:
        sock.sendall(real(name))
        assert sock.recv(100) == alert(UNRECOGNIZED_NAME)
        assert sock.recv(100) == b""


def test_who_may_not_and_what_cannot(bench: Bench, standin: Callable[..., Standin]) -> None:
    one = standin("shop", serve=())
    for changes, told in (
        ({"owner": os.getuid() + 1}, ACCESS_DENIED),
        ({}, INTERNAL_ERROR),  # nothing listens
        ({"port": None}, INTERNAL_ERROR),
        ({"state": "stopped"}, INTERNAL_ERROR),
        ({"state": "failed"}, INTERNAL_ERROR),
    ):
        bench.push([one.endpoint(**changes)])
        with bench.connect() as sock:
            sock.sendall(real("shop.localhost"))
            assert sock.recv(100) == alert(told), changes
            assert sock.recv(100) == b""


def test_a_hello_in_pieces_and_small_records_arrives_as_it_was_sent(bench: Bench, standin: Callable[..., Standin]) -> None:
    bench.push([standin("shop", serve=[("echo", "127.0.0.1", 3000)]).endpoint()])
    data = in_records(real("shop.localhost"), 50)
    with Talk(bench.connect()) as talk:
        for at in range(0, len(data), 40):
            talk.send(data[at : at + 40])
            bench.spin(0.005)
        assert talk.file.read(len(data)) == data
        talk.send(b"and on")
        assert talk.file.read(6) == b"and on"
        talk.sock.shutdown(socket.SHUT_WR)
        assert talk.file.read() == b"<end>"


def test_a_hello_wakes_an_env_and_waits(bench: Bench, standin: Callable[..., Standin]) -> None:
    one = standin("shop", serve=[("echo", "127.0.0.1", 3000)])
    woken: list[str] = []
    bench.handle.on_wake = woken.append
    bench.push([one.endpoint(state="asleep")])
    data = real("shop.localhost")
    with Talk(bench.connect()) as talk:
        talk.send(data)
        while not woken:
            bench.spin(0.02)
        assert woken == [one.env_id]
        bench.push([one.endpoint(state="starting")])
        bench.push([one.endpoint()])
        assert talk.file.read(len(data)) == data


def test_a_hello_that_does_not_come_to_its_end(start: Callable[..., Bench], standin: Callable[..., Standin]) -> None:
    bench = start(head=0.3)
    bench.push([standin("shop").endpoint()])
    with Talk(bench.connect()) as talk:
        talk.get()
    with Talk(bench.connect()) as talk:
        talk.send(real("shop.localhost")[:100])
        assert talk.at_end()
    with Talk(bench.connect()) as talk:
        talk.send(b"\x16\x03\x01\x40\x00" + b"\x01\x00\x3f\xfc" + bytes(9))
        assert talk.at_end()


def test_tls_in_the_place_of_a_second_request_is_none(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        assert talk.get().status == 200
        talk.send(real("shop.localhost"))
        assert talk.answer().status == 400
