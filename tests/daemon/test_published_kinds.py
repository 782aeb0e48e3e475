"""`-p unix:PATH:PORT` and `/tcp+proxy`, as a person types them."""

import subprocess
from pathlib import Path

from tests.daemons import Daemon
from tests.require import require
from tests.router.test_tunnels import free_port

# Answers each connection with what came first on it: a PROXY header where there is one.
FIRST_BYTES = """
import socket
listener = socket.create_server(("127.0.0.1", 3000))
while True:
    sock, _ = listener.accept()
    first = sock.recv(4096)
    body = first[:16].hex().encode()
    sock.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n%b" % (len(body), body))
    sock.close()
"""


def test_a_unix_socket_that_comes_and_goes_with_its_env(daemon: Daemon, tmp_path: Path) -> None:
    require("curl")
    port = free_port()
    published = ["-p", "unix:./shop.sock:3000", "-p", f"{port}:3000/tcp+proxy"]
    made = daemon.sandbox("run", "-d", "--name", "shop", *published, "--", "python3", "-c", FIRST_BYTES, cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert daemon.sandbox("wait", "shop", "--for", "ready", "--timeout", "30s").returncode == 0
    plain = curl("--unix-socket", str(tmp_path / "shop.sock"), "http://shop/")
    assert bytes.fromhex(plain) == b"GET / HTTP/1.1\r\n"
    told = curl(f"http://127.0.0.1:{port}/")
    assert bytes.fromhex(told) == b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"
    assert f"unix:{tmp_path}/shop.sock" in daemon.sandbox("ports", "shop").stdout
    again = daemon.sandbox("run", "-d", "--name", "other", *published[:2], "--", "sleep", "9", cwd=tmp_path, check=False)
    assert again.returncode == 125
    assert "it is being served" in again.stderr
    assert daemon.sandbox("rm", "-f", "shop").returncode == 0
    assert not (tmp_path / "shop.sock").exists()


def curl(*words: str) -> str:
    """What it prints."""
    done = subprocess.run(["curl", "-sS", "--max-time", "30", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
