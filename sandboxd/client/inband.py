"""A session whose bytes go over its connection, as they must where no descriptor can go along: over ssh.

To its user it is a session like any other: `fds` has pipes (or a socket pair for a terminal), and two threads carry between
those and the daemon. Invariant: it ends with its connection, and each descriptor is closed once.
"""

import os
import socket
import threading
from base64 import b64decode
from contextlib import suppress
from typing import Any

from sandboxd.client.blocking import Client, Session, Wire
from sandboxd.client.session import Exchange
from sandboxd.errors import SandboxdError
from sandboxd.protocol.messages import Attach, Exec, Params, Reply, Run

CHUNK = 32 << 10


def streams(params: Run | Exec | Attach) -> list[str]:
    """The names of the descriptors that such a session has."""
    if isinstance(params, Exec):
        return ["pty"] if params.tty else [*(["stdin"] if params.stdin else []), "stdout", "stderr"]
    if isinstance(params, Attach):
        return [*(["stdin"] if params.stdin else []), "stdout", "stderr"]
    service = next(iter(params.spec.services.values()))
    return [*(["stdin"] if service.stdin else []), "stdout", *([] if service.tty else ["stderr"])]


class InBandSession(Session):
    """See `Session`."""

    def __init__(self, client: Client, params: Params, wire: Wire, exchange: Exchange, first: Reply) -> None:
        super().__init__(client, params, wire, exchange, first)
        self._far: dict[str, int] = {}  # the threads' ends, by stream
        self._failure: BaseException | None = None
        self._ended, self._end = os.pipe2(os.O_CLOEXEC)
        self._threads: list[threading.Thread] = []

    def begin(self, names: list[str]) -> "InBandSession":
        """Make the descriptors, and carry from now on."""
        for name in names:
            if name == "pty":
                near, far = (sock.detach() for sock in socket.socketpair())
            elif name == "stdin":
                far, near = os.pipe2(os.O_CLOEXEC)
            else:
                near, far = os.pipe2(os.O_CLOEXEC)
            self.fds[name], self._far[name] = near, far
        if "pty" in self._far:  # one end is read by one thread and written by the other: each has its own to close
            self._far["stdin"] = os.dup(self._far["pty"])
            self._far["stdout"] = self._far.pop("pty")
        carriers = [self._carry_out, *([self._carry_in] if "stdin" in self._far else [])]
        self._threads = [threading.Thread(target=carry, daemon=True) for carry in carriers]
        for thread in self._threads:
            thread.start()
        return self

    def fileno(self) -> int:
        """For poll: readable when the end has come."""
        return self._ended

    def wait(self) -> Any:
        """The last answer, which has the exit code."""
        self._threads[0].join()
        if self._failure is not None:
            raise self._failure
        return self.last

    def close(self) -> None:
        """End the session, if it has not ended, and close what is left in `fds`: whoever carries sees that and ends."""
        super().close()
        for thread in self._threads:
            thread.join()
        for fd in (self._ended, self._end):
            if fd >= 0:
                os.close(fd)
        self._ended = self._end = -1

    def _carry_out(self) -> None:
        outputs = {name: fd for name, fd in self._far.items() if name != "stdin"}
        try:
            for reply in self.replies():
                if reply.data:
                    write_all(outputs, reply.stream, b64decode(reply.data))
        except BaseException as error:  # raised again by wait()
            self._failure = error
        for fd in outputs.values():
            os.close(fd)
        os.write(self._end, b"\n")

    def _carry_in(self) -> None:
        fd = self._far["stdin"]
        with suppress(SandboxdError, OSError):  # it has ended: its last reply says how
            while data := os.read(fd, CHUNK):
                self.write(data)
            self.write(b"", eof=True)
        os.close(fd)


def write_all(outputs: dict[str, int], stream: str, data: bytes) -> None:
    """All of it; what nobody reads any more is dropped, as is what has no place."""
    fd = outputs.get(stream, outputs.get("stdout", -1))
    view = memoryview(data)
    with suppress(BrokenPipeError):
        while view and fd >= 0:
            view = view[os.write(fd, view) :]
