"""A session to its end for a blocking caller: input in, output out, all at once, then the exit code.

Polls the session's pipes and its connection together, so that neither a command that does not read nor one that only
writes can stop the other side.
"""

import os
import select
import time

from sandboxd.client.blocking import Session
from sandboxd.client.env import Completed
from sandboxd.errors import TimedOut

CHUNK = 64 << 10
# ms without a byte after the end before a pipe that something in the background still holds is left alone.
SILENCE = 200


def run_to_end(session: Session, input: bytes | None, timeout: float | None) -> Completed:
    """Feed `input`, gather output, until the command has ended; raises TimedOut (the session's close ends the command)."""
    deadline = None if timeout is None else time.monotonic() + timeout
    gathered = {name: bytearray() for name in ("stdout", "stderr", "pty")}
    readers = {session.fds[name]: name for name in gathered if name in session.fds}
    left = memoryview(input or b"")
    poll = select.poll()
    for fd in readers:
        poll.register(fd, select.POLLIN)
    poll.register(session, select.POLLIN)
    if "stdin" in session.fds:
        os.set_blocking(session.fds["stdin"], False)
        poll.register(session.fds["stdin"], select.POLLOUT)
    ended = False
    while readers or not ended:
        events = poll.poll(SILENCE if ended else _left(deadline, timeout))
        if ended and not events:
            break
        for fd, _ in events:
            if fd in readers:
                data = _read(fd)
                gathered[readers[fd]] += data
                if not data:
                    poll.unregister(fd)
                    del readers[fd]
            elif fd == session.fds.get("stdin"):
                left = left[_write(fd, left) :]
                if not left:
                    poll.unregister(fd)
                    os.close(session.fds.pop("stdin"))
            elif fd == session.fileno():
                session.wait()
                ended = True
                poll.unregister(session)
    last = session.last
    output = bytes(gathered["stdout"] or gathered["pty"])
    return Completed(last.exit_code or 0, output, bytes(gathered["stderr"]), last.reason)


def _left(deadline: float | None, timeout: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimedOut(f"the command still ran after {timeout:g} seconds, and was ended", hint="give it a longer `timeout`")
    return left * 1000


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, CHUNK)
    except OSError:  # EIO: a pty whose other side is closed (pty(7))
        return b""


def _write(fd: int, data: memoryview) -> int:
    """How much of the input is done with: all of it, once nobody reads it."""
    try:
        return os.write(fd, data[:CHUNK])
    except BlockingIOError:
        return 0
    except BrokenPipeError:
        return len(data)
