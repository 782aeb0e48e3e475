"""WebSockets: what a server answers to any frames is the same to the byte with the router between, and without.

So of sandboxd.router.tunnel and sandboxd.router.exchange, once more. The frames are the matters of the Autobahn test suite
(which itself runs on Python 2 only): framing, pings, reserved bits, opcodes, fragments, UTF-8, closes.
"""

import asyncio
import base64
import os
import resource
import socket
import struct
import sys
from collections.abc import Iterator

import pytest
from websockets.asyncio.client import connect as connect_async
from websockets.sync.client import connect

from tests.router.corpus.harness import straight
from tests.router.servers import pattern
from tests.router.standin import Bench, Standin
from tests.router.test_tunnels import WEBSOCKETS, wait_until_served

# The same library without its threads: frame by frame, so that what it says depends on nothing but the frames.
FRAMES = """
import resource, socket, threading
from websockets.frames import Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

SAY = ServerProtocol
SEND = {Opcode.TEXT: SAY.send_text, Opcode.BINARY: SAY.send_binary, Opcode.CONT: SAY.send_continuation}
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

def answer(protocol, event):
    if isinstance(event, Request):
        protocol.send_response(protocol.accept(event))
    elif event.opcode in SEND and protocol.state is State.OPEN:
        SEND[event.opcode](protocol, event.data, event.fin)

def converse(sock):
    protocol, ended = ServerProtocol(), False
    with sock:
        while not ended:
            data = sock.recv(65536)
            for byte in data:
                protocol.receive_data(bytes((byte,)))
                for event in protocol.events_received():
                    answer(protocol, event)
            if not data:
                protocol.receive_eof()
                ended = True
            for piece in protocol.data_to_send():
                if piece:
                    sock.sendall(piece)

def listen():
    listener = socket.create_server(("127.0.0.1", 3001), backlog=128)
    while True:
        threading.Thread(target=converse, args=(listener.accept()[0],), daemon=True).start()

threading.Thread(target=listen, daemon=True).start()
"""
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
MASK = b"\x11\x22\x33\x44"


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True) -> bytes:
    """One frame as a client sends it."""
    first = fin << 7 | rsv << 4 | opcode
    size = len(payload)
    bit = masked << 7
    if size < 126:
        head = struct.pack("!BB", first, bit | size)
    elif size < 65536:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    if not masked:
        return head + payload
    return head + MASK + bytes(byte ^ MASK[at % 4] for at, byte in enumerate(payload))


def closing(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason)


BYE = closing(1000)
CASES = {
    "text": frame(TEXT, b"hello") + BYE,
    "empty text": frame(TEXT) + BYE,
    **{f"text of {size}": frame(TEXT, b"*" * size) + BYE for size in (125, 126, 127, 65535, 65536, 70000)},
    "binary": frame(BINARY, bytes(range(256))) + BYE,
    "many": b"".join(frame(BINARY, b"%d" % number) for number in range(200)) + BYE,
    "ping": frame(PING, b"are you there") + BYE,
    "ping without a payload": frame(PING) + BYE,
    "ping of 125": frame(PING, b"*" * 125) + BYE,
    "ping of 126": frame(PING, b"*" * 126) + BYE,
    "ten pings": b"".join(frame(PING, b"%d" % number) for number in range(10)) + BYE,
    "pong nobody asked for": frame(PONG, b"x") + frame(TEXT, b"y") + BYE,
    "a fragmented ping": frame(PING, b"x", fin=False) + BYE,
    **{f"reserved bits {bits}": frame(TEXT, b"x", rsv=bits) + BYE for bits in range(1, 8)},
    **{f"opcode {code}": frame(code, b"x") + BYE for code in (3, 5, 7, 11, 15)},
    "two fragments": frame(TEXT, b"hel", fin=False) + frame(0, b"lo") + BYE,
    "fragments with a ping between": frame(TEXT, b"hel", fin=False) + frame(PING, b"p") + frame(0, b"lo") + BYE,
    "empty fragments": frame(TEXT, fin=False) + frame(0, fin=False) + frame(0) + BYE,
    "a continuation of nothing": frame(0, b"lo") + BYE,
    "a text within a text": frame(TEXT, b"hel", fin=False) + frame(TEXT, b"lo") + BYE,
    "UTF-8": frame(TEXT, "κόσμε".encode()) + BYE,
    "UTF-8 cut by a fragment": frame(TEXT, "κ".encode()[:1], fin=False) + frame(0, "κ".encode()[1:]) + BYE,
    "bad UTF-8": frame(TEXT, b"\xce\xba\xed\xa0\x80") + BYE,
    "unmasked": frame(TEXT, b"x", masked=False) + BYE,
    **{f"close {code}": closing(code) for code in (1000, 1001, 1002, 1003, 1007, 1011, 3000, 4999)},
    **{f"close {code}, which is none": closing(code) for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000, 65535)},
    "close with a reason": closing(1000, b"bye"),
    "close without a code": frame(CLOSE),
    "close of one byte": frame(CLOSE, b"\x03"),
    "close with a reason that is no UTF-8": closing(1000, b"\xff"),
    "text behind a close": BYE + frame(TEXT, b"late"),
    "the end without a close": frame(TEXT, b"hello"),
    "half a frame": frame(TEXT, b"hello")[:5],
    "no frame at all": b"GET / HTTP/1.1\r\nHost: blog.localhost\r\n\r\n",
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bench, Standin]]:
    """A router, and an env with a server of the `websockets` library that says everything twice."""
    directory = tmp_path_factory.mktemp("websockets")
    env = Standin("shop", directory / "env", serve=(), run=[sys.executable, "-c", FRAMES + WEBSOCKETS])
    (directory / "state").mkdir()
    bench = Bench(directory / "state")
    endpoints = [env.endpoint(), env.endpoint(service="frames", port=3001)]
    bench.push(endpoints, hosts={"shop.localhost": 0, "frames.localhost": 1})
    wait_until_served(bench)
    yield bench, env
    bench.close()
    env.close()


def spoken(sock: socket.socket, data: bytes) -> bytes:
    """All that comes behind the 101, for these bytes behind the request for it and then the end."""
    key = base64.b64encode(bytes(16)).decode()
    request = (
        f"GET / HTTP/1.1\r\nHost: frames.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: {key}\r\n"
    )
    with sock:
        sock.settimeout(30)
        sock.sendall(request.encode() + b"Sec-WebSocket-Version: 13\r\n\r\n")
        file = sock.makefile("rb")
        assert file.readline().startswith(b"HTTP/1.1 101")
        while file.readline() != b"\r\n":
            pass
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has closed already
        received = b""
        try:
            while piece := file.read1(65536):
                received += piece
        except ConnectionResetError:
            pass
        file.close()
    return received


@pytest.mark.parametrize("name", CASES)
def test_a_server_answers_the_same_to_any_frames(served: tuple[Bench, Standin], name: str) -> None:
    bench, env = served
    alone = spoken(straight(env, 3001), CASES[name])
    assert spoken(bench.connect(), CASES[name]) == alone
    assert alone or name in SILENT


SILENT = ("half a frame",)


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_large_messages(served: tuple[Bench, Standin], compression: str | None) -> None:
    bench, _ = served
    options = {"sock": bench.connect(), "max_size": None, "compression": compression, "open_timeout": 60, "close_timeout": 60}
    with connect(f"ws://shop.localhost:{bench.port}/", **options) as connection:
        extensions = [extension.name for extension in connection.protocol.extensions]
        assert extensions == (["permessage-deflate"] if compression else [])
        for message in (pattern(16 << 20), "ä" * (4 << 20), b"", os.urandom(3 << 20)):
            connection.send(message)
            assert connection.recv(120) == message
        pong = connection.ping(b"still there?")
        assert pong.wait(60)
    assert connection.close_code == 1000


def test_a_thousand_at_once(served: tuple[Bench, Standin]) -> None:
    bench, _ = served
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    count = min(1000, min(hard, 4096) - 200)
    try:
        assert asyncio.run(talk_all(bench, count)) == count
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def talk_all(bench: Bench, count: int) -> int:
    """Each says its number and hears it; all are open before the first speaks."""
    gate = asyncio.Semaphore(50)  # handshakes at once
    opened = asyncio.Event()
    waiting = count

    async def one(number: int) -> bool:
        nonlocal waiting
        async with gate:
            options = {"sock": bench.connect(), "open_timeout": 120, "ping_interval": None, "proxy": None}
            connection = await connect_async(f"ws://shop.localhost:{bench.port}/", **options)
        waiting -= 1
        if not waiting:
            opened.set()
        await opened.wait()
        async with connection:
            await connection.send(f"number {number}")
            return await connection.recv() == f"number {number}"

    return sum(await asyncio.gather(*(one(number) for number in range(count))))
