"""Idle envs: what counts as use, seen by a real daemon and router; the ladder down; a request brings it back.

So of sandboxd.daemon.idling.
"""

import socket
import subprocess
import time

import pytest
from websockets.sync.client import connect

from sandboxd.protocol import messages as m
from sandboxd.spec import Idle, Lifecycle
from tests.daemon.asking import SERVER, events, inspect, remove, run, until
from tests.daemons import PATIENCE

ECHO = """
import asyncio, base64, hashlib
async def serve(reader, writer):
    key = [line.split(b": ")[1].strip() async for line in head(reader) if line.lower().startswith(b"sec-websocket-key")][0]
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    writer.write(b"HTTP/1.1 101 S\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n")
    writer.write(b"Sec-WebSocket-Accept: " + accept + b"\\r\\n\\r\\n")
    while True:
        first, length = await reader.readexactly(2)
        length &= 127
        if length == 126: length = int.from_bytes(await reader.readexactly(2), "big")
        mask = await reader.readexactly(4)
        data = bytes(b ^ mask[i % 4] for i, b in enumerate(await reader.readexactly(length)))
        size = bytes([length]) if length < 126 else bytes([126]) + length.to_bytes(2, "big")
        writer.write(bytes([138 if first & 15 == 9 else first]) + size + data)
async def head(reader):
    while (line := await reader.readline()).strip(): yield line
async def main():
    async with await asyncio.start_server(serve, "127.0.0.1", 3000) as server: await server.serve_forever()
asyncio.run(main())
"""


@pytest.fixture
def client(shared_daemon):
    with shared_daemon.client() as client:
        yield client


def lifecycle(**idle):
    return Lifecycle(idle=Idle(**idle))


def reaches(client, target, state):
    until(lambda: inspect(client, target).state == state, state)


def comes(client, name, event, times):
    """That happened so often: told by the events, since on a busy machine a state may be over before anybody looks."""
    until(lambda: events(client, name).count(event) >= times, event)


def why(client, target):
    return client.call(m.Why(target=target)).awake


def test_the_ladder_and_back(shared_daemon, client, tmp_path):
    (tmp_path / "index.html").write_text("alive")
    run(
        client,
        [*SERVER, "3000"],
        name="ladder",
        path=tmp_path,
        port=3000,
        wait="ready",
        lifecycle=lifecycle(suspend=1.0, stop=3.0),
    )
    comes(client, "ladder", "suspended", 1)
    assert shared_daemon.request("ladder") == (200, b"alive")
    comes(client, "ladder", "waking", 1)
    comes(client, "ladder", "suspended", 2)
    comes(client, "ladder", "stopped", 1)
    reaches(client, "ladder", "stopped")
    found = inspect(client, "ladder")
    assert found.reason.startswith("idle: nobody used it for")
    assert "(idle)" in shared_daemon.sandbox("ps", "-a", "--filter", "name=ladder").stdout
    assert shared_daemon.request("ladder") == (200, b"alive")
    comes(client, "ladder", "stopped", 2)
    client.call(m.Stop(target="ladder"))
    status, page = shared_daemon.request("ladder")
    assert (status, b"Its owner stopped it" in page) == (503, True)
    assert remove(client, "ladder").leaked == {}


def test_an_idle_env_can_be_removed(client, tmp_path):
    run(client, "sleep 1000", name="gone", path=tmp_path, lifecycle=lifecycle(remove=1.0))
    assert client.call(m.Wait(target="gone", until="removed", timeout=PATIENCE)).env.state == "removed"


def stays_awake(client, target, seconds=2.5):
    """Whether it was awake all the time, over more than twice its rule's."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if inspect(client, target).state != "ready":
            return False
        time.sleep(0.05)
    return True


def test_background_work_is_not_idle(client, tmp_path):
    run(
        client,
        "while ! test -e over; do :; done; exec sleep 1000",
        name="works",
        path=tmp_path,
        lifecycle=lifecycle(suspend=1.0),
    )
    assert stays_awake(client, "works")
    assert "of a CPU" in why(client, "works")[0]
    (tmp_path / "over").touch()
    reaches(client, "works", "suspended")
    remove(client, "works")


def test_an_open_session_is_use(shared_daemon, client, tmp_path):
    run(client, "sleep 1000", name="exec", path=tmp_path, lifecycle=lifecycle(suspend=1.0))
    with client.open(m.Exec(target="exec", argv=["sleep", "1000"], fds=True)):
        assert stays_awake(client, "exec")
        assert why(client, "exec") == ["1 open session of exec or attach"]
    reaches(client, "exec", "suspended")
    remove(client, "exec")


def test_a_request_under_way_is_use(shared_daemon, client, tmp_path):
    slow = "import socket\ns = socket.create_server(('127.0.0.1', 3000))\nc, _ = s.accept()\nc.recv(9999)\n" \
        "import time\nopen('asked', 'w').close()\n" \
        "while not __import__('os').path.exists('go'): time.sleep(0.05)\n" \
        "c.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\nslow')\nc.close()\ntime.sleep(1000)\n"  # fmt: skip
    run(client, ["python3", "-c", slow], name="slow", path=tmp_path, port=3000, wait="ready", lifecycle=lifecycle(suspend=1.0))
    url = f"http://127.0.0.1:{shared_daemon.port}/"
    curl = subprocess.Popen(["curl", "-s", "-H", "Host: slow.localhost", url], stdout=subprocess.PIPE)
    try:
        until((tmp_path / "asked").exists, "the request")  # curl may take longer to start than the env to be idle, and wakes it
        reaches(client, "slow", "ready")
        assert stays_awake(client, "slow")
        assert why(client, "slow") == ["1 request under way"]
        (tmp_path / "go").touch()
        assert curl.communicate(timeout=PATIENCE)[0] == b"slow"
    finally:
        curl.kill()
        curl.wait()
        curl.stdout.close()
    reaches(client, "slow", "suspended")
    remove(client, "slow")


def test_a_websocket_that_only_pings_is_not_use_and_its_first_message_wakes(shared_daemon, client, tmp_path):
    run(client, ["python3", "-c", ECHO], name="ws", path=tmp_path, port=3000, wait="ready", lifecycle=lifecycle(suspend=1.5))
    address = f"ws://ws.localhost:{shared_daemon.port}/"

    with (
        socket.create_connection(("127.0.0.1", shared_daemon.port), PATIENCE) as sock,
        connect(address, sock=sock, compression=None, ping_interval=0.4) as connection,
    ):
        connection.send("hello")
        assert connection.recv() == "hello"
        reaches(client, "ws", "suspended")
        connection.send("again")
        assert connection.recv(timeout=PATIENCE) == "again"
        for _ in range(30):
            connection.send("x" * 200)
            assert len(connection.recv(timeout=PATIENCE)) == 200
            time.sleep(0.05)
        assert "open tunnel" in why(client, "ws")[0]
    remove(client, "ws")


def test_no_request_is_lost_while_it_comes_and_goes(shared_daemon, client, tmp_path):
    (tmp_path / "index.html").write_text("alive")
    rule = lifecycle(suspend=1.0, stop=1.1)
    run(client, [*SERVER, "3000"], name="flaps", path=tmp_path, port=3000, wait="ready", lifecycle=rule)
    seen = set()
    for number in range(8):
        time.sleep(0.95 + number * 0.06)
        seen.add(inspect(client, "flaps").state)
        assert shared_daemon.request("flaps") == (200, b"alive")
    assert seen & {"suspended", "stopping", "stopped"}
    remove(client, "flaps")


def test_another_daemon_goes_on_with_the_ladder(daemon, tmp_path):
    (tmp_path / "index.html").write_text("alive")
    with daemon.client() as client:
        run(
            client,
            [*SERVER, "3000"],
            name="web",
            path=tmp_path,
            port=3000,
            wait="ready",
            lifecycle=lifecycle(suspend=1.0, stop=3.0),
        )
        reaches(client, "web", "suspended")
    daemon.kill()
    daemon.start()
    with daemon.client() as client:
        reaches(client, "web", "stopped")
    daemon.kill()
    daemon.start()
    assert daemon.request("web") == (200, b"alive")
    with daemon.client() as client:
        assert remove(client, "web").leaked == {}


def test_a_request_waits_for_the_next_daemon(daemon, tmp_path):
    (tmp_path / "index.html").write_text("alive")
    with daemon.client() as client:
        run(client, [*SERVER, "3000"], name="web", path=tmp_path, port=3000, wait="ready", lifecycle=lifecycle(suspend=1.0))
        reaches(client, "web", "suspended")
    daemon.kill()
    url = f"http://127.0.0.1:{daemon.port}/"
    curl = subprocess.Popen(["curl", "-s", "-H", "Host: web.localhost", url], stdout=subprocess.PIPE)
    daemon.start()
    assert curl.communicate(timeout=PATIENCE)[0] == b"alive"
    with daemon.client() as client:
        remove(client, "web")


def test_the_flag_and_the_answer_to_why(shared_daemon, client, tmp_path):
    shared_daemon.sandbox("run", "-d", "--name", "flag", "--idle", "suspend=1s", "--", "sleep", "1000", cwd=tmp_path)
    assert client.call(m.Inspect(target="flag")).env.spec.lifecycle.idle == Idle(suspend=1.0)
    reaches(client, "flag", "suspended")
    assert shared_daemon.sandbox("wake", "flag").stdout == "flag\n"
    remove(client, "flag")
    run(client, "sleep 1000", name="rested", path=tmp_path, lifecycle=lifecycle(suspend=1000.0))
    assert "suspended in" in why(client, "rested")[0]
    assert "awake" in shared_daemon.sandbox("why", "rested").stdout
    remove(client, "rested")
