"""What a client is told whose connection the daemon is about to close, and so whether he may ask the next daemon.

Pure but for one send that never waits. Imports errors and protocol.
"""

import socket

from sandboxd.errors import DaemonUnreachable, SandboxdError
from sandboxd.protocol.envelopes import encode_error


def leaving(env_id: str = "") -> DaemonUnreachable:
    """The error for a client who may ask the next daemon: the same, of whom nothing was taken up; or, of a Run that was cut
    short, for the env that it made."""
    more = {"env": env_id} if env_id else {}
    return DaemonUnreachable("the daemon is leaving", hint="try again in a moment", leaving=True, **more)


def say(sock: socket.socket, error: SandboxdError) -> None:
    """Send an error to a client that is about to be closed, if its socket takes it at once."""
    try:
        sock.send(encode_error(error), socket.MSG_DONTWAIT)
    except OSError:
        return
