"""A request that waits for a service which is ready once it listens is let in as soon as it does: sandboxd.router.knocking."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandboxd.router.backends import Backend, Env
from sandboxd.router.knocking import Knock
from sandboxd.routing.table import Endpoint
from tests.router.standin import Bench, Standin, rested, settle
from tests.router.talk import Talk


def test_nobody_need_tell_that_it_listens(bench: Bench, standin: Callable[..., Standin]) -> None:
    shop = standin("shop", serve=[("counting", "127.0.0.1", 3000)])
    bench.push([shop.endpoint(state="starting", early=True)])
    with Talk(bench.connect()) as first, Talk(bench.connect()) as second:
        assert first.get().body == b"[1, 1]"
        assert first.get().body == b"[1, 2]"
        assert second.get().body == b"[1, 3]"
        bench.push([shop.endpoint()])
        assert second.get().body == b"[1, 4]"


def test_what_is_to_be_told_is_waited_for(bench: Bench, shop: Standin) -> None:
    bench.push([shop.endpoint(state="starting")], hold=0.5)
    with Talk(bench.connect()) as talk:
        assert talk.get().status == 503


@pytest.mark.parametrize("dial", ["of_the_host", "ends", "babbling"])
def test_a_socket_that_is_not_its_own_lets_nobody_in(bench: Bench, standin: Callable[..., Standin], dial: str) -> None:
    bench.push([standin("shop", dial=dial).endpoint(state="starting", early=True)], hold=0.5)
    with Talk(bench.connect()) as talk:
        assert talk.get().status == 503


def test_an_env_that_never_listens_costs_a_moment_and_nothing_stays(bench: Bench, standin: Callable[..., Standin]) -> None:
    other, silent = standin("other"), standin("shop", serve=[])
    bench.push([other.endpoint(), silent.endpoint(state="starting", early=True)])
    before = rested(bench, "other.localhost")
    with Talk(bench.connect()) as talk:
        talk.send(b"GET / HTTP/1.1\r\nHost: shop.localhost\r\n\r\n")
        bench.spin(0.1)
        assert bench.run(bench.handle.release(silent.env_id))
        bench.push([other.endpoint(), silent.endpoint(state="failed", reason="it ended")])
        assert talk.answer().status == 503
    settle(bench, before)


# -- without a router --------------------------------------------------------------------------------------------------


class Hours:
    """A loop of which the test turns the hands."""

    def __init__(self) -> None:
        self.now = 0.0
        self.foreign = 0
        self.due: list[tuple[float, Callable[[], None]]] = []

    def guard(self) -> None:
        """Nothing here takes long."""

    def hold_foreign(self) -> None:
        self.foreign += 1

    def drop_foreign(self) -> None:
        self.foreign -= 1

    def on_behalf(self, _who: object, call: Callable[[], None]) -> None:
        call()

    def watch(self, fd: int, who: object, mask: int) -> None:
        raise AssertionError("there is nothing to be heard of")

    def at(self, when: float, call: Callable[[], None]) -> None:
        self.due.append((when, call))

    def turn(self) -> None:
        """To the next that is due."""
        self.now, call = self.due.pop(0)
        call()


class Guest:
    """Waits, and takes what it is given."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.is_held = True
        self.given: Any = None

    def reconsider(self) -> None:
        assert self.backend.knock is not None
        self.given = self.backend.knock.give(self)

    def on_event(self, mask: int) -> None:
        raise AssertionError(mask)

    def abort(self, *, stalled: bool = False) -> None:
        raise AssertionError(stalled)


@pytest.fixture
def deaf() -> Iterator[socket.socket]:
    """A socket that has a port and does not listen."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


@pytest.fixture
def hours() -> Hours:
    return Hours()


@pytest.fixture
def guest(deaf: socket.socket, hours: Any) -> Guest:
    """Somebody who waits for it, and has begun to knock."""
    port = deaf.getsockname()[1]
    place = Endpoint(
        env_id="e", name="n", service="s", state="starting", dial="", port=port, netns_cookie=0, owner=0, early=True
    )
    made = Guest(Backend(place, Env("e"), hours))
    made.backend.knock = Knock(made.backend, made)
    made.backend.knock.start()
    return made


def test_it_is_tried_again_until_it_listens(deaf: socket.socket, guest: Guest, hours: Hours) -> None:
    for _ in range(3):
        hours.turn()
    assert guest.given is None
    deaf.listen()
    hours.turn()
    accepted, source = deaf.accept()
    assert guest.given is not None
    assert guest.given.getsockname() == source
    accepted.close()
    guest.given.close()
    assert (guest.backend.knock, guest.backend.env.held, hours.foreign, hours.due) == (None, set(), 0, [])


def test_after_a_while_it_is_left_to_others(guest: Guest, hours: Hours) -> None:
    while hours.due:
        hours.turn()
    assert 0.1 < hours.now < 1.0
    assert guest.given is None
    assert guest.backend.knock is not None  # so that there is not another one for every change of the table
    assert (guest.backend.env.held, hours.foreign) == (set(), 0)


def test_who_leaves_ends_it(deaf: socket.socket, guest: Guest, hours: Hours) -> None:
    guest.is_held = False
    deaf.listen()
    hours.turn()
    assert (guest.backend.knock, guest.backend.env.held, hours.foreign, hours.due) == (None, set(), 0, [])
    deaf.setblocking(False)
    with pytest.raises(BlockingIOError):
        deaf.accept()


def test_an_init_that_is_not_there_yet_is_asked_again(hours: Any, tmp_path: Path) -> None:
    dial = str(tmp_path / "dial.sock")
    place = Endpoint(
        env_id="e", name="n", service="s", state="starting", dial=dial, port=1, netns_cookie=7, owner=0, early=True
    )
    guest = Guest(Backend(place, Env("e"), hours))
    guest.backend.knock = Knock(guest.backend, guest)
    guest.backend.knock.start()
    for _ in range(3):
        assert (len(hours.due), len(guest.backend.env.held)) == (1, 1)
        hours.turn()
    guest.is_held = False
    hours.turn()
    assert (guest.backend.knock, guest.backend.env.held, hours.foreign, hours.due) == (None, set(), 0, [])
