"""Published Unix sockets, and the PROXY protocol on published addresses, as nginx and haproxy read it.

So of sandboxd.router.unixes and sandboxd.routing.proxied.
"""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sandboxd.errors import PortTaken
from sandboxd.router import unixes
from sandboxd.routing.orders import Published
from tests.require import require
from tests.router.servers import pattern
from tests.router.standin import Bench, Standin
from tests.router.talk import Talk
from tests.router.test_tunnels import free_port

NGINX = """
daemon off; pid {directory}/nginx.pid; error_log {directory}/error.log crit;
events {{}}
http {{
    access_log off; client_body_temp_path {directory}/b; proxy_temp_path {directory}/p;
    fastcgi_temp_path {directory}/f; uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
    server {{ listen 127.0.0.1:3000 proxy_protocol; return 200 "$proxy_protocol_addr $proxy_protocol_port"; }}
}}
"""
HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend one
    bind 127.0.0.1:3000 accept-proxy
    http-request return status 200 content-type text/plain lf-string "%[src] %[src_port]"
"""


def unix(path: Path, env: Standin, *, proxy: bool = False, port: int = 3000) -> Published:
    """A Unix socket that leads to a port of an env."""
    return Published(address=f"unix:{path}", host_port=0, env_id=env.env_id, service="web", port=port, proxy=proxy)


def connect(path: Path) -> socket.socket:
    """A connection to a Unix socket."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(30)
    sock.connect(str(path))
    return sock


def test_a_published_unix_socket_comes_and_goes(bench: Bench, standin: Callable[..., Standin], tmp_path: Path) -> None:
    env = standin("shop", serve=[("echo", "127.0.0.1", 3000)])
    bench.push([env.endpoint()])
    path = tmp_path / "shop.sock"
    before = sockets(bench)
    bench.run(bench.handle.publish(unix(path, env)))
    found = path.lstat()
    assert stat.S_ISSOCK(found.st_mode)
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o600, os.getuid())
    with Talk(connect(path)) as talk:
        talk.send(b"hello")
        assert talk.file.read(5) == b"hello"
        talk.send(pattern(500_000))
        assert talk.file.read(500_000) == pattern(500_000)
        talk.sock.shutdown(socket.SHUT_WR)
        assert talk.file.read() == b"<end>"
    bench.run(bench.handle.unpublish(env.env_id))
    assert not path.exists()
    bench.run(bench.handle.release(env.env_id))
    for _ in range(1000):
        if sockets(bench) <= before:
            return
        bench.spin(0.02)
    raise AssertionError(f"left open: {bench.descriptors()}")


def sockets(bench: Bench) -> int:
    """How many the router has open; pipes are kept for a while."""
    return sum(what.startswith("socket:") for what in bench.descriptors().values())


def test_what_lies_at_the_path_stays_unless_it_is_a_dead_socket(
    bench: Bench, standin: Callable[..., Standin], tmp_path: Path
) -> None:
    env = standin("shop")
    bench.push([env.endpoint()])
    file, served, dead = tmp_path / "file", tmp_path / "served", tmp_path / "dead"
    file.write_text("mine")
    with pytest.raises(PortTaken, match="File exists"):
        bench.run(bench.handle.publish(unix(file, env)))
    assert file.read_text() == "mine"
    with unixes.bind(str(served)), pytest.raises(PortTaken, match="being served"):
        bench.run(bench.handle.publish(unix(served, env)))
    unixes.bind(str(dead)).close()
    bench.run(bench.handle.publish(unix(dead, env)))
    with Talk(connect(dead)) as talk:
        assert talk.get().body == b"shop 1\n"
    with pytest.raises(PortTaken, match="No such file"):
        bench.run(bench.handle.publish(unix(tmp_path / "nowhere" / "x", env)))


def test_a_file_that_took_its_place_is_not_removed(bench: Bench, standin: Callable[..., Standin], tmp_path: Path) -> None:
    env = standin("shop")
    bench.push([env.endpoint()])
    path = tmp_path / "shop.sock"
    bench.run(bench.handle.publish(unix(path, env)))
    path.unlink()
    path.write_text("mine")
    bench.run(bench.handle.unpublish(env.env_id))
    assert path.read_text() == "mine"


def test_the_files_go_with_the_router(start: Callable[..., Bench], standin: Callable[..., Standin], tmp_path: Path) -> None:
    bench, env = start(), standin("shop")
    bench.push([env.endpoint()])
    path = tmp_path / "shop.sock"
    bench.run(bench.handle.publish(unix(path, env)))
    bench.run(bench.handle.stop())
    assert not path.exists()


@pytest.mark.root
def test_a_system_daemon_binds_as_the_owner(tmp_path: Path) -> None:
    """What the owner may not make, root does not make for them; what is made is theirs."""
    owner = 65534
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    for directory in (theirs, ours):
        directory.mkdir(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o011)
    tmp_path.chmod(0o755)
    os.chown(theirs, owner, owner)
    with unixes.bind(str(theirs / "a.sock"), owner):
        assert (theirs / "a.sock").lstat().st_uid == owner
        (theirs / "link").symlink_to(ours / "b.sock")
    with pytest.raises(PermissionError):
        unixes.bind(str(ours / "a.sock"), owner)
    assert os.geteuid() == 0
    unixes.remove(str(theirs / "a.sock"), unixes.identity(str(theirs / "a.sock")), owner)
    assert not (theirs / "a.sock").exists()


@pytest.mark.parametrize("server", ["nginx", "haproxy"])
def test_servers_understand_what_they_are_told(
    bench: Bench, standin: Callable[..., Standin], tmp_path: Path, server: str
) -> None:
    require(server)
    config = tmp_path / "server.conf"
    config.write_text({"nginx": NGINX, "haproxy": HAPROXY}[server].format(directory=tmp_path))
    command = {"nginx": ["nginx", "-e", "stderr", "-c", str(config)], "haproxy": ["haproxy", "-f", str(config)]}[server]
    env = standin("shop", serve=(), run=["env", f"PATH={os.environ['PATH']}:/usr/sbin:/sbin", *command])
    bench.push([env.endpoint()])
    port = free_port()
    held = Published(address="127.0.0.1", host_port=port, env_id=env.env_id, service="web", port=3000, proxy=True)
    bench.run(bench.handle.publish(held))
    sock = until_it_answers(bench, port)
    with Talk(sock) as talk:
        host, number = sock.getsockname()
        assert talk.get().body.decode() == f"{host} {number}"
        assert talk.get().body.decode() == f"{host} {number}"  # once per connection, before its first byte
    path = tmp_path / "shop.sock"
    bench.run(bench.handle.publish(unix(path, env, proxy=True)))
    with Talk(connect(path)) as talk:
        assert talk.get().status == 200  # LOCAL: nothing is said, and the server uses what it sees


def until_it_answers(bench: Bench, port: int) -> socket.socket:
    """A connection to the server inside, once it is up; until then the router resets."""
    for _ in range(400):
        try:
            with socket.create_connection(("127.0.0.1", port), 30) as sock:
                sock.sendall(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
                if sock.recv(65536):
                    return socket.create_connection(("127.0.0.1", port), 30)
        except ConnectionError:
            bench.spin(0.05)
    raise AssertionError("the server inside did not come up")
