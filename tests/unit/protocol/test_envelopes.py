"""Calls, replies and errors in frames: what is sent arrives, what is wrong is named, and no error loses its class."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd import errors
from sandboxd.errors import KernelError, NotFound, PortTaken, ProtocolViolation, SandboxdError, SpecInvalid, UsageError
from sandboxd.protocol.envelopes import (
    ServiceError,
    culprit,
    decode_call,
    decode_parameters,
    decode_reply,
    encode_call,
    encode_error,
    encode_reply,
)
from sandboxd.protocol.messages import Empty, Inspect, InspectReply, List, ListReply, Run, SessionResize, Stop
from sandboxd.spec import EnvSpec, Limits, Service


def sent(value: object) -> bytes:
    return json.dumps(value).encode()


def given_parameters(value: object, kind: Any) -> Any:
    return decode_parameters(msgspec.Raw(sent(value)), kind)


def raised(frame: bytes) -> SandboxdError:
    with pytest.raises(SandboxdError) as caught:
        decode_reply(frame[:-1], Empty)
    return caught.value


def test_a_call_arrives_as_it_was_sent() -> None:
    spec = EnvSpec(services={"web": Service(command=["a", "b"], port=80)}, limits=Limits(pids=None))
    frame = encode_call("Run", Run(spec=spec, environ={"LANG": "C\0é"}), more=True)
    assert frame.endswith(b"}\0")
    assert frame.count(b"\0") == 1
    call = decode_call(frame[:-1])
    assert (call.method, call.more, call.oneway) == ("io.sandboxd.Control.Run", True, None)
    assert decode_parameters(call.parameters, Run) == Run(spec=spec, environ={"LANG": "C\0é"})


def test_flags_that_are_off_are_not_sent() -> None:
    assert json.loads(encode_call("List", List())[:-1]).keys() == {"method", "parameters"}
    assert json.loads(encode_reply(Empty())[:-1]) == {"parameters": {}}


@pytest.mark.parametrize(
    "frame",
    [
        b"", b"hello", b"[]", b"null", b"3", b"{}", b'{"method":5}', b'{"method":"a.B","more":"yes"}', b'{"method":"a.B"',
        b"\xff\xfe", b'{"method":"\xff"}', b'{"method":"\\ud800"}', b"[" * 50 + b"]" * 50,
    ],
)  # fmt: skip
def test_what_is_no_call_is_our_error(frame: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode_call(frame)


@given(st.binary(max_size=100))
def test_any_bytes_are_a_call_or_our_error(frame: bytes) -> None:
    try:
        call = decode_call(frame)
        decode_parameters(call.parameters, Stop)
    except (ProtocolViolation, ServiceError):
        pass


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["spec", "services", "web", "ready", "name", "limits", "command"]), inner, max_size=3
            )
        ),
    )
)
def test_any_parameters_are_a_struct_or_a_named_parameter(value: object) -> None:
    for kind in (Run, List, SessionResize):
        try:
            named = isinstance(given_parameters(value, kind), kind)
        except ServiceError as error:
            named = bool(error.parameters["parameter"])
        assert named


@pytest.mark.parametrize(
    ("kind", "value", "parameter"),
    [
        (Stop, {"target": 5}, "target"),
        (Stop, {}, "target"),
        (Stop, {"target": "a", "speed": 1}, "speed"),
        (Stop, [], "parameters"),
        (SessionResize, {"session": "a", "rows": 0, "cols": 1}, "rows"),
        (Run, {"spec": {"services": {"web": {"command": 3}}}}, "spec.services[...].command"),
        (Run, {"spec": {"services": {"web": {"command": "a", "prot": 3}}}}, "spec.services[...].prot"),
        (Run, {"spec": {"services": {}, "name": "No_Label"}}, "spec.name"),
        (Run, {"spec": {"services": {"No Label": {"command": "x"}}}}, "spec.services"),
        (Run, {"spec": {"services": {}, "mounts": [{"source": "/a"}]}}, "spec.mounts[0].target"),
    ],
)
def test_a_wrong_parameter_is_named(kind: Any, value: object, parameter: str) -> None:
    with pytest.raises(ServiceError) as caught:
        given_parameters(value, kind)
    assert caught.value.name == "InvalidParameter"
    assert caught.value.parameters["parameter"].startswith(parameter)


def test_the_culprit_of_a_complaint_without_a_path() -> None:
    assert culprit("Object missing required field `target`") == "target"
    assert culprit("something else") == "parameters"


def test_null_for_not_given() -> None:
    """A varlink client may write null for any `?` member; where None means something of its own it keeps that."""
    assert given_parameters(None, List) == List()
    assert given_parameters({"all": None, "filters": None}, List) == List()
    assert given_parameters({"target": "a", "timeout": None}, Stop) == Stop(target="a")
    service = {"command": "x", "port": None, "expose": None, "depends_on": None, "ready": {"http": None, "timeout": None}}
    spec = {"services": {"web": service}, "limits": {"pids": None, "nofile": 64}, "network": None, "mounts": None, "name": None}
    run = given_parameters({"spec": spec, "exists": None, "fds": None}, Run)
    assert run.spec.limits == Limits(pids=None, nofile=64)
    assert run.spec.services["web"].expose == "http"
    assert run.spec.services["web"].ready.timeout == 30.0
    with pytest.raises(ServiceError, match="target"):
        given_parameters({"target": None}, Stop)


def test_a_reply_and_whether_more_follow() -> None:
    assert decode_reply(encode_reply(ListReply(envs=[]), continues=True)[:-1], ListReply) == (ListReply(envs=[]), True)
    assert decode_reply(encode_reply(Empty())[:-1], Empty) == (Empty(), False)
    assert decode_reply(b"{}", Empty) == (Empty(), False)


def test_a_newer_daemon_may_say_more() -> None:
    frame = sent({"parameters": {"envs": [], "new": 1}, "continues": None, "later": {}})
    assert decode_reply(frame, ListReply) == (ListReply(envs=[]), False)


@pytest.mark.parametrize(
    "frame", [b"", b"x", b"[]", b'{"parameters":{}}', b'{"parameters":{"env":5}}', b'{"error":5}', b"\xff"]
)
def test_an_unreadable_reply_is_our_error(frame: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="daemon's answer"):
        decode_reply(frame, InspectReply)


@pytest.mark.parametrize("code", sorted(errors.by_code()))
def test_every_error_keeps_its_class(code: str) -> None:
    kind = errors.by_code()[code]
    error = kind.__new__(kind)
    SandboxdError.__init__(error, "what failed", hint="do this", port=80, call="bind", errno=98)
    back = raised(encode_error(error))
    assert type(back) is kind
    assert (back.message, back.hint, back.details) == ("what failed", "do this", {"port": 80, "call": "bind", "errno": 98})
    assert back.exit_code == kind.exit_code
    assert str(back) == "what failed"


def test_a_kernel_error_keeps_its_errno() -> None:
    back = raised(encode_error(KernelError(98, "bind", "127.0.0.1:80")))
    assert isinstance(back, OSError)
    assert back.errno == 98


def test_details_may_hold_any_key_and_value() -> None:
    error = PortTaken("taken")
    error.details = {"message": "m", "self": 1, "hint": [1], "path": {"a": None}, "odd": ValueError("x")}
    assert raised(encode_error(error)).details == {"message": "m", "self": 1, "hint": [1], "path": {"a": None}, "odd": "x"}


def test_an_error_of_a_newer_daemon() -> None:
    parameters = {"message": "no such moon", "hint": "look up"}
    back = raised(sent({"error": "io.sandboxd.Control.MoonMissing", "parameters": parameters}) + b"\0")
    assert (type(back), back.message, back.hint) == (SandboxdError, "no such moon", "look up")
    assert type(raised(sent({"error": "org.other.Broken"}) + b"\0")) is SandboxdError
    assert type(raised(sent({"error": "Broken"}) + b"\0")) is SandboxdError


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ServiceError("InvalidParameter", parameter="spec.name"), SpecInvalid, "spec.name"),
        (ServiceError("InvalidParameter", parameter="target"), UsageError, "target"),
        (ServiceError("MethodNotFound", method="Fly"), ProtocolViolation, "MethodNotFound Fly"),
        (ServiceError("ExpectedMore"), ProtocolViolation, "ExpectedMore"),
        (ServiceError("PermissionDenied"), errors.PermissionDenied, "this user"),
    ],
)
def test_varlinks_own_errors(error: ServiceError, kind: type[SandboxdError], words: str) -> None:
    back = raised(encode_error(error))
    assert type(back) is kind
    assert words in back.message


def test_not_found_travels_small() -> None:
    frame = encode_error(NotFound("no env `x`", hint="sandbox ps"))
    assert json.loads(frame[:-1]) == {
        "error": "io.sandboxd.Control.NotFound",
        "parameters": {"message": "no env `x`", "hint": "sandbox ps", "details": {}},
    }


def test_inspect_by_directory() -> None:
    assert given_parameters({"directory": "/x"}, Inspect) == Inspect(directory="/x")
