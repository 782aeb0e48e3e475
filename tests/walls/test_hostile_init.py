"""Pid 1 in other hands: whoever has its socket says to the daemon what they like. Nobody but that env comes to harm.

So of sandboxd.daemon.relinking and sandboxd.daemon.linking. The hostile ones listen where each env's pid 1 did, greet a new
daemon with that one's own words, and go on with theirs. One daemon meets all of them at once, and a neighbour is asked all the
while.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from sandboxd.launch.doorway import listen
from sandboxd.launch.frames import Inbox, encode
from sandboxd.protocol.messages import Inspect, Wait
from tests.conftest import run_daemon
from tests.daemon.asking import living, run, watched
from tests.daemons import PATIENCE, Daemon
from tests.walls.bombs import SERVE
from tests.walls.envs import PYTHON

Speech = Callable[[socket.socket], None]


def started(pid: Any = 2, service: Any = "main") -> bytes:
    """An event as init sends it, or nearly."""
    return encode({"event": "started", "service": service, "pid": pid, "time": 1.0})


def says(*parts: bytes) -> Speech:
    """Says that, and stays."""

    def speak(peer: socket.socket) -> None:
        for part in parts:
            peer.sendall(part)
        with suppress(OSError):
            while peer.recv(65536):
                pass

    return speak


def hangs_up(peer: socket.socket) -> None:
    """Says no more."""


def hands_over(peer: socket.socket) -> None:
    """Descriptors that nobody asked for, as many as fit, then frames that name them and more."""
    null = os.open("/dev/null", os.O_RDONLY)
    with suppress(OSError):
        for _ in range(64):
            socket.send_fds(peer, [encode({"event": "later", "fds": ["a", "b"]})], [null] * 16)
    os.close(null)


EXITED = {"event": "service_exited", "service": "main", "pid": 2, "wait_status": 0, "time": 1.0}
# What it says, and a word of the reason that its env has ended for.
BROKEN: dict[str, tuple[Speech, str]] = {
    "huge": (says(b"\xff\xff\xff\xff" + b"x" * 4096), "cap"),
    "garbled": (says(b"\x10\0\0\0" + os.urandom(4096)), "JSON"),
    "deep": (says((200_000).to_bytes(4, "little") + b"[" * 200_000), "JSON"),
    "list": (says(b"\x02\0\0\0[]"), "JSON"),
    "types": (says(started(pid="2")), "number"),
    "numbers": (says(started(pid=-1)), "number"),
    "times": (says(encode({**EXITED, "time": 1e300})), "time"),
    "half": (says(encode({"event": "service_exited"})), "event"),
    "answers": (says(encode({"id": "x", "ok": {}})), "number"),
    "fds": (hands_over, "init"),
    "closes": (hangs_up, "broke off"),
}
# What its env may live with: it says nothing that cannot be, of itself.
LIES: dict[str, Speech] = {
    "storm": says(*[started(pid=number % 9 + 2) for number in range(20_000)]),
    "others": says(*[encode({**EXITED, "service": name}) for name in ("web", "neighbour", "../neighbour", "\ud800", "")]),
    "unasked": says(*[encode({"id": number, "ok": {"session": "s", "pid": 1}}) for number in range(1000, 1100)]),
}


class Hostile:
    """Listens in an env's directory in its pid 1's place, which goes on living."""

    def __init__(self, env_dir: Path, speak: Speech) -> None:
        self.speak = speak
        with socket.socket(socket.AF_UNIX) as real:
            real.settimeout(PATIENCE)
            folder = os.open(env_dir, os.O_PATH)
            real.connect(f"/proc/self/fd/{folder}/init.sock")
            os.close(folder)
            inbox = Inbox(real)
            hello: dict[str, Any] = {}
            while not hello:
                with suppress(BlockingIOError):
                    inbox.pull()
                hello = next((message for message, _ in inbox.frames()), {})
        self.hello = encode(hello)
        self.server = listen(env_dir, "init.sock", socket.SOCK_STREAM)
        self.server.setblocking(True)
        self.peers: list[socket.socket] = []
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self) -> None:
        """Greet whoever comes, and go on."""
        while True:
            try:
                peer, _ = self.server.accept()
            except OSError:
                return
            self.peers.append(peer)
            with suppress(OSError):
                peer.sendall(self.hello)
                self.speak(peer)
            with suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
            peer.close()

    def close(self) -> None:
        """Go."""
        self.server.shutdown(socket.SHUT_RDWR)
        for peer in self.peers:
            with suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.server.close()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    """A daemon of this test's own, which it may kill."""
    yield from run_daemon()


def test_who_has_its_socket_harms_its_own_env_only(daemon: Daemon, tmp_path: Path) -> None:
    speeches = {**{name: speak for name, (speak, _) in BROKEN.items()}, **LIES}
    with daemon.client() as client, ExitStack() as closing:
        daemon.sandbox("run", "-d", "--name", "neighbour", "--wait", "-p", "3000", "--", PYTHON, "-c", SERVE, cwd=tmp_path)
        for name in speeches:
            run(client, ["sleep", "1000"], name=name, path=tmp_path)
        envs = {name: client.call(Inspect(target=name)).env for name in [*speeches, "neighbour"]}
        init_pids = closing.enter_context(watched(env.pid for name, env in envs.items() if name in BROKEN))
        daemon.kill()
        for name, speak in speeches.items():
            closing.callback(Hostile(daemon.dir / "envs" / envs[name].id, speak).close)
        daemon.start()
        assert daemon.request("neighbour") == (200, b"ok")
        with daemon.client() as next_client:
            for name, (_, word) in BROKEN.items():
                env = next_client.call(Wait(target=name, until="stopped", timeout=PATIENCE)).env
                assert (env.state, "init" in env.reason, word in env.reason) == ("failed", True, True), (name, env.reason)
                assert daemon.request("neighbour") == (200, b"ok")
            assert living(init_pids) == []
            assert {next_client.call(Inspect(target=name)).env.state for name in LIES} == {"ready"}
            assert next_client.call(Inspect(target="neighbour")).env.pid == envs["neighbour"].pid
        assert daemon.sandbox("exec", "neighbour", "--", "echo", "well").stdout == "well\n"
        daemon.sandbox("rm", "-f", "--receipt", *speeches)
