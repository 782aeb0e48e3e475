"""Sites for real programs: what a registry, a forge, a mirror and a database say, as little of each as its client needs.

Threads of the test serve on sockets that were born in the world's network (see `world`).
"""

import base64
import hashlib
import http.server
import io
import json
import os
import pwd
import shutil
import socket
import ssl
import struct
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

NAME = "site.example"
HELLO = "hello from the site\n"
SSHD = """
HostKey {root}/host
AuthorizedKeysFile {root}/id.pub
UsePAM no
StrictModes no
PidFile none
LogLevel QUIET
"""


class Files(http.server.SimpleHTTPRequestHandler):
    """Files, without a word on stderr."""

    protocol_version = "HTTP/1.1"
    timeout = 60

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


class Web(http.server.ThreadingHTTPServer):
    """On a socket that listens already; with a certificate by TLS."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, root: Path, context: ssl.SSLContext | None) -> None:
        super().__init__(("", 0), partial(Files, directory=str(root)), bind_and_activate=False)
        self.socket.close()
        own = listener.dup()
        self.socket = own if context is None else context.wrap_socket(own, server_side=True, do_handshake_on_connect=False)
        self.thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away."""

    def end(self) -> None:
        """No more of it."""
        self.shutdown()
        self.thread.join()
        self.server_close()


def certificate(root: Path) -> ssl.SSLContext:
    """Of the site, which signs for itself; `root`/ca.pem is to be trusted."""
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={NAME}"]
    argv += ["-addext", f"subjectAltName=DNS:{NAME}", "-keyout", str(root / "key.pem"), "-out", str(root / "ca.pem")]
    subprocess.run(argv, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(root / "ca.pem", root / "key.pem")
    return context


def fill(root: Path) -> None:
    """What the web site has: a page, a repository, a Python and a Node package, and a mirror of one Debian package."""
    (root / "hello").write_text(HELLO)
    repository(root / "repo.git")
    wheel(root / "simple" / "demo")
    module(root / "npm")
    mirror = root / "apt"
    mirror.mkdir()
    (mirror / "Packages").write_text(
        "Package: demo\nVersion: 7.7\nArchitecture: all\nFilename: ./demo.deb\nSize: 1\n"
        f"SHA256: {'0' * 64}\nMaintainer: x <x@example>\nDescription: demo\n\n"
    )


def repository(bare: Path) -> None:
    """One commit, to be had over HTTP as files."""
    work = bare.with_name("work")
    who = ["-c", "user.name=x", "-c", "user.email=x@example", "-c", "init.defaultBranch=main"]
    environ = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    run = partial(subprocess.run, check=True, capture_output=True, env=environ)
    run(["git", *who, "init", "-q", str(work)])
    (work / "file").write_text(HELLO)
    run(["git", *who, "-C", str(work), "add", "file"])
    run(["git", *who, "-C", str(work), "commit", "-qm", "one"])
    run(["git", "clone", "-q", "--bare", str(work), str(bare)])
    run(["git", "-C", str(bare), "update-server-info"])
    shutil.rmtree(work)


def wheel(place: Path) -> None:
    """A package of PyPI's (PEP 427, 503)."""
    place.mkdir(parents=True)
    name = "demo-7.7-py3-none-any.whl"
    with zipfile.ZipFile(place / name, "w") as archive:
        archive.writestr("demo.py", "")
        archive.writestr("demo-7.7.dist-info/METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 7.7\n")
        archive.writestr(
            "demo-7.7.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("demo-7.7.dist-info/RECORD", "")
    (place / "index.html").write_text(f'<!DOCTYPE html><a href="{name}">{name}</a>')


def module(place: Path) -> None:
    """A package of npm's registry."""
    place.mkdir()
    packed = io.BytesIO()
    text = json.dumps({"name": "demo", "version": "7.7.0"}).encode()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        info = tarfile.TarInfo("package/package.json")
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text))
    (place / "demo.tgz").write_bytes(packed.getvalue())
    digest = base64.b64encode(hashlib.sha512(packed.getvalue()).digest()).decode()
    dist = {"tarball": f"https://{NAME}/npm/demo.tgz", "integrity": f"sha512-{digest}"}
    version = {"name": "demo", "version": "7.7.0", "dist": dist}
    (place / "demo").write_text(json.dumps({"name": "demo", "dist-tags": {"latest": "7.7.0"}, "versions": {"7.7.0": version}}))


def keys(root: Path) -> None:
    """Of the SSH server and of its one client."""
    for name in ("host", "id"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / name)], check=True, capture_output=True)
    (root / "sshd_config").write_text(SSHD.format(root=root))


def shell(root: Path) -> Callable[[socket.socket], None]:
    """An SSH server for one connection after another, as whoever runs it."""
    program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin") or "/usr/sbin/sshd"

    def handle(connection: socket.socket) -> None:
        connection.settimeout(None)
        argv = [program, "-i", "-f", str(root / "sshd_config")]
        subprocess.run(argv, stdin=connection, stdout=connection, stderr=subprocess.DEVNULL, timeout=60, check=False)

    return handle


def user() -> str:
    """Who the tests run as."""
    return pwd.getpwuid(os.getuid()).pw_name


def database(connection: socket.socket) -> None:
    """PostgreSQL's protocol 3.0: no TLS, no password, and every query has the answer 42."""

    def message(kind: bytes, body: bytes = b"") -> bytes:
        return kind + struct.pack("!i", 4 + len(body)) + body

    stream = connection.makefile("rb")
    ready = message(b"Z", b"I")
    while True:
        size, code = struct.unpack("!ii", stream.read(8))
        stream.read(size - 8)
        if code == 80877103:  # SSLRequest
            connection.sendall(b"N")
            continue
        break
    parameters = b"".join(message(b"S", text) for text in (b"server_version\x0015.0\0", b"client_encoding\0UTF8\0"))
    connection.sendall(message(b"R", struct.pack("!i", 0)) + parameters + ready)
    while kind := stream.read(1):
        stream.read(struct.unpack("!i", stream.read(4))[0] - 4)
        if kind == b"X":
            return
        column = struct.pack("!h", 1) + b"n\0" + struct.pack("!ihihih", 0, 0, 23, 4, -1, 0)
        row = struct.pack("!hi", 1, 2) + b"42"
        connection.sendall(message(b"T", column) + message(b"D", row) + message(b"C", b"SELECT 1\0") + ready)
