"""Several workers behind one listening socket: sandboxd.router.master, sandboxd.router.control, sandboxd.router.line."""

import os
import select
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sandboxd.routing.orders import Published
from tests.router.standin import Bench, Standin
from tests.router.talk import Talk
from tests.router.test_tunnels import free_port


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Bench]:
    """A router of two workers."""
    bench = Bench(tmp_path, workers=2)
    yield bench
    bench.close()


def connections(pid: int) -> int:
    """How many TCP connections to the router that process holds: its sockets less its listeners; about, on a busy machine.

    /proc/net/tcp is read in pieces: what comes and goes meanwhile has it show a socket twice, or not at all.
    """
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return len(opened(pid) & {f"socket:[{fields[9]}]" for fields in lines if fields[3] == "01"})


def opened(pid: int) -> set[str]:
    """What that process has open, as /proc/PID/fd names it."""
    found = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:
            continue
    return found


def test_before_the_first_table_nobody_is_told_that_there_is_nothing(bench: Bench, standin: Callable[..., Standin]) -> None:
    """A router that is new knows no env, and its daemon may take a while to find them: whoever comes by then waits."""
    with Talk(bench.connect()) as early, Talk(bench.connect()) as lost:
        early.send(b"GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
        lost.send(b"GET / HTTP/1.1\r\nHost: none.localhost\r\n\r\n")
        bench.run(bench.handle.count())  # which the worker answers after what it has read
        bench.spin(0.2)
        assert select.select([early.sock, lost.sock], [], [], 0)[0] == []
        bench.push([standin("shop").endpoint()])
        assert (early.answer().status, lost.answer().status) == (200, 404)


def test_both_serve_and_their_counts_are_summed(pair: Bench, standin: Callable[..., Standin]) -> None:
    env = standin("shop")
    pair.push([env.endpoint()])
    talks: list[Talk] = []
    shares = [0]
    while min(shares) < 10 and len(talks) < 400:  # who has no CPU for a while takes none: more come
        more = [Talk(pair.connect()) for _ in range(40)]
        for talk in more:
            assert talk.get().status == 200
        talks += more
        shares = [connections(pid) for pid in pair.workers()]
    assert min(shares) >= 10  # neither is left out
    pair.run(pair.handle.count())
    assert pair.handle.counts[env.env_id]["requests"] == len(talks)
    assert pair.handle.counts[env.env_id]["open"] == len(talks)
    assert pair.run(pair.handle.release(env.env_id)) is True
    pair.run(pair.handle.count())
    assert pair.handle.counts[env.env_id]["open"] == 0  # all of both are closed once it is confirmed
    for talk in talks:
        talk.close()


def test_they_share_one_socket_and_nobody_else_joins_them(pair: Bench) -> None:
    pair.push([])  # so both listen by now
    common = set.intersection(*(opened(pid) for pid in (pair.handle.pid, *pair.workers())))
    assert len([name for name in common if name.startswith("socket:")]) == 1  # closing one of several resets who waits there
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", pair.port))


def test_a_change_is_in_force_in_all_workers_and_in_those_to_come(pair: Bench, standin: Callable[..., Standin]) -> None:
    shop, other = standin("shop"), standin("other")
    pair.push([shop.endpoint()])
    kept = [Talk(pair.connect()) for _ in range(24)]
    for talk in kept:
        assert talk.get().status == 200
    assert pair.change(endpoints={7: other.endpoint()}, routes={"other.localhost": 7}) is True
    for talk in kept:
        assert talk.get(host="other.localhost").body.startswith(b"other")
        assert talk.get().body.startswith(b"shop")
    assert pair.change(endpoints={0: shop.endpoint(state="stopped", reason="It rests.")}) is True
    for talk in kept:
        assert b"It rests." in talk.get().body
        talk.close()
    before = pair.workers()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    for _ in range(8):
        with Talk(pair.connect()) as talk:
            assert talk.get(host="other.localhost").status == 200
            assert b"It rests." in talk.get().body
    assert pair.change(dropped=[7], unrouted=["other.localhost"], gone=[other.env_id]) is True
    with Talk(pair.connect()) as talk:
        assert talk.get(host="other.localhost").status == 404
    pair.version += 1  # as after a table that was lost on the way
    assert pair.change(dropped=[0]) is False


def test_a_dead_worker_is_replaced_and_nobody_is_refused(pair: Bench, standin: Callable[..., Standin]) -> None:
    env = standin("shop")
    pair.push([env.endpoint()])
    port = free_port()
    pair.run(pair.handle.publish(Published(address="127.0.0.1", host_port=port, env_id=env.env_id, service="web", port=3000)))
    with Talk(pair.connect()) as talk:
        assert talk.get().status == 200
    pair.run(pair.handle.count())
    before = pair.workers()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    with Talk(pair.connect()) as talk:  # waits in the queue of the one listening socket
        assert talk.get().status == 200
    with Talk(socket.create_connection(("127.0.0.1", port), 30)) as talk:
        assert talk.get(host="anything").status == 200
    while len(pair.workers()) < 2:
        pair.spin(0.02)
    assert not set(before) & set(pair.workers())
    pair.run(pair.handle.count())
    assert pair.handle.counts[env.env_id]["requests"] == 2  # what the dead had counted is not lost
    assert pair.handle.pid not in before


def test_a_stuck_worker_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sandboxd.router.master\nsandboxd.router.master.BEAT = 0.1\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    bench = Bench(tmp_path, workers=2)
    stuck = bench.workers()[0]
    os.kill(stuck, signal.SIGSTOP)
    while stuck in bench.workers() or len(bench.workers()) < 2:
        bench.spin(0.02)
    bench.close()


def test_adoption_finds_all_of_them(tmp_path: Path, standin: Callable[..., Standin]) -> None:
    first = Bench(tmp_path, workers=2)
    env = standin("shop")
    first.push([env.endpoint()])
    workers = first.workers()
    first.call(first.handle.close)
    second = Bench(tmp_path, workers=2)
    assert second.workers() == workers
    assert sorted(second.handle.workers) == sorted(workers)
    with Talk(first.connect()) as talk:
        assert talk.get().status == 200
    second.close()
    first.runner.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in (first.handle.pid, *workers))  # reaped by who saw it end


def test_a_killed_master_takes_its_workers_along(tmp_path: Path) -> None:
    bench = Bench(tmp_path, workers=2)
    pids = [os.pidfd_open(pid) for pid in bench.workers()]
    os.kill(bench.handle.pid, signal.SIGKILL)
    again = Bench(tmp_path, listen=[f"127.0.0.1:{bench.port}"])  # on the same port, whether they are gone yet or not
    for pidfd in pids:
        os.close(pidfd)
    again.close()
    bench.call(bench.handle.close)
    bench.runner.close()
