"""Large bodies arrive whole, whatever becomes of pipes; hashes decide.

So of sandboxd.router.relay, sandboxd.router.pipes and sandboxd.kernel.splice.
"""

import fcntl
import hashlib
import json
import os
import threading
from collections.abc import Callable

import pytest

from tests.router.servers import pattern
from tests.router.standin import Bench, Standin, rested, settle
from tests.router.talk import Talk

BIG = 110_000_001
BLOCK = pattern(1 << 20)


def expected(count: int) -> str:
    """The hash of pattern(count)."""
    digest = hashlib.sha256()
    for _ in range(count // len(BLOCK)):
        digest.update(BLOCK)
    digest.update(BLOCK[: count % len(BLOCK)])
    return digest.hexdigest()


def download(bench: Bench, count: int, *, slow: bool = False) -> str:
    """The hash of what came for /bytes?count."""
    digest = hashlib.sha256()
    with Talk(bench.connect()) as talk:
        talk.send(b"GET /bytes?%d HTTP/1.1\r\nHost: shop.localhost\r\n\r\n" % count)
        talk.head()
        left = count
        while left:
            data = talk.file.read1(min(left, 1 << 12 if slow else 1 << 20))
            if not data:
                return f"{left} of {count} are missing"
            digest.update(data)
            left -= len(data)
    return digest.hexdigest()


def upload(bench: Bench, count: int) -> tuple[int, str]:
    """What the service counted and hashed."""
    with Talk(bench.connect()) as talk:
        talk.send(b"POST /digest HTTP/1.1\r\nHost: shop.localhost\r\nContent-Length: %d\r\n\r\n" % count)
        for _ in range(count // len(BLOCK)):
            talk.send(BLOCK)
        talk.send(BLOCK[: count % len(BLOCK)])
        found = json.loads(talk.answer().body)
        return found[0], found[1]


def at_once(functions: list[Callable[[], None]]) -> None:
    """Run each in a thread of its own; their failures are ours."""
    failures: list[BaseException] = []

    def guarded(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_a_hundred_megabytes_each_way(bench: Bench, shop: Standin) -> None:
    assert download(bench, BIG) == expected(BIG)
    assert upload(bench, BIG) == (BIG, expected(BIG))


def test_many_at_once_with_fewer_pipes_than_connections(start: Callable[..., Bench], standin: Callable[..., Standin]) -> None:
    bench = start(pipes=3)
    bench.push([standin("shop").endpoint()])
    before = rested(bench)
    count = 2_500_003
    want = expected(count)

    def down() -> None:
        assert download(bench, count) == want

    def trickle() -> None:
        assert download(bench, count // 5, slow=True) == expected(count // 5)

    def up() -> None:
        assert upload(bench, count) == (count, want)

    at_once([down, up, trickle] * 14)
    settle(bench, before + 16 + 6)  # sockets kept ready after the rush; three pipes


@pytest.fixture
def hoarded_pipes() -> "object":
    """Take all the pipe pages that one uid may have, so that nobody's pipe can be grown any more."""
    ends: list[int] = []
    try:
        for _ in range(200):
            read_end, write_end = os.pipe()
            ends += [read_end, write_end]
            fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 1 << 20)
    except PermissionError:
        yield len(ends) // 2
    else:
        pytest.skip("this uid may grow pipes without limit (root, or CAP_SYS_RESOURCE)")
    finally:
        for end in ends:
            os.close(end)


def test_pipes_that_cannot_be_grown(hoarded_pipes: int, bench: Bench, shop: Standin) -> None:
    count = 9_000_001
    want = expected(count)

    def down() -> None:
        assert download(bench, count) == want

    def up() -> None:
        assert upload(bench, count) == (count, want)

    at_once([down, up] * 4)


def test_no_pipe_stays_with_connections_that_carry_nothing(bench: Bench, shop: Standin) -> None:
    talks = [Talk(bench.connect()) for _ in range(30)]
    for talk in talks:
        assert talk.get("/bytes?900000").body == pattern(900_000)
    pipes = {what for what in bench.descriptors().values() if what.startswith("pipe:")}
    assert len(pipes) <= 8
    for talk in talks:
        talk.close()
