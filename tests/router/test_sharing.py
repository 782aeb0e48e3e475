"""How workers share what waits: sandboxd.router.sharing, and listeners that leave it to others."""

import socket
from collections.abc import Iterator

import pytest

from sandboxd.router import listener as listening
from sandboxd.router.listener import Listener
from sandboxd.router.loop import Loop
from sandboxd.router.sharing import BATCH, SHARE, SLACK, Share


def loads(*numbers: int) -> memoryview:
    """As the master shares them out."""
    found = memoryview(bytearray(4 * len(numbers))).cast("I")
    for place, number in enumerate(numbers):
        found[place] = number
    return found


def test_one_that_is_alone_takes_what_it_has_room_for() -> None:
    share = Share(loads(0), 0, 100)
    assert [share.room(held) for held in (0, 90, 100)] == [BATCH, 10, 0]
    assert not share.yields


def test_of_several_nobody_takes_far_more_than_another() -> None:
    both = loads(0, 0)
    one, two = Share(both, 0, 1000), Share(both, 1, 1000)
    assert one.room(0) == SHARE
    assert one.room(SLACK) == -1  # one all the same, which brought the event, and then the other's turn
    assert one.yields
    assert not one.takes_again(SLACK)
    assert one.takes_again(SLACK - 1)  # its own have ended: the other took none, and nobody would
    assert not one.yields
    assert one.room(40) == -1
    assert two.room(30) == min(SHARE, 40 + SLACK + 10 - 30)
    assert one.takes_again(40)  # the other has as many by now
    assert Share(both, 0, 40).room(40) == 0  # full is full, whatever the others have


@pytest.mark.parametrize(("address", "paced"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_who_comes_over_loopback_is_sent_to_without_pacing(loop: Loop, address: str, paced: bool) -> None:
    """What the host has chosen for its ways out (BBR) stays for whoever may come from elsewhere."""
    taken = []

    def accepted(sock: object, _source: object) -> None:
        taken.append(sock)
        loop.stop()

    server = socket.create_server((address, 0))
    chosen = server.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    waiting = Listener(loop, server, accepted, lambda: 1)
    with socket.create_connection(("127.0.0.1", server.getsockname()[1]), 30):
        loop.run()
    (sock,) = taken
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16) == (chosen if paced else b"reno".ljust(16, b"\0"))
    waiting.close()
    sock.close()


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def test_a_listener_that_left_what_waits_to_others_takes_it_when_told(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "YIELD", 3600.0)  # never within this test by itself
    rooms, taken = [-1, 1], []

    def accepted(sock: socket.socket, _source: object) -> None:
        taken.append(sock)
        loop.stop()

    server = socket.create_server(("127.0.0.1", 0))
    waiting = Listener(loop, server, accepted, lambda: rooms.pop(0))  # type: ignore[arg-type]
    clients = [socket.create_connection(server.getsockname(), 30) for _ in range(2)]
    loop.run()
    assert (len(taken), rooms) == (1, [1])
    waiting.resume()
    waiting.resume()  # told twice is told once
    loop.run()
    assert (len(taken), rooms) == (2, [])
    waiting.close()
    for sock in (*clients, *taken):
        sock.close()
