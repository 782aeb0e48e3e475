"""A call and its answers without a socket: whole, in pieces, with the error that came instead."""

import json

import pytest

from sandboxd.client.holding import Idle
from sandboxd.client.session import Exchange, asked_again, check, method_of, named, session_of, unreachable, with_descriptors
from sandboxd.daemon.parting import leaving
from sandboxd.errors import DaemonUnreachable, NotFound, ProtocolViolation, SpecInvalid, UsageError
from sandboxd.protocol import messages as m
from sandboxd.protocol.envelopes import encode_error, encode_reply
from sandboxd.spec import EnvSpec, Service

SPEC = EnvSpec(services={"main": Service(command="true")})


def test_a_request_is_a_frame_of_its_method() -> None:
    exchange = Exchange(m.Stop(target="shop", timeout=3))
    assert exchange.method == "Stop"
    assert json.loads(exchange.request[:-1]) == {
        "method": "io.sandboxd.Control.Stop",
        "parameters": {"target": "shop", "timeout": 3},
    }
    assert json.loads(Exchange(m.Events(), more=True).request[:-1])["more"] is True


def test_every_method_is_found_by_its_parameters() -> None:
    assert [method_of(method.params) for method in m.METHODS.values()] == list(m.METHODS)
    with pytest.raises(TypeError, match="no method's parameters"):
        method_of(m.Params)


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_answers_in_any_pieces(size: int) -> None:
    exchange = Exchange(m.Events(follow=True), more=True)
    event = m.Event(time="t", event="ready", id="1", name="a")
    data = encode_reply(m.EventsReply(events=[event]), continues=True) + encode_reply(m.EventsReply(events=[]))
    replies = []
    for start in range(0, len(data), size):
        exchange.feed(data[start : start + size])
        while not exchange.done and (reply := exchange.next_reply()) is not None:
            replies.append(reply)
    assert replies == [m.EventsReply(events=[event]), m.EventsReply(events=[])]
    assert exchange.done
    assert exchange.reusable


def test_an_error_is_raised_as_its_class_and_leaves_the_connection_good() -> None:
    exchange = Exchange(m.Inspect(target="x"))
    exchange.feed(encode_error(NotFound("no env `x`", hint="sandbox ps", name="x")))
    with pytest.raises(NotFound, match="no env `x`") as caught:
        exchange.next_reply()
    assert caught.value.details == {"name": "x"}
    assert exchange.reusable


def test_what_comes_behind_the_last_answer_spoils_the_connection() -> None:
    exchange = Exchange(m.SessionResize(session="s", rows=1, cols=1))
    exchange.feed(encode_reply(m.Empty()) + b"more")
    assert exchange.next_reply() == m.Empty()
    assert exchange.done
    assert not exchange.reusable


def test_a_daemon_that_hangs_up() -> None:
    exchange = Exchange(m.Inspect(target="x"))
    exchange.feed(b'{"parameters"')
    assert exchange.next_reply() is None
    with pytest.raises(DaemonUnreachable, match="before it answered Inspect"):
        exchange.feed(b"")
    assert not exchange.reusable


def test_a_daemon_that_talks_nonsense() -> None:
    exchange = Exchange(m.Inspect(target="x"))
    exchange.feed(b"HTTP/1.1 400 Bad Request\r\n\0")
    with pytest.raises(ProtocolViolation):
        exchange.next_reply()


@pytest.mark.parametrize(
    ("params", "kind", "key"),
    [
        (m.Stop(target=5), UsageError, "target"),  # type: ignore[arg-type]
        (m.List(filters="status=ready"), UsageError, "filters"),  # type: ignore[arg-type]
        (m.Run(spec=EnvSpec(services={}, name="No Label")), SpecInvalid, "spec.name"),
        (m.Run(spec=EnvSpec(services={"a": Service(command="x", port=0)})), SpecInvalid, "spec.services[...].port"),
        (m.Run(spec=SPEC, wait="forever"), UsageError, "wait"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_parameter_is_named_before_anything_is_sent(params: m.Params, kind: type[UsageError], key: str) -> None:
    """Structs made in Python are not checked when they are made."""
    with pytest.raises(UsageError) as caught:
        Exchange(params)
    assert type(caught.value) is kind
    assert caught.value.details == {"key": key}
    assert key in caught.value.message


def test_right_parameters_pass() -> None:
    check(m.Run(spec=SPEC, environ={"PATH": "/bin"}))
    check(m.Status())


def test_a_session_asks_for_its_descriptors() -> None:
    attached = with_descriptors(m.Run(spec=SPEC))
    assert isinstance(attached, m.Run)
    assert attached.fds
    assert attached.attach
    assert with_descriptors(m.Exec(target="a", argv=["x"])).fds
    assert with_descriptors(m.Attach(target="a")).fds


def test_descriptors_have_the_names_of_their_reply() -> None:
    reply = m.SessionReply(session="s", fds=["stdin", "stdout"])
    assert named(reply, [5, 6]) == {"stdin": 5, "stdout": 6}
    for wrong in ([5], [5, 6, 7]):
        with pytest.raises(ProtocolViolation):
            named(reply, wrong)
    with pytest.raises(ProtocolViolation):
        named(m.SessionReply(session="s", fds=["pty", "pty"]), [5, 6])
    with pytest.raises(ProtocolViolation):
        named(m.Empty(), [5])


def test_the_session_of_a_reply() -> None:
    assert session_of(m.SessionReply(session="s")) == "s"
    assert session_of(m.Empty()) is None


def test_only_a_leaving_daemon_says_that_the_next_may_be_asked() -> None:
    asked = m.List()
    assert asked_again(asked, leaving()) is asked
    with pytest.raises(DaemonUnreachable, match="closed"):
        asked_again(asked, DaemonUnreachable("the daemon closed the connection"))


def test_of_a_run_that_was_cut_short_the_next_daemon_is_asked_for_its_env() -> None:
    run, env_id = m.Run(spec=SPEC, wait="ready"), "a" * 32
    assert asked_again(run, leaving()) is run
    for begun in (False, True):
        again = asked_again(run, leaving(env_id), begun=begun)
        assert again == m.Run(spec=SPEC, wait="ready", again=env_id)
    with pytest.raises(DaemonUnreachable, match="leaving"):
        asked_again(run, leaving(), begun=True)  # some of the answer has come
    with pytest.raises(DaemonUnreachable, match="leaving"):
        asked_again(m.Events(), leaving(env_id), begun=True)


@pytest.mark.parametrize("env", [7, None, [], {}, ""])
def test_an_env_that_is_no_id_is_not_asked_for(env: object) -> None:
    error = DaemonUnreachable("the daemon is leaving", leaving=True, env=env)
    asked = m.Run(spec=SPEC)
    assert asked_again(asked, error) is asked


def test_no_daemon() -> None:
    error = unreachable("/run/x.sock", "nothing listens there")
    assert "/run/x.sock" in error.message
    assert "sandbox daemon start" in error.hint


class Line:
    """A connection that is fresh or not."""

    def __init__(self, *, fresh: bool = True) -> None:
        self.fds: list[int] = []
        self.is_fresh = fresh
        self.closed = False

    def close(self) -> None:
        self.closed = True


class Over:
    """A call whose connection can carry another one, or cannot."""

    def __init__(self, *, reusable: bool) -> None:
        self.reusable = reusable


def test_idle_connections_are_kept_while_they_are_good() -> None:
    idle: Idle[Line] = Idle(2)
    lines = [Line(), Line(), Line(), Line(fresh=False)]
    for line in lines[:3]:
        idle.give_back(line, Over(reusable=True))  # type: ignore[arg-type]
    assert [line.closed for line in lines] == [False, False, True, False], "no more than two"
    assert idle.take() is lines[1]
    idle.give_back(lines[3], Over(reusable=True))  # type: ignore[arg-type]
    assert idle.take() is lines[0], "what is stale is closed and passed over"
    assert lines[3].closed
    assert idle.take() is None
    idle.give_back(lines[0], Over(reusable=False))  # type: ignore[arg-type]
    assert lines[0].closed
