"""How long an init is waited for that does not greet: sandboxd.daemon.linking, with real processes at the other end."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from sandboxd.daemon import linking
from sandboxd.errors import NotFound, TimedOut
from sandboxd.launch.doorway import listen
from sandboxd.launch.initlink import InitLink

# Takes the connection that comes, and greets after so many seconds.
SILENT = """
import socket, sys, time
from sandboxd.launch.frames import VERSION, encode
server = socket.socket(fileno=int(sys.argv[1]))
server.setblocking(True)
peer, _ = server.accept()
print(flush=True)
end = time.monotonic() + float(sys.argv[3])
while time.monotonic() < end:
    if sys.argv[2] == "sleeps":
        time.sleep(end - time.monotonic())
if sys.argv[2] != "goes":
    peer.sendall(encode({"event": "hello", "version": VERSION, "status": {}}))
    peer.recv(1)
"""


def met(directory: Path, kind: str, seconds: float) -> None:
    """Wait for its greeting; the link is closed at the end."""

    async def meet(process: "subprocess.Popen[bytes]") -> None:
        link = await InitLink.open(directory, lambda event: None)
        assert process.stdout is not None
        process.stdout.readline()
        try:
            await linking.greeted(link, process.pid)
            assert link.is_open
        finally:
            link.close()

    with listen(directory, "init.sock", 1) as server:
        command = [sys.executable, "-c", SILENT, str(server.fileno()), kind, str(seconds)]
        with subprocess.Popen(command, pass_fds=[server.fileno()], stdout=subprocess.PIPE) as process:
            try:
                asyncio.run(meet(process))
            finally:
                process.kill()


def test_who_is_kept_busy_has_longer_than_who_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linking, "TIMEOUT", 0.2)
    met(tmp_path, "spins", 0.7)
    with pytest.raises(TimedOut):
        met(tmp_path, "sleeps", 1000)
    with pytest.raises(NotFound):
        met(tmp_path, "goes", 0.0)
    monkeypatch.setattr(linking, "MOST", 0.4)
    with pytest.raises(TimedOut):
        met(tmp_path, "spins", 1000)
