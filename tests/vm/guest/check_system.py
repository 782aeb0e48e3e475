"""The system's unit: root's daemon, hardened, its router on ports 80 and 443 by socket activation, envs that survive whatever
becomes of it."""

import shutil
import socket
import ssl
from pathlib import Path
from typing import Any

VARIANTS = ("root",)
UNIT = "sandboxd.service"
EXPOSURE = 6.7
DROP_IN = Path("/etc/systemd/system/sandboxd.service.d/soon.conf")
WATCHDOG = 30  # seconds; the unit's own are 60
# A cipher without certificates, so that no key need be kept here: the router reads no more of it than the name.
TLS = """
import http.server, ssl
server = http.server.HTTPServer(("", 8443), http.server.SimpleHTTPRequestHandler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.set_ciphers("AECDH-AES256-SHA:@SECLEVEL=0")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


def test_root_installs_it_and_routes_from_ports_80_and_443(host) -> None:
    done = host.sandbox("daemon", "install", "--system")
    try:
        assert "/etc/systemd/system/sandboxd.service" in done.stdout
        host.sandbox("daemon", "stop", "--all")
        host.systemctl("stop", "sandboxd.socket", UNIT)
        DROP_IN.parent.mkdir()
        DROP_IN.write_text(f"[Service]\nWatchdogSec={WATCHDOG}\n")
        host.systemctl("daemon-reload")
        host.systemctl("enable", "--now", "sandboxd-router.socket", "sandboxd.socket")
        before = host.serve("shop")
        host.sandbox("run", "-d", "--wait", "--name", "safe", "-p", "8443", "-w", host.place(), "--", "python3", "-c", TLS)
        assert before["url"] == "http://shop.localhost"
        assert host.fetch("shop", 80) == 200
        assert over_tls("safe.localhost", 443) == b"HTTP/1.0 200"
        status = host.json("daemon", "status")
        assert int(host.show(UNIT, "MainPID")) == status["pid"]
        assert "/sandboxd.slice/sandboxd-envs.slice/sandboxd-envs-" in host.cgroup(before["services"][0]["pid"])
        assert Path(f"/proc/{before['services'][0]['pid']}").stat().st_uid != 0
        assert host.exposure(UNIT) <= EXPOSURE
        # Killed, and then hung, which only the watchdog sees: the router serves meanwhile, and the next daemon finds all of it.
        for signal in "KILL", "STOP":
            host.until(lambda: host.show(UNIT, "ActiveState") == "active", "the daemon is ready")
            lost = host.show(UNIT, "MainPID")
            host.systemctl("kill", "--kill-whom=main", "-s", signal, UNIT)
            assert host.fetch("shop", 80) == 200
            host.until(lambda lost=lost: host.show(UNIT, "MainPID") not in ("0", lost), "a new daemon")
            assert host.fetch("shop", 80) == 200
            same(before, host.inspect("shop"))
        assert over_tls("safe.localhost", 443) == b"HTTP/1.0 200"
        assert "Watchdog timeout" in host.run("journalctl", "-u", UNIT, "--no-pager").stdout
        host.sandbox("rm", "-f", "shop", "safe")
    finally:
        shutil.rmtree(DROP_IN.parent, ignore_errors=True)
        host.sandbox("daemon", "stop", "--all")
        host.sandbox("daemon", "uninstall", "--system")
    assert not list(Path("/etc/systemd/system").glob("sandboxd*"))


def same(before: Any, after: Any) -> None:
    """The very process, adopted."""
    assert (after["state"], after["services"][0]["pid"]) == ("ready", before["services"][0]["pid"])


def over_tls(name: str, port: int) -> bytes:
    """The first line of what a server says that is chosen by the name in a TLS hello, without its last word."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AECDH-AES256-SHA:@SECLEVEL=0")
    with socket.create_connection(("127.0.0.1", port), 200) as sock, context.wrap_socket(sock, server_hostname=name) as peer:
        peer.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with peer.makefile("rb") as file:
            return file.readline().rpartition(b" ")[0]
