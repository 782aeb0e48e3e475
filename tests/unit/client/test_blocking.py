"""The blocking client against a toy server in a thread: calls, streams, sessions, errors, and connections that are reused."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxd.client import Client
from sandboxd.client.blocking import Session, Wire
from sandboxd.errors import DaemonUnreachable, Internal, KernelError, NotFound, ProtocolViolation
from sandboxd.protocol import messages as m
from tests.daemon.toy import Toy, threaded


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


@pytest.fixture
def toy(path: Path) -> Iterator[Toy]:
    with threaded(path) as toy:
        yield toy


@pytest.fixture
def client(path: Path, toy: Toy) -> Iterator[Client]:
    with Client(path, autostart=False) as client:
        yield client


def test_a_call(client: Client) -> None:
    reply = client.call(m.List(filters=["a", "b"]))
    assert [env.name for env in reply.envs] == [f"a{os.getuid()}", f"b{os.getuid()}"]


def test_errors_come_back_as_their_class(client: Client) -> None:
    with pytest.raises(NotFound, match="no env `missing`") as caught:
        client.call(m.Inspect(target="missing"))
    assert caught.value.hint == "`sandbox ps` lists them"
    assert caught.value.details == {"matches": []}
    with pytest.raises(Internal):
        client.call(m.Inspect(target="odd"))
    with pytest.raises(ProtocolViolation, match="MethodNotImplemented"):
        client.call(m.Status())
    assert client.call(m.Inspect(target="fine")).env.name == "fine"


def test_one_connection_serves_calls_one_after_the_other(client: Client, toy: Toy) -> None:
    for _ in range(3):
        client.call(m.List())
    with pytest.raises(NotFound):
        client.call(m.Inspect(target="missing"))
    (wire,) = client._idle
    client.call(m.List())
    assert client._idle == [wire]


def test_a_connection_that_the_daemon_closed_meanwhile_is_not_used(path: Path) -> None:
    with Client(path, autostart=False) as client:
        for _ in range(2):
            with threaded(path):
                client.call(m.List())
            path.unlink()


def test_a_stream(client: Client) -> None:
    names = [event.name for reply in client.stream(m.Events()) for event in reply.events]
    assert names == ["env-0", "env-1", "env-2"]
    assert len(client._idle) == 1


def test_leaving_a_stream_ends_the_call(client: Client, toy: Toy) -> None:
    stream = client.stream(m.Events(follow=True))
    next(stream)
    assert client.call(m.Inspect(target="meanwhile")).env.name == "meanwhile"
    stream.close()  # type: ignore[attr-defined]
    for _ in range(1000):
        if toy.cancelled.is_set():
            break
        client.call(m.List())
    assert toy.cancelled.is_set()


def test_an_error_in_a_stream(client: Client) -> None:
    with pytest.raises(KernelError) as caught:
        list(client.stream(m.Exec(target="a", argv=["bad"])))
    assert caught.value.errno == 9


def test_a_big_answer(client: Client) -> None:
    assert len(client.call(m.Inspect(target="big")).env.name) == 8 << 20


def test_threads_share_a_client(client: Client) -> None:
    wrong: list[object] = []

    def ask(number: int) -> None:
        for turn in range(20):
            name = client.call(m.Inspect(target=f"env-{number}-{turn}")).env.name
            if name != f"env-{number}-{turn}":
                wrong.append(name)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# -- sessions --------------------------------------------------------------------------------------------------------------


def test_a_session_brings_descriptors(client: Client) -> None:
    with client.open(m.Exec(target="a", argv=["hello"])) as session:
        assert session.session == "s"
        assert session.first.fds == ["stdout"]
        assert list(session.fds) == ["stdout"]
        assert not os.get_inheritable(session.fds["stdout"])
        assert os.read(session.fds["stdout"], 100) == b"hello"
        assert session.wait().exit_code == 7
        assert session.wait().exit_code == 7
        assert session.fileno() >= 0


def test_a_descriptor_that_was_taken_is_its_takers(client: Client) -> None:
    with client.open(m.Exec(target="a", argv=["hello"])) as session:
        mine = session.fds.pop("stdout")
        assert [reply.exit_code for reply in session.replies()] == [7]
    assert os.read(mine, 100) == b"hello"
    os.close(mine)


def test_a_session_that_is_closed_ends_in_the_daemon(client: Client, toy: Toy) -> None:
    session = client.open(m.Exec(target="a", argv=["wait"]))
    session.close()
    session.close()
    for _ in range(1000):
        if toy.cancelled.is_set():
            break
        client.call(m.List())
    assert toy.cancelled.is_set()


def test_another_thread_may_close_a_session_that_is_waited_for(client: Client) -> None:
    ended: list[BaseException] = []

    def wait(session: Session) -> None:
        try:
            session.wait()
        except DaemonUnreachable as error:
            ended.append(error)

    session = client.open(m.Exec(target="a", argv=["wait"]))
    waiter = threading.Thread(target=wait, args=(session,))
    waiter.start()
    session.close()
    waiter.join()
    assert len(ended) == 1


def test_a_session_that_cannot_be_opened_leaves_nothing(client: Client) -> None:
    with pytest.raises(KernelError):
        client.open(m.Exec(target="a", argv=["bad"]))
    assert client.call(m.List()).envs


# -- a daemon that does not behave -------------------------------------------------------------------------------------------


class Odd:
    """Accepts one client, and does to it what it is told."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(str(path))
        self.sock.listen()

    def __enter__(self) -> "Odd":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


def test_nobody_listens(path: Path) -> None:
    with Client(path, autostart=False) as client, pytest.raises(DaemonUnreachable, match="nothing listens") as caught:
        client.call(m.List())
    assert "sandbox daemon start" in caught.value.hint
    path.write_text("no socket")
    with Client(path, autostart=False) as client, pytest.raises(DaemonUnreachable):
        client.call(m.List())


def test_a_stale_socket(path: Path) -> None:
    with Odd(path):
        pass
    with Client(path, autostart=False) as client, pytest.raises(DaemonUnreachable, match="nothing listens"):
        client.call(m.List())


def test_a_socket_that_may_not_be_reached(path: Path) -> None:
    with Odd(path):
        path.chmod(0)
        with Client(path, autostart=False) as client, pytest.raises(DaemonUnreachable, match="Permission denied"):
            client.call(m.List())


def test_a_path_over_the_kernels_limit(tmp_path: Path) -> None:
    """sockaddr_un holds 108 bytes; a project's directory may be deeper."""
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    link = tmp_path / "short"
    link.symlink_to(deep)
    with threaded(link / "control.sock"), Client(deep / "control.sock", autostart=False) as client:
        assert client.call(m.List()).envs


@pytest.mark.parametrize("answer", [b"", b'{"param', b"nonsense\0", b'{"parameters":{"envs":3}}\0'])
def test_answers_that_are_none(path: Path, answer: bytes) -> None:
    with Odd(path) as odd, Client(path, autostart=False) as client:

        def serve() -> None:
            sock, _ = odd.sock.accept()
            with sock:
                sock.recv(1000)
                sock.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises((DaemonUnreachable, ProtocolViolation)):
            client.call(m.List())
        thread.join()


def test_a_refusal_that_was_said_before_the_connection_closed(path: Path) -> None:
    """At its cap the daemon answers and closes at once: the request meets EPIPE, the reason is still there."""
    with Odd(path) as odd, Client(path, autostart=False) as client:
        wire = Wire(client._daemon.connect())
        sock, _ = odd.sock.accept()
        sock.sendall(b'{"error":"io.sandboxd.Control.QueueFull","parameters":{"message":"256 calls are under way"}}\0')
        sock.close()
        client._idle.append(wire)
        monkey = pytest.MonkeyPatch()
        monkey.setattr(Wire, "is_fresh", True)
        try:
            from sandboxd.errors import QueueFull

            with pytest.raises(QueueFull, match="256 calls"):
                client.call(m.List())
        finally:
            monkey.undo()


def test_descriptors_that_were_not_asked_for_are_closed(path: Path) -> None:
    with Odd(path) as odd, Client(path, autostart=False) as client:

        def serve() -> None:
            sock, _ = odd.sock.accept()
            with sock:
                sock.recv(1000)
                socket.send_fds(sock, [b'{"parameters":{"envs":[]}}\0'], [0, 0])
                sock.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        assert client.call(m.List()).envs == []
        assert client._idle == []
        thread.join()


def test_more_descriptors_than_a_session_has(path: Path) -> None:
    with Odd(path) as odd, Client(path, autostart=False) as client:

        def serve() -> None:
            sock, _ = odd.sock.accept()
            with sock:
                sock.recv(1000)
                socket.send_fds(sock, [b'{"parameters":{"session":"s","fds":["a"]},"continues":true}\0'], [0] * 50)
                sock.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(DaemonUnreachable, match="descriptors"):
            client.open(m.Exec(target="a", argv=["x"]))
        thread.join()


# -- what it costs ---------------------------------------------------------------------------------------------------------


def test_it_imports_little() -> None:
    """`sandbox ps` is on people's fingers all day."""
    code = "import sys; from sandboxd.client import Client; Client(autostart=False); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    loaded = set(done.stdout.split())
    assert not loaded & {"asyncio", "uvloop", "psutil", "click", "subprocess", "logging", "json", "dataclasses", "tempfile"}
    assert not {name for name in loaded if name.startswith(("sandboxd.client.", "sandboxd.protocol."))} - {
        "sandboxd.client.blocking",
        "sandboxd.client.dial",
        "sandboxd.client.holding",
        "sandboxd.client.hosts",
        "sandboxd.client.session",
        "sandboxd.protocol.envelopes",
        "sandboxd.protocol.framing",
        "sandboxd.protocol.messages",
    }
