"""Every error that sandboxd can show: one tree, a stable code each, and what to do next.

An error says what failed, on what, why (`message`) and what to do about it (`hint`); `details` are plain data for programs.
The class name is the code on the wire (`io.sandboxd.Control.NotFound`), `exit_code` is what the CLI leaves with. This file
imports next to nothing, since pid 1 of every env carries it.
"""

import errno
import os

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_TIMEOUT = 124
EXIT_SANDBOXD = 125
EXIT_CANNOT_EXECUTE = 126
EXIT_NOT_FOUND = 127


class SandboxdError(Exception):
    """The root. `message`: what failed, on what, why. `hint`: what to do next, or empty. `details`: plain JSON data."""

    exit_code = EXIT_SANDBOXD

    def __init__(self, message: str, *, hint: str = "", **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details

    @property
    def code(self) -> str:
        """The stable name of this kind of error, as it travels on the wire."""
        return type(self).__name__

    def __str__(self) -> str:
        return self.message


# -- the caller's own mistake --------------------------------------------------------------------------------------------


class UsageError(SandboxdError):
    """A flag, argument or request that cannot be meant; nothing was tried."""

    exit_code = EXIT_USAGE


class SpecInvalid(UsageError):
    """A spec (file, flags or request) that breaks a rule; details: `file`, `line`, `key` where known."""


class NameInvalid(SpecInvalid):
    """A name that is no DNS label (RFC 1123: 1 to 63 of a-z, 0-9 and inner hyphens)."""


class WorkspaceInvalid(SpecInvalid):
    """The workspace is missing, no directory, unreadable, or one that must not be shared."""


class NotFound(SandboxdError):
    """No env, service, session or file of that name."""

    exit_code = EXIT_FAILED


class Ambiguous(SandboxdError):
    """An id prefix that several envs share; details: `matches`."""

    exit_code = EXIT_FAILED


class NameTaken(SandboxdError):
    """Another env of this user has that name; details: `id`."""


class InvalidState(SandboxdError):
    """The env is in a state in which this cannot be done; details: `state`."""

    exit_code = EXIT_FAILED


# -- refused by a wall or limit ------------------------------------------------------------------------------------------


class WallUnavailable(SandboxdError):
    """The host does not offer a wall that the spec demands; details: `wall`, `reason`. Never a silent fallback."""


class LimitUnenforceable(SandboxdError):
    """A limit was asked for that this host gives no way to enforce; details: `limit`."""


class NotOffered(SandboxdError):
    """Asked for by name, but this version of sandboxd does not have it."""


class NotAccepted(SandboxdError):
    """A project's spec opens more than when it was last seen, and nobody said that this is meant; details: `wider`."""


class QueueFull(SandboxdError):
    """Too many envs, or too many waiting; details: `limit`, `retry_after` in seconds."""


class QuotaExceeded(QueueFull):
    """It would be more than a user, or the members of a group, may have; details: `limit`, `retry_after` where time helps."""


# -- it was tried and failed ---------------------------------------------------------------------------------------------


class CommandNotFound(SandboxdError):
    """The env has no such command (ENOENT at exec); details: `command`, `service`."""

    exit_code = EXIT_NOT_FOUND


class CommandNotExecutable(SandboxdError):
    """The command is there but cannot be executed (EACCES, ENOEXEC, EISDIR); details: `command`, `service`."""

    exit_code = EXIT_CANNOT_EXECUTE


class LaunchFailed(SandboxdError):
    """A step of building the env failed; details: `step`, `errno`."""


class NotReady(SandboxdError):
    """The env ended, or did not become ready in time; details: `state`, `reason`."""

    exit_code = EXIT_FAILED


class PortTaken(SandboxdError):
    """A host address is in use; details: `address`, `pid`, `process` where they can be known."""


class TimedOut(SandboxdError):
    """A bounded wait ran out."""

    exit_code = EXIT_TIMEOUT


class StoreFailed(SandboxdError):
    """The state directory or its database cannot be used."""


# -- the connection between client and daemon ----------------------------------------------------------------------------


class DaemonUnreachable(SandboxdError):
    """No daemon answers on the control socket, and none could be started."""


class DaemonRunning(SandboxdError):
    """Another daemon holds this directory; details: `pid`."""


class ProtocolViolation(SandboxdError):
    """The peer sent what the protocol does not allow: over the cap, not JSON, no such method, wrong types."""


class PermissionDenied(SandboxdError):
    """The peer's uid may not do this."""


class Internal(SandboxdError):
    """A fault of sandboxd itself; its log has the traceback."""


class KernelError(SandboxdError, OSError):
    """A system call failed: `call` is the man page's name, `subject` what it was called on. It is an OSError, errno and all."""

    def __init__(self, number: int, call: str, subject: str = "", *, hint: str = "") -> None:
        name = errno.errorcode.get(number, str(number))
        on = f" {subject}" if subject else ""
        SandboxdError.__init__(self, f"{call}{on}: {os.strerror(number)} ({name})", hint=hint, errno=number, call=call)
        self.errno = number
        self.strerror = os.strerror(number)


def by_code() -> "dict[str, type[SandboxdError]]":
    """Every class of the tree under its code; a code that is not here is of a newer daemon."""
    found = {}
    waiting = [SandboxdError]
    while waiting:
        kind = waiting.pop()
        found[kind.__name__] = kind
        waiting.extend(kind.__subclasses__())
    return found
