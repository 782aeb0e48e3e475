"""The start of a daemon by its first client, with a stand-in for the daemon's program: real processes, pipes and locks."""

import asyncio
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxd.client import AsyncClient, Client, autostart
from sandboxd.errors import DaemonUnreachable, PortTaken, StoreFailed, UsageError
from sandboxd.protocol import messages as m

FAKE = Path(__file__).with_name("fake_daemon.py")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory whose daemon is the stand-in; whatever runs there at the end is stopped."""
    directory = tmp_path / "state"
    monkeypatch.setenv("SANDBOXD_DIR", str(directory))
    monkeypatch.delenv("SANDBOXD_SOCKET", raising=False)
    monkeypatch.setattr(autostart, "COMMAND", (sys.executable, str(FAKE)))
    yield directory
    stop(directory)


def stop(directory: Path) -> None:
    """End the daemon there, if one runs, and wait until it has gone."""
    try:
        with Client(directory / "control.sock", autostart=False) as client:
            pidfd = os.pidfd_open(client.call(m.Status()).pid)
            client.call(m.Shutdown())
    except DaemonUnreachable:
        return
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.poll(10_000)
    os.close(pidfd)


def starts(directory: Path) -> int:
    return len((directory / "starts").read_text().splitlines())


def test_the_first_call_starts_a_daemon_and_the_next_finds_it(home: Path) -> None:
    with Client() as client:
        status = client.call(m.Status())
    with Client() as client:
        assert client.call(m.Status()).pid == status.pid
    assert starts(home) == 1
    assert home.stat().st_mode & 0o777 == 0o700
    assert (home / "daemon.log").stat().st_mode & 0o777 == 0o600


def test_it_is_detached(home: Path) -> None:
    """Nobody's child here, in a session that it does not lead, away from anybody's directory."""
    with Client() as client:
        status = client.call(m.Status())
    about = status.envs
    assert about["ppid"] != os.getpid()
    assert about["sid"] not in (os.getsid(0), status.pid)
    assert about["pgid"] != os.getpgid(0)
    assert status.dir == "/"


def test_an_awaitable_client_starts_one_too(home: Path) -> None:
    async def main() -> None:
        async with AsyncClient() as client:
            pids = {status.pid for status in await asyncio.gather(*(client.call(m.Status()) for _ in range(5)))}
            assert len(pids) == 1

    asyncio.run(main())
    assert starts(home) == 1


def test_clients_that_start_at_once_end_with_one_daemon(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE", "slow")
    code = "from sandboxd.client import Client, autostart\nfrom sandboxd.protocol.messages import Status\n"
    code += f"import sys; autostart.COMMAND = (sys.executable, {str(FAKE)!r})\nprint(Client().call(Status()).pid)"
    clients = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    pids = {client.communicate()[0].strip() for client in clients}
    assert len(pids) == 1
    assert pids != {""}
    assert starts(home) == 1


def test_a_daemon_that_another_way_is_starting_is_waited_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the lock, but does not listen yet."""
    monkeypatch.setenv("FAKE", "slow")
    home.mkdir(mode=0o700)
    ready, write = os.pipe()
    environ = {**os.environ, "SANDBOXD_READY_FD": str(write)}
    process = subprocess.Popen([sys.executable, str(FAKE)], env=environ, pass_fds=[write])
    os.close(write)
    while not (home / "lock").exists() or not (home / "lock").read_text():
        assert process.poll() is None
        select.poll().poll(1)
    with Client() as client:
        assert client.call(m.Status()).pid == process.pid
    assert starts(home) == 1
    os.close(ready)
    stop(home)
    process.wait()


def test_one_that_leaves_makes_way(home: Path) -> None:
    """The lock is held until the old one has ended; a new one is started then."""
    with Client() as client:
        first = client.call(m.Status()).pid
        client.call(m.Shutdown())
    with Client() as client:
        assert client.call(m.Status()).pid != first
    assert starts(home) == 2


def test_a_stale_socket_and_a_stale_lock(home: Path) -> None:
    with Client() as client:
        pid = client.call(m.Status()).pid
        pidfd = os.pidfd_open(pid)
        os.kill(pid, 9)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(10_000)
        os.close(pidfd)
    assert (home / "control.sock").exists()
    with Client() as client:
        assert client.call(m.Status()).pid != pid


def test_its_own_error_comes_back(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE", "refuse")
    with Client() as client, pytest.raises(PortTaken, match=r"127.0.0.1:7070 is taken") as caught:
        client.call(m.Status())
    assert caught.value.hint == "by haproxy"


def test_one_that_dies_leaves_its_last_words(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE", "die")
    with Client() as client, pytest.raises(DaemonUnreachable, match="Traceback: it broke") as caught:
        client.call(m.Status())
    assert str(home / "daemon.log") in caught.value.hint
    monkeypatch.setenv("FAKE", "mumble")
    with Client() as client, pytest.raises(DaemonUnreachable, match="hmm"):
        client.call(m.Status())


def test_one_that_never_becomes_ready(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE", "hang")
    monkeypatch.setattr(autostart, "READY_SECONDS", 0.5)
    with Client() as client, pytest.raises(DaemonUnreachable, match="is not ready after"):
        client.call(m.Status())
    while not (home / "starts").exists() or not (home / "starts").read_text():
        select.poll().poll(1)  # it was started all the same
    for pid in (home / "starts").read_text().split():
        os.kill(int(pid), 9)


def test_one_that_holds_the_directory_and_never_answers(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    monkeypatch.setattr(autostart, "READY_SECONDS", 0.3)
    home.mkdir(mode=0o700)
    lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.write(lock, b"%d\n" % os.getpid())
    with Client() as client, pytest.raises(DaemonUnreachable, match="none answers"):
        client.call(m.Status())
    assert not (home / "starts").exists()
    os.close(lock)


def test_no_start_where_somebody_elses_socket_was_named(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SANDBOXD_SOCKET", str(tmp_path / "theirs.sock"))
    for client in (Client(), Client(tmp_path / "other.sock"), Client(autostart=False)):
        with client, pytest.raises(DaemonUnreachable, match="nothing listens"):
            client.call(m.Status())
    assert not home.exists()


def test_the_environment_may_be_wrong(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SANDBOXD_DIR", "not/absolute")
    with pytest.raises(UsageError):
        Client()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SANDBOXD_DIR", str(tmp_path / "file" / "below"))
    with Client() as client, pytest.raises(DaemonUnreachable):
        client.call(m.Status())
    monkeypatch.setenv("SANDBOXD_DIR", str(tmp_path / "open"))
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with Client() as client, pytest.raises(StoreFailed, match="not ours alone"):
        client.call(m.Status())


def test_threads_that_start_at_once(home: Path) -> None:
    pids: list[int] = []

    def ask() -> None:
        with Client() as client:
            pids.append(client.call(m.Status()).pid)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pids) == 4
    assert len(set(pids)) == 1
