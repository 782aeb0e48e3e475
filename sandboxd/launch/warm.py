"""Runs in the launcher what every init will run, before any is forked, so that their memory stays shared for longer.

A forked init shares its pages with the launcher until it writes to them, and an interpreter writes when it first runs a
thing: it specialises bytecode (PEP 659), fills its caches of types and attributes, grows its free lists. Done here once, it is
done for all: 280 KiB less per env (measured after 1,000 log lines). Nothing stays of it: what is opened is closed.
"""

from __future__ import annotations

import _socket
import os
import resource

from sandboxd.errors import SandboxdError
from sandboxd.launch import apply, plain, talk, walls
from sandboxd.launch.frames import Inbox, encode
from sandboxd.launch.init import Init
from sandboxd.launch.program import PLAIN, Program, Stdio
from sandboxd.launch.quick import made

ROUNDS = 12  # a function is specialised at its eighth run (PEP 659, Include/internal/pycore_code.h)
PLAN = {"argv": ["/.none", "x"], "env": {"PATH": "/bin"}, "workdir": "/", "rlimits": {}, "umask": 18}

SAMPLE = {
    "title": "sandboxd-init: warm",
    "steps": [["rlimits", [["CORE", 0, 0]]], ["capabilities"]],
    "config": {"id": "warm", "services": {"web": PLAN | {"tty": False}}, "start": ["web"], "log_limit": 5 << 20, "slow": {}},
    "fds": [["log", "web"], ["attach", "web", "stdout"], ["exits"]],
}


def warm() -> None:
    """Go through an init's usual life a few times; a host that refuses some of it goes without."""
    try:
        for _ in range(ROUNDS):
            live()
    except (OSError, SandboxdError):
        return


def rehearse() -> None:
    """In a parked child, while nobody waits: the same once, with what only a child does, so that the launch meets no page for
    the first time (measured: 2 of the 3 ms from plan to exec were faults). They would be written to all the same."""
    try:
        talk.named(talk.decode(plain.encode(SAMPLE))["fds"], [0] * len(SAMPLE["fds"]))
        apply.rlimits(apply.Stage(), [("CORE", *resource.getrlimit(resource.RLIMIT_CORE))])
        walls.rehearse_proofs(apply.Stage())
        live()
    except (OSError, SandboxdError):
        return


def live() -> None:
    """Start, log, be asked, end."""
    sockets = [
        _socket.socket(_socket.AF_UNIX, kind | _socket.SOCK_CLOEXEC) for kind in (_socket.SOCK_STREAM, _socket.SOCK_SEQPACKET)
    ]
    for sock in sockets:
        sock.bind("")  # autobind: a fresh abstract address (unix(7))
        sock.listen()
    control, dial = sockets
    client = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    client.connect(control.getsockname())
    logs = [os.memfd_create("log") for _ in (0, 1)]
    exits = os.memfd_create("exits")
    fds = {"control": control.detach(), "dial": dial.detach(), "exits": exits, "logs": {"web": logs}}
    init = Init({"id": "warm", "name": "warm"}, fds)
    try:
        run_service(init)
        ask(init, client)
    finally:
        end(init)
        client.close()
        os.close(exits)


def run_service(init: Init) -> None:
    """A service that logs, without a process."""
    service = init.services.by_name["web"]
    program = Program(PLAN)
    quick, stdio = made(), None
    if quick is not None:
        quick.open()
        stdio = quick.stdio
        if quick.takes(program, PLAIN):
            quick.start()  # ENOENT; it reaps what it cloned
    stdio = stdio or Stdio(program)
    report, gone = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    init.services.begin(service, program, -2, stdio, report)
    os.close(gone)
    for part in (b"one\n", b"two\nthree\nand", b" four\n"):
        os.write(stdio.child[1], part)
        os.write(stdio.child[2], part)
        init.loop.turn(0)
    stdio.close_child()
    init.services.ended(-2, 0)
    init.loop.turn(0)


def ask(init: Init, client: _socket.socket) -> None:
    """A client that asks for the status and goes."""
    inbox = Inbox(client)
    for _ in range(2):
        client.send(encode({"id": 1, "op": "status", "fds": []}))
        init.loop.turn(0)
        inbox.pull()
        for message, _ in inbox.frames():
            message.clear()
    inbox.close()


def end(init: Init) -> None:
    """Close all that it holds."""
    listeners = [held.listener for held in (init.control, init.dialer) if held is not None]
    if init.control is not None:
        for client in list(init.control.clients):
            init.control.leave(client)
    for listener in listeners:
        listener.sock.close()
    for service in init.services.by_name.values():
        for output in service.outputs:
            if output.fd >= 0:
                output.end()
        if service.log is not None:
            service.log.close()
    os.close(init.children)
    init.loop.close()
