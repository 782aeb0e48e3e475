"""What an env's init tells the daemon, as typed data: events, the status of its services, sessions it opened.

Pure but for closing descriptors that came with a broken answer. Init lives inside the env: each field is checked, and what is
not as it should be is a ProtocolViolation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sandboxd.errors import ProtocolViolation, SandboxdError
from sandboxd.kernel.fds import close_all
from sandboxd.launch.frames import as_text, error_from

REFUSED_LIMIT, ARGUMENTS, NAME = 256, 6, 64
LATEST = 1e11  # seconds since the epoch: of a year with four digits


class Started(NamedTuple):
    """A service's command was executed. time: seconds since the epoch."""

    service: str
    pid: int
    time: float


class ExecFailed(NamedTuple):
    """A service's command could not be executed."""

    service: str
    error: SandboxdError


class ServiceExited(NamedTuple):
    """A service's main process ended; its log is complete. wait_status: as of waitpid(2)."""

    service: str
    pid: int
    wait_status: int
    time: float


class SessionExited(NamedTuple):
    """A session ended. wait_status: of its command or service; None when it was let go before: reason gone, lagging, closed."""

    session: str
    wait_status: int | None
    time: float
    reason: str = "ended"


class Refused(NamedTuple):
    """A system call that the env's filter refused, by its number (0xFFFFFFFF: others, which had no room). times: in all."""

    call: int
    args: tuple[int, ...]
    program: str
    times: int
    time: float


class Denied(NamedTuple):
    """System calls were refused, some more often than last told."""

    rows: list[Refused]


class Closed(NamedTuple):
    """The link is gone; nothing follows. ours: we hung up. broken: what came is nothing that a pid 1 of ours sends."""

    reason: str
    ours: bool = False
    broken: bool = False


InitEvent = Started | ExecFailed | ServiceExited | SessionExited | Denied | Closed


class ServiceStatus(NamedTuple):
    """A service as init knows it. pid: inner, of the last start; wait_status: None while that one runs."""

    pid: int | None
    wait_status: int | None
    started: float | None
    ended: float | None
    tty: bool = False
    stdin: bool = False


class InitStatus(NamedTuple):
    """All that init knows. failed: services whose last start did not come to exec. sessions: session, kind, pid, service."""

    services: dict[str, ServiceStatus]
    failed: dict[str, SandboxdError]
    sessions: list[dict[str, Any]]


class Opened(NamedTuple):
    """A session; `fds` are the outer ends, close-on-exec, the caller's to close."""

    session: str
    pid: int
    fds: dict[str, int]


def as_int(value: object) -> int:
    """A number that a peer sent; raises ProtocolViolation. Pids, statuses and versions are of 32 bits; what is not, no journal
    could keep."""
    if type(value) is not int or not 0 <= value < 1 << 32:
        raise ProtocolViolation(f"init sent {str(value)[:20]!r} for a number")
    return value


def as_time(value: object) -> float:
    """Seconds since the epoch; raises ProtocolViolation. NaN is within no bounds."""
    if not isinstance(value, int | float) or not 0 <= value < 1 << 40:
        raise ProtocolViolation(f"init sent {str(value)[:20]!r} for a time")
    return float(value)


def as_status(data: dict[str, Any]) -> ServiceStatus:
    """A service's status as init sent it."""
    pid, wait_status = (None if data[key] is None else as_int(data[key]) for key in ("pid", "wait_status"))
    started, ended = (None if data[key] is None else as_time(data[key]) for key in ("started", "ended"))
    return ServiceStatus(pid, wait_status, started, ended, bool(data.get("tty")), bool(data.get("stdin")))


def as_init_status(data: Any) -> InitStatus:
    """All that init told; raises ProtocolViolation."""
    try:
        return InitStatus(
            {as_text(name): as_status(status) for name, status in data["services"].items()},
            {as_text(name): error_from(error) for name, error in data["failed"].items()},
            [dict(session) for session in data["sessions"]],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProtocolViolation(f"init's status is none: {error!r}") from None


def as_event(message: dict[str, Any]) -> InitEvent | None:
    """An event as init sent it; None for a kind this version does not know. Raises ProtocolViolation."""
    try:
        return event_of(message)
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolViolation(f"init sent an event that is none: {error!r}") from None


def event_of(message: dict[str, Any]) -> InitEvent | None:
    """The event, field by field."""
    match message["event"]:
        case "started":
            return Started(as_text(message["service"]), as_int(message["pid"]), as_time(message["time"]))
        case "exec_failed":
            return ExecFailed(as_text(message["service"]), error_from(message["error"]))
        case "service_exited":
            status = as_int(message["wait_status"])
            return ServiceExited(as_text(message["service"]), as_int(message["pid"]), status, as_time(message["time"]))
        case "session_exited":
            given = message["wait_status"]
            ended = None if given is None else as_int(given)
            reason = as_text(message.get("reason", "ended"))
            return SessionExited(as_text(message["session"]), ended, as_time(message["time"]), reason)
        case "denied":
            return Denied(as_refused(message["rows"]))
    return None


def as_refused(rows: Any) -> list[Refused]:
    """Refused system calls as init counts them; raises ProtocolViolation."""
    try:
        return [
            Refused(
                as_int(row["call"]),
                tuple(as_int(value) for value in row["args"][:ARGUMENTS]),
                as_text(row["program"])[:NAME],
                as_int(row["count"]),
                min(as_time(row["time"]), LATEST),
            )
            for row in rows[:REFUSED_LIMIT]
        ]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ProtocolViolation(f"init's refused calls are none: {error!r}") from None


def as_opened(found: dict[str, Any], fds: dict[str, int], wanted: set[str]) -> Opened:
    """A session as init sent it; raises ProtocolViolation, and closes what came, when a descriptor is missing or odd."""
    try:
        if not wanted <= fds.keys() <= wanted | {"stdin"}:
            raise ProtocolViolation(f"init sent descriptors {sorted(fds)} for a session")
        return Opened(as_text(found["session"]), as_int(found["pid"]), fds)
    except (KeyError, SandboxdError):
        close_all(list(fds.values()))
        raise ProtocolViolation("init's answer is no session") from None
