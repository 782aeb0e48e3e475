"""`sandbox daemon dial-stdio`: the far side of a connection over ssh, between stdin and stdout and this machine's daemon.

Nobody types it: `client.remote` runs it on the box, as the user that sshd let in. It says HELLO once it has the daemon.
Invariant: it ends as soon as either side does, and stdout carries nothing of its own but HELLO.
"""

import os
import select
import socket

import click

from sandboxd.cli import options
from sandboxd.cli.context import Cli, Flags
from sandboxd.cli.relay import write_all
from sandboxd.errors import UsageError

CHUNK = 64 << 10


@click.command("dial-stdio", hidden=True)
@options.takes(Flags)
def dial_stdio(cli: Cli, flags: Flags) -> None:
    """Connect stdin and stdout to the daemon of this machine."""
    from sandboxd.client.dial import Daemon  # noqa: PLC0415 - no other verb connects by itself
    from sandboxd.client.remote import HELLO  # noqa: PLC0415

    # A context is for who types; what comes over ssh has arrived.
    daemon = Daemon(None, autostart=True, host=cli.host) if cli.host else Daemon(None, autostart=True, here=True)
    if daemon.remote is not None:
        raise UsageError("dial-stdio connects to the daemon of this machine", hint="leave out --host")
    with daemon.connect() as sock:
        write_all(1, HELLO)
        carry(sock, 0, 1)


def carry(sock: socket.socket, stdin: int, stdout: int) -> None:
    """Until either side ends."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    poll.register(stdin, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            try:
                data = os.read(fd, CHUNK)
                if not data:
                    return
                write_all(stdout if fd == sock.fileno() else sock.fileno(), data)
            except (ConnectionError, BrokenPipeError):
                return
