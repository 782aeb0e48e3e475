"""The daemon's side: start, adopt, orders, who holds a port, and the end of a router.

So of sandboxd.router.handle, sandboxd.router.starting, sandboxd.router.control and sandboxd.router.worker.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandboxd.errors import LaunchFailed, PortTaken, UsageError
from sandboxd.router.handle import RouterHandle
from sandboxd.routing.orders import Published
from sandboxd.routing.table import Route, RouteTable
from tests.router.standin import Bench, Standin
from tests.router.talk import Talk
from tests.router.test_tunnels import free_port


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A state directory."""
    return tmp_path


@pytest.fixture
def first(directory: Path) -> Iterator[Bench]:
    """A router whose first handle the test drops: it is ended by whoever holds it last."""
    bench = Bench(directory)
    yield bench
    bench.call(bench.handle.close)
    bench.runner.close()
    try:
        if os.waitpid(bench.handle.pid, os.WNOHANG)[0] == 0:  # nobody waits for it but us; and the test failed to end it
            os.kill(bench.handle.pid, signal.SIGKILL)
            os.waitpid(bench.handle.pid, 0)
    except ChildProcessError:
        return


def test_a_second_handle_adopts_what_the_first_started(first: Bench, standin: Callable[..., Standin]) -> None:
    env = standin("shop")
    first.push([env.endpoint()])
    port = free_port()
    first.run(first.handle.publish(Published(address="127.0.0.1", host_port=port, env_id=env.env_id, service="web", port=3000)))
    with Talk(first.connect()) as talk:
        assert talk.get().body == b"shop 1\n"
        first.call(first.handle.close)
        assert talk.get().body == b"shop 2\n"  # nobody holds it, and it serves on
        second = Bench(first.directory, listen=[f"127.0.0.1:{first.port}"])
        assert (second.handle.pid, second.handle.listen) == (first.handle.pid, first.handle.listen)
        assert [(held.host_port, held.env_id) for held in second.handle.published] == [(port, env.env_id)]
        assert talk.get().body == b"shop 3\n"  # the connection outlived the change
        second.push([])
        assert talk.get().status == 404
        second.close()
    assert not (first.directory / "router.sock").exists()


OLDER = """
import runpy, sys
from sandboxd.routing import orders
orders.VERSION = orders.BOUNDS - 1
del sys.argv[1:4]
runpy.run_module("sandboxd.router", run_name="__main__")
"""


def test_a_router_of_an_older_version_is_said_to_bound_no_connections(directory: Path) -> None:
    async def older() -> tuple[int, str, str]:
        listen = ["127.0.0.1:0"]
        first = await RouterHandle.start_or_adopt(dir=directory, listen=listen, prefix=[sys.executable, "-c", OLDER])
        first.close()
        second = await RouterHandle.start_or_adopt(dir=directory, listen=listen)
        said = second.unbound
        await second.stop()
        third = await RouterHandle.start_or_adopt(dir=directory, listen=listen)
        of_ours = third.unbound
        await third.stop()
        return first.pid, said, of_ours

    pid, said, of_ours = asyncio.run(older())
    assert f"(pid {pid}) is of an older version" in said
    assert of_ours == ""


def test_the_newest_handle_is_obeyed(first: Bench) -> None:
    second = Bench(first.directory)
    assert second.handle.pid == first.handle.pid
    died: list[bool] = []
    first.handle.on_death = lambda: died.append(True)
    first.spin(0.1)
    assert died == [True]  # to the first one it is gone
    second.close()


def test_an_adopted_router_listens_where_it_is_told(first: Bench) -> None:
    first.call(first.handle.close)
    port = free_port()
    second = Bench(first.directory, listen=[f"127.0.0.1:{port}", "127.0.0.1:0"])
    assert second.handle.listen == [f"127.0.0.1:{port}", f"127.0.0.1:{first.port}"]
    second.call(second.handle.close)
    second.runner.close()
    third = Bench(first.directory, listen=[f"127.0.0.1:{port}"])
    assert third.handle.listen == [f"127.0.0.1:{port}"]
    with pytest.raises(ConnectionRefusedError):
        first.connect()
    third.close()


def test_a_taken_port_names_who_holds_it(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        with pytest.raises(PortTaken) as caught:
            Bench(directory, listen=[address])
        assert caught.value.details == {"address": address, "pid": os.getpid(), "process": comm()}
        assert str(os.getpid()) in caught.value.message
        assert caught.value.hint
    assert not list(directory.glob("router.*"))  # nothing half-made


def comm() -> str:
    """This process's name."""
    return Path("/proc/self/comm").read_text().strip()


def test_a_taken_port_is_named_when_publishing_and_relistening(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(PortTaken) as caught:
            bench.run(
                bench.handle.publish(Published(address="127.0.0.1", host_port=port, env_id="a" * 32, service="web", port=3000))
            )
        assert caught.value.details["pid"] == os.getpid()
        with pytest.raises(PortTaken):
            bench.run(bench.handle.relisten([f"127.0.0.1:{port}"]))
        with pytest.raises(PortTaken):  # the router's own port is no exception
            bench.run(
                bench.handle.publish(
                    Published(address="127.0.0.1", host_port=bench.port, env_id="a" * 32, service="web", port=1)
                )
            )
    assert bench.handle.published == []
    bench.connect().close()  # it still listens where it did


@pytest.mark.parametrize("address", ["7070", "127.0.0.1:", "127.0.0.1:70000", "127.0.0.1:http", "localhost:1x"])
def test_what_is_no_address(directory: Path, address: str) -> None:
    with pytest.raises(UsageError):
        Bench(directory, listen=[address])


def test_ipv6_and_several_addresses(directory: Path, standin: Callable[..., Standin]) -> None:
    bench = Bench(directory, listen=["[::1]:0", "127.0.0.1:0"])
    env = standin("shop")
    bench.push([env.endpoint()])
    for address in bench.handle.listen:
        host, _, port = address.rpartition(":")
        with Talk(socket.create_connection((host.strip("[]"), int(port)), 30)) as talk:
            assert talk.get().status == 200
    bench.close()


def test_published_ports_come_and_go(bench: Bench, standin: Callable[..., Standin]) -> None:
    env = standin("shop", serve=[("http", "127.0.0.1", 3000), ("echo", "127.0.0.1", 5432)])
    bench.push([env.endpoint(state="starting")])
    port = free_port()
    bench.run(bench.handle.publish(Published(address="127.0.0.1", host_port=port, env_id=env.env_id, service="db", port=5432)))
    with socket.create_connection(("127.0.0.1", port), 30) as sock:
        sock.sendall(b"held")
        bench.spin(0.1)
        bench.push([env.endpoint()])
        assert sock.recv(10) == b"held"
        bench.run(bench.handle.unpublish(env.env_id))
        sock.sendall(b"still")
        assert sock.recv(10) == b"still"  # it is the listener that went
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 30)
        assert bench.run(bench.handle.release(env.env_id)) is True
        with pytest.raises(ConnectionResetError):
            sock.recv(10)
    assert bench.handle.published == []


def test_a_published_port_of_an_env_that_is_not_there(bench: Bench) -> None:
    bench.push([])
    port = free_port()
    bench.run(bench.handle.publish(Published(address="127.0.0.1", host_port=port, env_id="c" * 32, service="web", port=1)))
    with pytest.raises(ConnectionResetError):  # at once, or when it reads
        ask(port)


def ask(port: int) -> bytes:
    """What comes on a connection to a host port."""
    with socket.create_connection(("127.0.0.1", port), 30) as sock:
        return sock.recv(1)


def test_release_ends_what_is_under_way(bench: Bench, standin: Callable[..., Standin]) -> None:
    env, other = standin("shop"), standin("blog")
    bench.push([env.endpoint(), other.endpoint()])
    with Talk(bench.connect()) as waiting, Talk(bench.connect()) as streaming, Talk(bench.connect()) as idle:
        waiting.send(b"GET /hang HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
        streaming.send(b"GET /events HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
        streaming.head()
        assert idle.get().status == 200
        assert idle.get(host="blog.localhost").status == 200
        bench.push([env.endpoint(state="stopped"), other.endpoint()])
        assert bench.run(bench.handle.release(env.env_id)) is True
        assert waiting.answer().status == 503
        with pytest.raises(ConnectionResetError):
            streaming.file.read()
        assert idle.get().status == 503
        assert idle.get(host="blog.localhost").body == b"blog 2\n"
    bench.spin(1.2)
    assert bench.handle.counts[env.env_id]["open"] == 0


def test_counts_are_pushed(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        for _ in range(5):
            talk.get("/bytes?100000")
        while bench.handle.counts.get(shop.env_id, {}).get("requests") != 5:
            bench.spin(0.05)
        counts = bench.handle.counts[shop.env_id]
        assert counts["open"] == 1
        assert counts["bytes_out"] > 500_000
        assert 0 < counts["bytes_in"] < 5000
    while bench.handle.counts[shop.env_id]["open"]:
        bench.spin(0.05)


def test_the_newest_table_wins(bench: Bench, standin: Callable[..., Standin]) -> None:
    env = standin("shop")
    large = table(env, 2000)
    for _ in range(50):
        bench.call(lambda: bench.handle.push(large))
    bench.push([env.endpoint()])
    with Talk(bench.connect()) as talk:
        assert talk.get().status == 200


def table(env: Standin, count: int) -> RouteTable:
    """A large one, in which the env is stopped."""
    endpoints = [env.endpoint(state="stopped", env_id=f"{number:032x}", name=f"n{number}") for number in range(count)]
    return RouteTable(version=1, endpoints=endpoints, routes=[Route(host="shop.localhost", endpoint=0)])


def test_the_death_of_a_router_is_told_once_and_another_can_be_started(directory: Path) -> None:
    bench = Bench(directory)
    died: list[bool] = []
    bench.handle.on_death = lambda: died.append(True)
    os.kill(bench.handle.pid, signal.SIGKILL)
    while not died:
        bench.spin(0.02)
    bench.spin(0.1)
    assert died == [True]
    assert bench.run(bench.handle.release("x" * 32)) is False
    bench.call(bench.handle.close)
    again = Bench(directory, listen=[f"127.0.0.1:{bench.port}"])  # over the stale socket, on the same port
    assert again.handle.pid != bench.handle.pid
    again.close()
    bench.runner.close()


def test_a_router_that_does_not_answer_is_replaced(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandboxd.router.handle.GREETING", 0.5)
    bench = Bench(directory)
    bench.call(bench.handle.close)
    os.kill(bench.handle.pid, signal.SIGSTOP)
    again = Bench(directory, listen=[f"127.0.0.1:{bench.port}"])
    assert again.handle.pid != bench.handle.pid
    assert not Path(f"/proc/{bench.handle.pid}").exists()  # killed, and reaped
    again.close()
    bench.runner.close()


def test_a_stuck_router_is_ended_by_its_heartbeat(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandboxd.router.handle.BEAT", 0.1)
    bench = Bench(directory)
    died: list[bool] = []
    bench.handle.on_death = lambda: died.append(True)
    bench.spin(1.0)
    assert died == []
    os.kill(bench.handle.pid, signal.SIGSTOP)
    child = bench.handle._child
    while not died or (child is not None and child.returncode is None):
        bench.spin(0.05)
    bench.call(bench.handle.close)
    bench.runner.close()


def test_sigterm_ends_it_cleanly(directory: Path) -> None:
    bench = Bench(directory)
    ended = asyncio.Event()
    bench.handle.on_death = ended.set
    os.kill(bench.handle.pid, signal.SIGTERM)
    bench.run(ended.wait())
    child = bench.handle._child
    assert child is not None
    assert child.wait() == 0
    bench.call(bench.handle.close)
    bench.runner.close()


def test_what_ps_shows_and_who_may_connect(bench: Bench) -> None:
    assert Path(f"/proc/{bench.handle.pid}/cmdline").read_bytes().rstrip(b"\0").decode() == "sandboxd-router"
    assert os.getsid(bench.handle.pid) == bench.handle.pid
    assert (bench.directory / "router.sock").stat().st_mode & 0o777 == 0o600


def test_garbage_on_the_control_socket_ends_that_connection_only(first: Bench) -> None:
    first.call(first.handle.close)
    for data in (b"\xff\xff\xff\xff", b"\x02\0\0\0{}", b"\x03\0\0\0abc", b'\x0e\0\0\0{"is":"future"}'):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(first.directory / "router.sock"))
            sock.sendall(data)
    second = Bench(first.directory)
    assert second.handle.pid == first.handle.pid
    second.close()


def test_nothing_is_left_when_the_router_cannot_start(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(LaunchFailed):
        Bench(directory)
