"""The router's master becomes another program, in its own process: what it hands over, and how that is taken up.

An upgrade then costs no connection and no moment without a listener: the process stays, and with it its pid, its children (the
workers, which serve on) and every descriptor that is passed. The rest goes by a memfd: what is published, and of each worker
its pid, its connection, and the part of a frame that had come; and who has, or waits for, a connection to an env that bounds
them. Imports routing.orders and kernel.
"""

import os
import signal
import socket
from collections.abc import Sequence
from typing import NoReturn

import msgspec

from sandboxd.routing import orders
from sandboxd.routing.turns import Standing

MOST = 64 << 20


class Heir(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that serves on. fd: of the connection to it; begun: the part of a frame of its that has come; speaks: the
    version of the orders that it knows, 0 for one that says nothing of it."""

    number: int
    pid: int
    fd: int
    begun: bytes = b""
    speaks: int = 0


class Estate(msgspec.Struct, frozen=True, kw_only=True):
    """All that is not a plain listener. numbers: of orders to workers, so that no late answer is taken for another's."""

    ports: list[tuple[orders.Published, int]] = []
    workers: list[Heir] = []
    numbers: int = 0
    turns: Standing = Standing({}, {})


def become(order: orders.Replace, listeners: Sequence[socket.socket], control: socket.socket, estate: Estate) -> NoReturn:
    """Execute that program with all of it; raises OSError, and then nothing has changed."""
    memory = os.memfd_create("sandboxd-router")
    passed = [sock.fileno() for sock in (*listeners, control)]
    passed += [fd for _, fd in estate.ports] + [heir.fd for heir in estate.workers] + [memory]
    try:
        os.write(memory, msgspec.json.encode(estate))
        os.lseek(memory, 0, os.SEEK_SET)
        for fd in passed:
            os.set_inheritable(fd, True)
        command = [*order.command, "--control", str(control.fileno()), "--estate", str(memory), "--listen"]
        command += [str(sock.fileno()) for sock in listeners]
        signal.setitimer(signal.ITIMER_REAL, 0)  # a timer outlives execve(2), and what handled its signal does not
        os.execve(command[0], command, {**os.environ, "PYTHONPATH": order.path})
    except OSError:
        for fd in passed:
            os.set_inheritable(fd, False)
        raise
    finally:
        os.close(memory)


def taken_up(memory: int) -> Estate:
    """What the program before us in this process handed over."""
    with os.fdopen(memory, "rb") as file:
        return msgspec.json.decode(file.read(MOST), type=Estate)


def inherited(fd: int) -> socket.socket:
    """A socket that was passed on, not to be passed on further."""
    sock = socket.socket(fileno=fd)
    sock.set_inheritable(False)
    return sock
