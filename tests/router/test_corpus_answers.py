"""The corpus of answers, through the real router: whole and as meant, or refused, or cut so that the client can tell.

So of sandboxd.routing.responses, sandboxd.router.bodies and sandboxd.router.exchange. h11 is the client: what it makes of the
router's bytes is what the row says, and what it makes of the service's own bytes where those can be passed on.
"""

from collections.abc import Iterator

import h11
import pytest

from tests.router.corpus.answers import BAD, CUT, REST, ROWS
from tests.router.standin import Bench, Standin

NAMES = list(ROWS)
CHATTY = ("good: a 100 nobody waits for",)  # h11 as a client takes no 100 it did not ask for


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A router, and an env with the service that answers by the book."""
    directory = tmp_path_factory.mktemp("answers")
    env = Standin("shop", directory / "env", serve=[("book", "127.0.0.1", 3000)])
    made = Bench(directory)
    made.push([env.endpoint()])
    yield made
    made.close()
    env.close()


class Reader:
    """A client that believes what h11 does."""

    def __init__(self, bench: Bench) -> None:
        self.sock = bench.connect()
        self.connection = h11.Connection(h11.CLIENT)

    def ask(self, path: str) -> tuple[int, bytes, bool]:
        """Status, body, and whether that was all of it."""
        head = [("Host", "shop.localhost")]
        data = self.connection.send(h11.Request(method="GET", target=path, headers=head)) or b""
        self.sock.sendall(data + (self.connection.send(h11.EndOfMessage()) or b""))
        status, body = 0, b""
        while True:
            try:
                event = self.connection.next_event()
                if event is h11.NEED_DATA:
                    self.connection.receive_data(self.sock.recv(65536))
                elif isinstance(event, h11.Response):
                    status = event.status_code
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    return status, body, True
            except (h11.RemoteProtocolError, ConnectionResetError):
                return status, body, False

    def next(self) -> tuple[int, bytes, bool] | None:
        """The same for one more request; None where the connection goes no further."""
        if self.connection.our_state is not h11.DONE or self.connection.their_state is not h11.DONE:
            return None
        self.connection.start_next_cycle()
        return self.ask("/next")


@pytest.mark.parametrize("step", [0, 7])
@pytest.mark.parametrize("name", NAMES)
def test_an_answer_arrives_as_meant_or_not_at_all(bench: Bench, name: str, step: int) -> None:
    data, verdict, *body = ROWS[name]
    reader = Reader(bench)
    with reader.sock:
        status, came, whole = reader.ask(f"/{NAMES.index(name)}/{step}")
        if verdict == CUT:
            assert not whole
            return
        assert whole
        assert status == {BAD: 502, REST: 200}.get(verdict, verdict)
        if verdict != BAD:
            assert came == body[0]
            assert by_itself(data) == (status, came) or name in CHATTY or name.startswith("too much")
        # In pieces, what is too much may come when it can no longer be told from an answer.
        if not (step and name.startswith("too much")):
            assert reader.next() in (None, (200, b"/next", True))


def by_itself(data: bytes) -> tuple[int, bytes]:
    """What h11 makes of a service's bytes without a router."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    connection.receive_data(b"")
    status, body = 0, b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
    return status, body
