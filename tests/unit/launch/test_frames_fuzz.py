"""Whatever a hostile init sends is an event that can be journalled, or a ProtocolViolation; nothing else comes of it.

The invariant is that of a parser's fuzz (parse, or say that it is none), and one more: what was taken for an event goes through
the state machine and into the journal, since an actor that stumbles there would leave an env nobody can end.
"""

import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.errors import ProtocolViolation, SandboxdError
from sandboxd.launch.exits import read_line
from sandboxd.launch.frames import decode, encode, error_from
from sandboxd.launch.initevents import ExecFailed, ServiceExited, SessionExited, Started, as_event, as_init_status, as_opened
from sandboxd.launch.program import Program
from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.machine import step
from sandboxd.lifecycle.records import EnvRecord, Identity, ServiceRecord, exit_code_of
from sandboxd.lifecycle.states import State
from sandboxd.routing.orders import FrameError, Frames, order_decoder, report_decoder
from sandboxd.routing.orders import decode as decode_order
from sandboxd.spec import EnvSpec, Service

NUMBERS = st.one_of(st.integers(), st.sampled_from([2**31, 2**63, 2**64, 10**400, -1, 0x7F, 0xFFFF, 0x137F]), st.floats())
TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(["web", "\ud800", "\0", "../../x", "", "x" * 5000, "\x1b[2J", "a/b"]))
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)
CODES = st.sampled_from(["NotFound", "LaunchFailed", "KernelError", "Internal", "made up"]) | TEXTS
ERRORS = st.fixed_dictionaries(
    {"code": CODES, "message": TEXTS, "hint": TEXTS, "details": st.dictionaries(TEXTS | st.just("errno"), LEAVES, max_size=3)}
)
KEYS = ("service", "pid", "time", "wait_status", "session", "reason", "error")
DEEP = st.builds(
    lambda opening, count: opening * count, st.sampled_from([b"[", b'{"a":', b'[{"":']), st.sampled_from([10, 1100])
)
BODIES = st.binary(max_size=300) | DEEP | JSON.map(lambda value: json.dumps(value).encode())
EVENTS = st.builds(
    lambda name, fields, error: {"event": name, **fields, **({"error": error} if error is not None else {})},
    st.sampled_from(["started", "exec_failed", "service_exited", "session_exited", "hello", "denied"]) | TEXTS,
    st.dictionaries(st.sampled_from(KEYS), JSON, max_size=7),
    st.none() | ERRORS,
)
PLAUSIBLE = st.fixed_dictionaries(
    {
        "event": st.sampled_from(["started", "exec_failed", "service_exited", "session_exited"]),
        "service": TEXTS, "session": TEXTS, "pid": NUMBERS, "time": NUMBERS, "wait_status": NUMBERS, "error": ERRORS,
    }
)  # fmt: skip


def record() -> EnvRecord:
    """A running env with one service."""
    spec = EnvSpec(services={"web": Service(command=["true"])})
    return EnvRecord(
        id="0" * 32, name="shop", owner=1000, group=1000, spec=spec, services={"web": ServiceRecord(name="web")}, created=1.0,
        state=State.STARTING, init=Identity(pid=2, start_time=1, boot_id="b"),
    )  # fmt: skip


def obey(message: dict[str, Any]) -> None:
    """As the daemon does with an event of init's: into the machine, into the journal."""
    posted: list[ev.Event] = []
    match as_event(message):
        case Started(service=service, pid=pid):
            posted.append(ev.ServiceStarted(service=service, pid=pid))
        case ExecFailed(service=service, error=error):
            posted.append(ev.ServiceRefused(service=service, error=(error.code, error.message, error.hint)))
        case ServiceExited(service=service, pid=pid, wait_status=status):
            posted.append(ev.ServiceExited(service=service, pid=pid, exit_code=exit_code_of(status)))
        case SessionExited(wait_status=status) if status is not None:
            exit_code_of(status)
    for event in posted:
        found, _ = step(record(), event, time.time())
        msgspec.json.encode(found)


@given(EVENTS | PLAUSIBLE)
def test_any_event_is_obeyed_or_none(message: dict[str, Any]) -> None:
    try:
        obey(message)
    except ProtocolViolation:
        return


@given(JSON | st.fixed_dictionaries({"services": JSON, "failed": st.dictionaries(TEXTS, ERRORS | JSON), "sessions": JSON}))
def test_any_status_is_one_or_none(data: Any) -> None:
    try:
        found = as_init_status(data)
    except ProtocolViolation:
        return
    for error in found.failed.values():
        msgspec.json.encode([error.code, error.message, error.hint])


@given(ERRORS | JSON)
def test_any_error_is_one_or_none(data: Any) -> None:
    try:
        found = error_from(data)
    except ProtocolViolation:
        return
    assert isinstance(found, SandboxdError)
    msgspec.json.encode([found.code, found.message, found.hint])


@given(BODIES)
def test_any_bytes_are_a_message_or_none(body: bytes) -> None:
    try:
        found = decode(body)
    except ProtocolViolation:
        return
    assert decode(encode(found)[4:]) == found


@given(JSON)
def test_a_session_is_one_or_none(found: Any) -> None:
    if not isinstance(found, dict):
        return
    with pytest.raises(ProtocolViolation):
        as_opened(found, {}, {"stdout", "stderr"})


@given(JSON | st.fixed_dictionaries({"argv": JSON, "env": JSON, "rlimits": JSON, "umask": JSON, "rows": JSON, "workdir": JSON}))
def test_a_command_is_one_or_said_to_be_none(given_: Any) -> None:
    try:
        Program(given_)
    except SandboxdError:
        return


@given(BODIES | PLAUSIBLE.map(lambda value: json.dumps(value).encode()))
def test_a_line_of_the_exits_file_is_one_or_passed_over(line: bytes) -> None:
    found = read_line(line)
    assert found is None or found.line()


@given(st.lists(BODIES, max_size=3), st.binary(max_size=8))
def test_orders_to_the_router_and_its_reports_are_such_or_none(bodies: list[bytes], rest: bytes) -> None:
    frames = Frames()
    data = b"".join(len(body).to_bytes(4, "little") + body for body in bodies) + rest
    try:
        found = frames.feed(data)
    except FrameError:
        return
    assert found[: len(bodies)] == bodies
    for body in found:
        assert decode_order(order_decoder, body) is None or b"tag" in body or b"type" in body
        decode_order(report_decoder, body)


def test_deep_nesting_is_no_order() -> None:
    assert decode_order(order_decoder, b'{"type":"table","x":' * 100_000) is None
