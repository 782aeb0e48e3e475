"""What waits costs no processor time: a level-triggered loop that is told of what nobody takes would never rest.

So of sandboxd.router.loop, of parking in sandboxd.router.relay, and of reading on in sandboxd.router.client.
"""

import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from tests.router.servers import pattern
from tests.router.standin import Bench, Standin
from tests.router.talk import Talk

TICKS = os.sysconf("SC_CLK_TCK")


def seconds(pid: int) -> float:
    """Processor time of that process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def send_what_fits(talk: Talk, data: bytes) -> None:
    """Until nobody takes more."""
    talk.sock.settimeout(0.3)
    try:
        while True:
            talk.send(data)
    except TimeoutError:
        talk.sock.settimeout(30)


def test_nothing_spins(bench: Bench, standin: Callable[..., Standin]) -> None:
    shop, starting = standin("shop"), standin("starting")
    bench.push([shop.endpoint(), starting.endpoint(state="starting")])
    head = b" HTTP/1.1\r\nHost: shop.localhost\r\n"
    talks = {
        name: Talk(bench.connect()) for name in ("unfinished", "upload", "slow", "cut", "half", "gone", "idle", "held", "early")
    }
    talks["unfinished"].send(b"GET /" + head)
    talks["upload"].send(b"POST /gated" + head + b"Content-Length: 100000000\r\n\r\n")
    send_what_fits(talks["upload"], pattern(1 << 20))
    talks["slow"].send(b"GET /bytes?300000000" + head + b"\r\n")
    talks["cut"].send(b"GET /cut-off-stream?9000000" + head + b"\r\n")  # the service resets while the client is not read to
    talks["half"].send(b"GET /hang" + head + b"\r\n")
    talks["half"].sock.shutdown(socket.SHUT_WR)
    talks["gone"].send(b"POST /gated" + head + b"Content-Length: 100000000\r\n\r\n")
    send_what_fits(talks["gone"], pattern(1 << 20))
    talks["gone"].sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    talks["gone"].close()  # a reset while the router does not read it
    assert talks["idle"].get().status == 200
    talks["held"].send(b"GET / HTTP/1.1\r\nHost: starting.localhost\r\n\r\n" + b"GET /" + head * 20)
    talks["early"].send(b"GET /hang" + head + b"\r\n" + pattern(200_000))  # far more than is kept for later
    bench.spin(0.5)
    before = seconds(bench.workers()[0])
    bench.spin(2.0)
    used = seconds(bench.workers()[0]) - before
    for talk in talks.values():
        talk.close()
    assert used < 0.5, f"{used:.2f} s of processor time while nothing happened"


def test_an_idle_router_sleeps(bench: Bench, shop: Standin) -> None:
    with Talk(bench.connect()) as talk:
        assert talk.get().status == 200
    bench.spin(0.2)
    before = seconds(bench.workers()[0])
    bench.spin(1.5)
    assert seconds(bench.workers()[0]) - before < 0.1
