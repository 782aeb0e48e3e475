"""What a frame carries: a varlink call, reply or error, and how our errors travel in it.

Pure. Calls decode in two steps, envelope first and parameters by the method's own struct, so that a wrong parameter is
answered by name. Errors of `sandboxd.errors` go as `io.sandboxd.Control.CODE {message, hint, details}`; varlink's own as
`org.varlink.service.*` with exactly the parameters its interface declares (asyncvarlink refuses more).
"""

import functools
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw, inspect

from sandboxd.errors import KernelError, PermissionDenied, ProtocolViolation, SandboxdError, SpecInvalid, UsageError, by_code
from sandboxd.protocol.framing import NUL, check_nesting
from sandboxd.protocol.messages import INTERFACE, Params, Reply

SERVICE = "org.varlink.service"


class CallFrame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A method call as it travels; members that we do not know are the peer's own business."""

    method: str
    parameters: Raw = Raw(b"{}")
    oneway: bool | None = None
    more: bool | None = None
    upgrade: bool | None = None


class ReplyFrame(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A reply or an error as it travels."""

    error: str | None = None
    parameters: Raw = Raw(b"{}")
    continues: bool | None = None


class ErrorParameters(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of each error of our own interface."""

    message: str = ""
    hint: str = ""
    details: dict[str, Any] = {}


class ServiceError(Exception):
    """One of org.varlink.service's own errors: `name` without its interface, and exactly the parameters declared there."""

    def __init__(self, name: str, **parameters: str) -> None:
        super().__init__(name, parameters)
        self.name = name
        self.parameters: Mapping[str, str] = parameters


_calls = msgspec.json.Decoder(CallFrame)
_replies = msgspec.json.Decoder(ReplyFrame)
_encoder = msgspec.json.Encoder(enc_hook=str)


@functools.cache
def _decoder(kind: type[Any]) -> "msgspec.json.Decoder[Any]":
    return msgspec.json.Decoder(kind)


# -- calls ---------------------------------------------------------------------------------------------------------------


def encode_call(method: str, params: Params, *, more: bool = False, oneway: bool = False) -> bytes:
    """The frame of a call of our interface, NUL included."""
    parameters = Raw(_encoder.encode(params))
    frame = CallFrame(method=f"{INTERFACE}.{method}", parameters=parameters, more=more or None, oneway=oneway or None)
    return _encoder.encode(frame) + NUL


def decode_call(frame: bytes) -> CallFrame:
    """The call in a frame; raises ProtocolViolation for what is none."""
    check_nesting(frame)
    try:
        return _calls.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolViolation(
            f"a message is no varlink call: {error}", hint='send {"method": …, "parameters": {…}}'
        ) from None


def decode_parameters(raw: Raw, kind: type[Params]) -> Params:
    """A method's parameters; raises ServiceError InvalidParameter naming the one that is wrong."""
    text = _given(raw)
    try:
        try:
            params: Params = _decoder(kind).decode(text)
        except msgspec.ValidationError:
            if b"null" not in text:
                raise
            # varlink's `?` lets a client write null for "not given" (asyncvarlink does), also where None is no value of ours.
            params = msgspec.convert(_without_nulls(msgspec.json.decode(text), inspect.type_info(kind)), kind)
    except msgspec.ValidationError as error:
        raise ServiceError("InvalidParameter", parameter=culprit(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolViolation(f"a message is no JSON: {error}") from None
    return params


def _given(raw: Raw) -> bytes:
    """Parameters as they came; some peers write null for none."""
    text = bytes(raw)
    return b"{}" if text == b"null" else text


def culprit(complaint: str) -> str:
    """The parameter that msgspec complains about, as `spec.services[...].port`."""
    # "Expected … - at `$.a.b`", or for a bad name among a mapping's "… - at `key` in `$.a.b`".
    reason, _, place = complaint.partition(" - at ")
    parts = [place.rpartition("`$")[2].rstrip("`").lstrip(".")]
    if "field `" in reason:  # "Object contains unknown field `x`", "Object missing required field `x`"
        parts.append(reason.split("`")[1])
    return ".".join(part for part in parts if part) or "parameters"


def _without_nulls(value: Any, kind: inspect.Type) -> Any:
    """The value without nulls in optional members that have a default and no null of their own."""
    kind = bare(kind)
    if isinstance(kind, inspect.UnionType):  # at most one struct, list or dict among them, or msgspec would refuse it
        shaped = [choice for choice in map(bare, kind.types) if isinstance(choice, _SHAPES.get(type(value), ()))]
        return _without_nulls(value, shaped[0]) if shaped else value
    if isinstance(value, dict) and isinstance(kind, inspect.StructType):
        fields = {field.encode_name: field for field in kind.fields}
        return {
            name: _without_nulls(item, fields[name].type) if name in fields else item
            for name, item in value.items()
            if item is not None or name not in fields or fields[name].required or takes_null(fields[name].type)
        }
    if isinstance(value, dict) and isinstance(kind, inspect.DictType):
        return {name: _without_nulls(item, kind.value_type) for name, item in value.items()}
    if isinstance(value, list) and isinstance(kind, inspect.ListType):
        return [_without_nulls(item, kind.item_type) for item in value]
    return value


_SHAPES: dict[type, tuple[type, ...]] = {dict: (inspect.StructType, inspect.DictType), list: (inspect.ListType,)}


def bare(kind: inspect.Type) -> inspect.Type:
    """A type without the notes that `Meta` put around it."""
    return bare(kind.type) if isinstance(kind, inspect.Metadata) else kind


def takes_null(kind: inspect.Type) -> bool:
    """Whether None is a value of this type."""
    kind = bare(kind)
    return isinstance(kind, inspect.NoneType | inspect.AnyType) or (isinstance(kind, inspect.UnionType) and kind.includes_none)


# -- replies -------------------------------------------------------------------------------------------------------------


def encode_reply(reply: Reply, *, continues: bool = False) -> bytes:
    """The frame of a reply, NUL included."""
    return _encoder.encode(ReplyFrame(parameters=Raw(_encoder.encode(reply)), continues=continues or None)) + NUL


def encode_error(error: SandboxdError | ServiceError) -> bytes:
    """The frame of an error, NUL included."""
    if isinstance(error, ServiceError):
        name, parameters = f"{SERVICE}.{error.name}", _encoder.encode(error.parameters)
    else:
        name = f"{INTERFACE}.{error.code}"
        parameters = _encoder.encode({"message": error.message, "hint": error.hint, "details": error.details})
    return _encoder.encode(ReplyFrame(error=name, parameters=Raw(parameters))) + NUL


def decode_reply(frame: bytes, kind: type[Reply]) -> tuple[Reply, bool]:
    """A reply and whether more follow; raises the error that came instead, as its class, or ProtocolViolation."""
    try:
        envelope = _replies.decode(frame)
        raw = _given(envelope.parameters)
        if envelope.error is None:
            reply: Reply = _decoder(kind).decode(raw)
            return reply, bool(envelope.continues)
        error = _error_of(envelope.error, raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as fault:
        raise ProtocolViolation(
            f"the daemon's answer cannot be read: {fault}", hint="client and daemon may be of different versions"
        ) from None
    raise error


def _error_of(name: str, raw: bytes) -> SandboxdError:
    interface, _, code = name.rpartition(".")
    if interface == SERVICE:
        return _of_service(code, _decoder(dict[str, Any]).decode(raw))
    parameters = _decoder(ErrorParameters).decode(raw)
    if interface != INTERFACE:
        return SandboxdError(f"{name}: {parameters.message}", hint=parameters.hint)
    return error_of(code, parameters.message, parameters.hint, parameters.details)


def error_of(code: str, message: str, hint: str, details: Mapping[str, Any]) -> SandboxdError:
    """An error that was raised in another process, as the same class; of an unknown code, as SandboxdError."""
    kind = by_code().get(code, SandboxdError)
    error = kind.__new__(kind)
    # Not kind(…): KernelError builds its message from other things, and details may hold any key.
    SandboxdError.__init__(error, message or code, hint=hint)
    error.details = dict(details)
    if isinstance(error, KernelError):
        error.errno = details.get("errno")
        error.strerror = message
    return error


def _of_service(code: str, parameters: Mapping[str, Any]) -> SandboxdError:
    """varlink's own errors as ours, for a caller who knows only ours."""
    versions = "client and daemon may be of different versions: `sandbox daemon stop`, then try again"
    if code == "InvalidParameter":
        key = str(parameters.get("parameter", ""))
        kind = SpecInvalid if key.partition(".")[0] == "spec" else UsageError
        return kind(f"the daemon does not take this value of {key}", hint=versions, key=key)
    if code == "PermissionDenied":
        return PermissionDenied("the daemon does not serve this user")
    what = " ".join(str(value) for value in parameters.values())
    return ProtocolViolation(f"the daemon answers {code} {what}".rstrip(), hint=versions)
