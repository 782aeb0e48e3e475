"""Names on the way out, in an Internet of the test's own: what a list by name gives, and every way to lie about one."""

import json
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon.test_egress import ASK, DENIED
from tests.daemon.world import World, run_world

SITE, OTHER, SITE6, PRIVATE = "93.184.216.34", "93.184.216.35", "2606:2800:220:1::34", "10.9.9.9"
PLACES = [
    *[("tcp", address, port) for address in (SITE, OTHER) for port in (80, 443)],
    *[("tcp", SITE6, 80), ("tcp", PRIVATE, 80), ("tcp", "169.254.169.254", 80), ("udp", SITE, 5353)],
]
UDP = """
import socket, sys
def ask(address, port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(20)
        try:
            sock.connect((address, port))
            sock.send(bytes.fromhex(sys.argv[1]))
            return sock.recv(4096).hex()
        except OSError as error:
            return type(error).__name__
print(ask("8.8.8.8", 53), ask("93.184.216.34", 5353))
"""
TLS = """
import socket, ssl, sys
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
for name in sys.argv[2:]:
    try:
        with socket.create_connection((sys.argv[1], 443), 20) as sock:
            with context.wrap_socket(sock, server_hostname=name or None) as tls:
                print(tls.recv(100).decode())
    except OSError as error:
        print(type(error).__name__)
"""


def says(text: bytes) -> Callable[[socket.socket], None]:
    """A server that reads to the end, and says who it is."""

    def handle(connection: socket.socket) -> None:
        while connection.recv(65536):
            continue
        connection.sendall(text)

    return handle


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate in one file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    if shutil.which("openssl"):
        argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=x"]
        key, cert = path.with_name("key"), path.with_name("cert")
        subprocess.run([*argv, "-keyout", key, "-out", cert], check=True, capture_output=True)
        path.write_bytes(key.read_bytes() + cert.read_bytes())
    return path


@pytest.fixture(scope="module")
def world(certificate: Path) -> Iterator[World]:
    """Two sites, a private server, and the address where clouds give credentials away."""
    from tests.require import require

    require("userns", "unprivileged", "nft", "ipv6")
    for made in run_world(*PLACES):
        for address in (SITE, OTHER, SITE6, PRIVATE, "169.254.169.254"):
            made.serve(address, 80, says(address.encode()))
        made.names |= {
            "site.example": [SITE],
            "other.example": [OTHER],
            "both.example": [SITE6, SITE],
            "six.example": [SITE6],
            "rebound.example": [PRIVATE],
            "credentials.example": ["169.254.169.254"],
            "looped.example": ["127.0.0.1"],
            "mixed.example": [PRIVATE, SITE],
        }
        if certificate.exists():
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)

            def secure(connection: socket.socket, context: ssl.SSLContext = context) -> None:
                with context.wrap_socket(connection, server_side=True) as tls:
                    tls.sendall(b"secret")

            made.serve(SITE, 443, secure)
        yield made


@pytest.fixture
def inside(world: World, tmp_path: Path) -> Callable[..., str]:
    """What a Python program in an env with that way out prints."""

    def run(egress: str, code: str, *words: str) -> str:
        argv = ["run", "--rm", "--egress", egress, "--", "/usr/bin/python3", "-c", code, *words]
        return world.daemon.sandbox(*argv, cwd=tmp_path).stdout

    return run


@pytest.fixture
def asked(inside: Callable[..., str]) -> Callable[..., dict[str, str]]:
    """What came of connecting to each place in turn."""

    def ask(egress: str, *places: str) -> dict[str, str]:
        found: dict[str, str] = json.loads(inside(egress, ASK, *places))
        return found

    return ask


def test_the_internet_is_open_and_nothing_private_is(asked) -> None:
    names = ["rebound.example:80", "credentials.example:80", "looped.example:80", "no.such.example:80"]
    found = asked("open", "site.example:80", f"{OTHER}:80", "six.example:80", f"{PRIVATE}:80", "169.254.169.254:80", *names)
    assert (found["site.example:80"], found[f"{OTHER}:80"], found["six.example:80"]) == (SITE, OTHER, SITE6)
    assert {found[f"{PRIVATE}:80"], found["169.254.169.254:80"]} <= DENIED
    assert {found[name] for name in names} == {"no name"}


def test_what_is_private_is_reached_when_it_is_listed(asked) -> None:
    found = asked("open,lan", f"{PRIVATE}:80", "rebound.example:80", "169.254.169.254:80", "credentials.example:80")
    assert (found[f"{PRIVATE}:80"], found["rebound.example:80"]) == (PRIVATE, PRIVATE)
    assert found["169.254.169.254:80"] in DENIED
    assert found["credentials.example:80"] == "no name"
    assert asked("169.254.169.254", "169.254.169.254:80")["169.254.169.254:80"] == "169.254.169.254"


def test_a_name_gives_its_addresses_once_it_was_asked_for(asked, world) -> None:
    """An address alone is none of the name's until then, and a name beside it never is."""
    found = asked("site.example", f"{SITE}:80", "site.example:80", f"{OTHER}:80", "other.example:80")
    assert found["site.example:80"] == SITE
    assert {found[f"{SITE}:80"], found[f"{OTHER}:80"]} <= DENIED
    assert found["other.example:80"] == "no name"
    assert "other.example" not in world.asked[-3:], "what no rule gives is not even asked for"
    assert asked("*.example:80", "both.example:80")["both.example:80"] in (SITE, SITE6)
    assert asked("*.example:443", "site.example:80")["site.example:80"] in DENIED


def test_a_name_must_not_lead_to_what_is_private(asked) -> None:
    found = asked("*.example", "rebound.example:80", "credentials.example:80", "looped.example:80", "mixed.example:80")
    assert found.pop("mixed.example:80") == SITE
    assert set(found.values()) == {"no name"}
    assert asked("*.example,10.9.0.0/16", "rebound.example:80")["rebound.example:80"] == PRIVATE


def test_tls_must_ask_for_the_name_that_was_given(inside, require) -> None:
    require("openssl")
    assert inside("site.example", TLS, "site.example", "site.example", "other.example", "").split("\n")[:3] == [
        "secret",
        "ConnectionResetError",
        "secret",
    ]
    assert inside(f"{SITE},site.example", TLS, SITE, "other.example").strip() == "secret", "an address gives all of it"


def test_no_other_family_is_a_side_door(asked) -> None:
    """A name's IPv4 address given, neither IPv6 nor IPv4 in its clothes leads elsewhere; `open` has all of them."""
    doors = [f"{SITE6}:80", f"::ffff:{OTHER}:80"]
    found = asked("site.example", *doors, "six.example:80", "site.example:80")
    assert found.pop("site.example:80") == SITE
    assert found.pop("six.example:80") == "no name"
    assert set(found.values()) <= DENIED
    assert asked("open", *doors) == {doors[0]: SITE6, doors[1]: OTHER}


def test_datagrams_carry_names_and_nothing_else(inside, world, tmp_path) -> None:
    query = "abcd01000001000000000000" + "0b" + b"tunnel-data".hex() + "07" + b"example".hex() + "00" + "00100001"
    name, other = inside("site.example", UDP, query).split()
    assert name.startswith("abcd8183"), "answered here, whatever server was meant: no such name"
    assert other in {"PermissionError", "ConnectionRefusedError"}
    assert "tunnel-data.example" not in world.asked
    known = query.replace("0b" + b"tunnel-data".hex(), "04" + b"site".hex()).replace("00100001", "00010001")
    assert inside("site.example", UDP, known).split()[0].endswith(socket.inet_aton(SITE).hex()), "what a rule gives is answered"
    # Without the rules the question goes out, and without a network of its own so does the datagram.
    inside("open", UDP, query)
    assert "tunnel-data.example" in world.asked
    server = world.sockets["udp", SITE, 5353]
    answering = threading.Thread(target=lambda: server.sendto(b"leaked", server.recvfrom(4096)[1]), daemon=True)
    answering.start()
    only = UDP.replace('ask("8.8.8.8", 53), ', "")  # nobody is there to answer in this network
    argv = ["run", "--rm", "--network", "host", "--", "/usr/bin/python3", "-c", only, query]
    assert world.daemon.sandbox(*argv, cwd=tmp_path).stdout.strip() == b"leaked".hex()
    answering.join(30)


def test_what_was_denied_says_what_would_allow_it_and_is_allowed_live(world, tmp_path) -> None:
    sandbox = world.daemon.sandbox
    sandbox("run", "-d", "--name", "live", "--egress", "site.example", "--", "sleep", "1000", cwd=tmp_path)
    try:
        argv = ["exec", "live", "/usr/bin/python3", "-c", ASK]
        assert json.loads(sandbox(*argv, "other.example:80", cwd=tmp_path).stdout) == {"other.example:80": "no name"}
        assert json.loads(sandbox(*argv, "site.example:80", cwd=tmp_path).stdout) == {"site.example:80": SITE}
        rows = world.daemon.json("net", "live")
        assert [row["state"] for row in rows] == ["closed", "denied"], rows
        denied = rows[1]
        assert (denied["name"], denied["allow"]) == ("other.example", "other.example")
        closed = next(row for row in rows if row["name"] == "site.example")
        assert (closed["address"], closed["rule"], closed["sent"], closed["received"]) == (SITE, "site.example", 5, len(SITE))
        assert "other.example" in sandbox("net", "live", "--allow", denied["allow"], cwd=tmp_path).stdout
        assert json.loads(sandbox(*argv, "other.example:80", cwd=tmp_path).stdout) == {"other.example:80": OTHER}
        refused = sandbox("net", "live", "--allow", "no such rule", cwd=tmp_path, check=False)
        assert refused.returncode != 0
        assert "no such rule" in refused.stderr
        sandbox("restart", "live", cwd=tmp_path)
        assert json.loads(sandbox(*argv, "other.example:80", cwd=tmp_path).stdout) == {"other.example:80": OTHER}
    finally:
        sandbox("rm", "-f", "live", cwd=tmp_path)
