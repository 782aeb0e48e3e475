"""One call and its answers, without a socket: what both colours of the client share.

Pure. An Exchange holds the frame to send and turns what comes back into replies, or raises the error that came instead, as
its class. Both clients only move bytes and descriptors.
"""

import functools

import msgspec

from sandboxd.errors import DaemonUnreachable, ProtocolViolation, SpecInvalid, UsageError
from sandboxd.protocol.envelopes import culprit, decode_reply, encode_call
from sandboxd.protocol.framing import REPLY_CAP, FrameReader
from sandboxd.protocol.messages import METHODS, Attach, Exec, Params, Reply, Run, RunReply, SessionReply
from sandboxd.settings import LOG_HINT

# Most descriptors that one reply may bring: stdin, stdout, stderr, and one to spare.
DESCRIPTORS = 4


class Exchange:
    """One call on one connection. `request` goes out; feed it what comes, take `next_reply` until `done`."""

    def __init__(self, params: Params, *, more: bool = False) -> None:
        self.method = method_of(type(params))
        check(params)
        self.request = encode_call(self.method, params, more=more)
        self.done = False
        self._kind = METHODS[self.method].reply
        self._reader = FrameReader(REPLY_CAP)

    @property
    def reusable(self) -> bool:
        """Whether the connection can take another call: the last answer was read, and nothing behind it."""
        return self.done and not len(self._reader)

    def feed(self, data: bytes) -> None:
        """Take bytes from the daemon; none at all means that it hung up, which raises DaemonUnreachable."""
        if not data:
            raise DaemonUnreachable(
                f"the daemon closed the connection before it answered {self.method}",
                hint=LOG_HINT,
            )
        self._reader.feed(data)

    def next_reply(self) -> Reply | None:
        """The next answer; None: more bytes are needed. Raises the error that the daemon answered with."""
        frame = self._reader.next_frame()
        if frame is None:
            return None
        self.done = True  # an error is the last answer too
        reply, continues = decode_reply(frame, self._kind)
        self.done = not continues
        return reply


def check(params: Params) -> None:
    """Hold parameters to their own types, which structs made in Python are not; raises UsageError, SpecInvalid."""
    try:
        msgspec.convert(msgspec.to_builtins(params), type(params))
    except (msgspec.ValidationError, TypeError) as error:
        key = culprit(str(error))
        kind = SpecInvalid if key.partition(".")[0] == "spec" else UsageError
        reason = str(error).partition(" - at ")[0]
        hint = f"see sandboxd.protocol.messages.{type(params).__name__}"
        raise kind(f"{key} is wrong: {reason}", hint=hint, key=key) from None


@functools.cache
def method_of(kind: type[Params]) -> str:
    """The method that takes these parameters."""
    for name, method in METHODS.items():
        if method.params is kind:
            return name
    raise TypeError(f"{kind.__name__} is no method's parameters")


def with_descriptors(params: Run | Exec | Attach, *, passed: bool = True) -> Run | Exec | Attach:
    """The same request, asking for the session's descriptors. passed: false where they cannot come along."""
    replace = msgspec.structs.replace
    return replace(params, fds=passed, attach=True) if isinstance(params, Run) else replace(params, fds=passed)


def session_of(reply: Reply) -> str | None:
    """The session that a reply speaks of."""
    return reply.session if isinstance(reply, SessionReply | RunReply) else None


def named(reply: Reply, fds: list[int]) -> dict[str, int]:
    """Descriptors under the names that their reply gives them; raises ProtocolViolation when they do not match."""
    names = reply.fds if isinstance(reply, SessionReply | RunReply) else []
    if len(names) != len(fds) or len(set(names)) != len(names):
        raise ProtocolViolation(f"the daemon sent {len(fds)} descriptors for {names}", hint="it may be of another version")
    return dict(zip(names, fds, strict=True))


def asked_again(params: Params, error: DaemonUnreachable, *, begun: bool = False) -> Params:
    """What to ask the next daemon, where a leaving one said that it may be asked: the same, or to go on with the env that a Run
    made. begun: some of the answer has come, so it cannot be the same. Raises the error where nobody knows how far it came."""
    env = error.details.get("env")
    if error.details.get("leaving") and isinstance(params, Run) and isinstance(env, str) and env:
        return msgspec.structs.replace(params, again=env)
    if begun or not error.details.get("leaving"):
        raise error
    return params


def unreachable(path: str, why: str) -> DaemonUnreachable:
    """The error for a socket on which no daemon answers."""
    return DaemonUnreachable(f"no daemon answers on {path}: {why}", hint="start one: sandbox daemon start")
