"""The network: the host's loopback and other envs are out of reach, the env's own is whole."""

import socket

from sandboxd.spec import Network
from tests.walls.envs import Walls, outside, program

CONNECT = "found = tried(connect, given['port'])"


def test_the_hosts_loopback_is_out_of_reach(walls: Walls) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert walls.inside(CONNECT, port=port) == "ECONNREFUSED"
        assert outside(CONNECT, port=port) == "ok"
        # Without this one wall, and with all the others, it works.
        assert walls.inside(CONNECT, parts={"network": Network(mode="host")}, port=port) == "ok"


def test_there_is_no_way_out(walls: Walls) -> None:
    code = """
def udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.0.2.1", 53))
found = [tried(connect, 80, "192.0.2.1"), tried(udp), [name for _, name in socket.if_nameindex()]]
"""
    found = walls.inside(code, parts={"network": Network(egress="none")})
    assert found == ["ENETUNREACH", "ENETUNREACH", ["lo"]]


def test_abstract_sockets_of_the_host_are_not_there(walls: Walls) -> None:
    name = "\0sandboxd-test-abstract"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        code = "found = tried(connect, 0, given['name'], socket.AF_UNIX)"
        assert walls.inside(code, name=name) == "ECONNREFUSED"
        assert outside(code, name=name) == "ok"


def test_the_envs_own_loopback_works_on_any_port_and_both_families(walls: Walls) -> None:
    code = """
found = []
for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    with socket.socket(family) as server:
        server.bind((address, 80))
        server.listen()
        found.append(tried(connect, 80, address, family))
"""
    assert walls.inside(code) == ["ok", "ok" if socket.has_ipv6 else "EAFNOSUPPORT"]


def test_two_envs_share_a_port_and_do_not_see_each_other(walls: Walls) -> None:
    listen = """
server = socket.create_server(("127.0.0.1", 3000))
found = [tried(connect, 3000), os.readlink("/proc/self/ns/net")]
os.write(1, json.dumps(found).encode() + b"\\n")
time.sleep(300)
"""
    first = walls.launch(walls.planned(program(listen, {})))
    try:
        assert first.lines(count=1)[0].startswith('["ok"')
        assert walls.inside("found = tried(connect, 3000)") == "ECONNREFUSED"
        second = walls.launch(walls.planned(program(listen, {})))
        try:
            assert second.lines(count=1)[0].startswith('["ok"')
            assert first.launched.netns_cookie != second.launched.netns_cookie
        finally:
            second.close()
    finally:
        first.close()


def test_sharing_the_hosts_network_brings_its_names(walls: Walls) -> None:
    found = walls.inside(
        "found = [open('/etc/hosts').read(), open('/etc/resolv.conf').read()]", parts={"network": Network(mode="host")}
    )
    with open("/etc/hosts", encoding="utf-8") as hosts, open("/etc/resolv.conf", encoding="utf-8") as resolver:
        assert found[0].startswith(hosts.read())
        assert found[1] == resolver.read()
