"""A TCP socket inside an env for the daemon itself: asked of init over dial.sock, as the router does."""

import array
import asyncio
import os
import socket
from typing import TYPE_CHECKING

from sandboxd.daemon.pumping import readable
from sandboxd.errors import KernelError
from sandboxd.kernel.fds import CutOff

if TYPE_CHECKING:
    from sandboxd.daemon.actor import Actor

TIMEOUT = 2.0


async def born_inside(actor: "Actor", family: socket.AddressFamily) -> socket.socket:
    """One unconnected, non-blocking stream socket of the env's netns (the host's, for --network host). Raises OSError."""
    if actor.record.spec.network.mode == "host":
        return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    directory = os.open(actor.supervisor.rundir.env_dir(actor.record.id), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as dial:
            dial.connect(f"/proc/self/fd/{directory}/dial.sock")
            dial.send(bytes((6 if family == socket.AF_INET6 else 4, 1)))
            async with asyncio.timeout(TIMEOUT):
                await readable(dial.fileno())
            answer, ancillary, flags, _ = dial.recvmsg(2, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    finally:
        os.close(directory)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    if len(fds) != 1 or flags & socket.MSG_CTRUNC:
        for fd in fds:
            os.close(fd)
        if flags & socket.MSG_CTRUNC:
            raise CutOff
        raise KernelError(answer[1] if len(answer) == 2 else 5, "socket", "inside the env")
    return socket.socket(fileno=fds[0])
