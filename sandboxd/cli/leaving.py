"""Wait for a daemon that was asked to end: its process, not its word. Imports the protocol and errors."""

import os
import select

from sandboxd.errors import TimedOut
from sandboxd.protocol.messages import StatusReply

STOP_SECONDS = 60.0


def open_pidfd(status: StatusReply) -> int | None:
    """The daemon's pidfd; None when it has gone, or is in another pid namespace."""
    try:
        return os.pidfd_open(status.pid)
    except OSError:
        return None


def wait_gone(pidfd: int | None, status: StatusReply) -> None:
    """Until the process itself has ended: whoever starts the next daemon must not meet this one's lock."""
    if pidfd is None:
        return
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    if not poll.poll(STOP_SECONDS * 1000):
        raise TimedOut(f"the daemon (pid {status.pid}) did not end in {STOP_SECONDS:.0f} s", hint=f"its log is in {status.dir}")
