"""`sandbox forward ENV PORT [HOSTPORT]`: a port of an env at this machine's own loopback, for as long as it runs.

Here the router listens, as for `-p`, while our call stands. An env of a box (`forward ENV [HOSTPORT]`) is reached by its name:
`ssh -L` carries it (OpenSSH's own forwarding), from a port of this machine's loopback to the box's router, which knows envs by
their names as at home, and sees the user that sshd let in.
"""

import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress

import click

from sandboxd.cli import options, targets
from sandboxd.cli.context import Cli, Flags
from sandboxd.cli.relay import signals
from sandboxd.cli.render import note, out
from sandboxd.errors import DaemonUnreachable, InvalidState, PortTaken, UsageError
from sandboxd.protocol.messages import Forward, Inspect, Status

WORD = "sandbox: forwarding"


class ForwardFlags(Flags, frozen=True, kw_only=True):
    """Flags of `forward`."""

    name: str | None
    port: int | None
    host_port: int | None


@click.command
@click.argument("name", required=False, metavar="[ENV]", shell_complete=options.env_names)
@click.argument("port", required=False, type=click.IntRange(1, 65535), metavar="[PORT]")
@click.argument("host_port", required=False, type=click.IntRange(1, 65535), metavar="[HOSTPORT]")
@options.takes(ForwardFlags)
def forward(cli: Cli, flags: ForwardFlags) -> int:
    """Reach PORT of an env at 127.0.0.1:HOSTPORT, until ctrl-C; an env of a box (--host) at http://NAME.localhost:PORT."""
    if cli.remote is None:
        return locally(cli, flags)
    if flags.host_port is not None:
        raise UsageError("an env of a box is forwarded by its name", hint="sandbox --host ssh://… forward ENV [HOSTPORT]")
    info = cli.client.call(Inspect(target=targets.one(cli, flags.name))).env
    if info.url is None:
        raise InvalidState(f"env {info.name} has no URL", hint=f"`sandbox ports {info.name}` shows what it listens on")
    front = next((one for one in cli.client.call(Status()).listen if not one.startswith("unix:")), None)
    if front is None:
        raise InvalidState("the router of that box listens on no TCP address", hint="its daemon needs SANDBOXD_LISTEN")
    host, _, far = front.rpartition(":")
    port = free_port(flags.port or int(far), asked=flags.port is not None)
    name = info.url.removeprefix("http://").partition(":")[0]
    return carry(cli, f"127.0.0.1:{port}:{reachable(host)}:{far}", f"http://{name}:{port}")


def locally(cli: Cli, flags: ForwardFlags) -> int:
    """An env of this machine: the daemon has the router listen while we stay."""
    if flags.port is None:
        raise UsageError(
            "name the port inside", hint="sandbox forward ENV PORT [HOSTPORT]; `sandbox url ENV` is its HTTP address"
        )
    asked = Forward(target=targets.one(cli, flags.name), port=flags.port, host_port=flags.host_port or 0)
    listens = False
    try:
        for reply in cli.client.stream(asked):
            if listens:
                note(f"sandbox: {reply.env.name} is {reply.env.state}")
                return 1
            out(reply.env.ports[0].address or "")
            note(f"{WORD} port {flags.port} of {reply.env.name}; ctrl-C ends it")
            sys.stdout.flush()
            listens = True
    except KeyboardInterrupt:
        return 0
    return 1


def reachable(host: str) -> str:
    """An address of the box's own that reaches what listens on that one."""
    return {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)


def free_port(port: int, *, asked: bool) -> int:
    """That port of our loopback, or any where it is taken and nobody asked for it by number; raises PortTaken."""
    for candidate in (port,) if asked else (port, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise PortTaken(f"127.0.0.1:{port} is in use", hint="name another PORT, or none", address=f"127.0.0.1:{port}")


def carry(cli: Cli, way: str, url: str) -> int:
    """Run ssh until it ends, or we are told to."""
    from sandboxd.client.remote import ssh_to  # noqa: PLC0415 - only for boxes

    assert cli.remote is not None
    command = ssh_to(cli.remote, os.environ, "-T", "-o", "ExitOnForwardFailure=yes", "-L", way)
    # `cat` says a byte back once the way is open, and ends with us
    command.append("cat")
    with (
        signals((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)) as told,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as child,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            with suppress(BrokenPipeError):
                child.stdin.write(b"\n")
                child.stdin.flush()
            if not child.stdout.read(1):
                raise DaemonUnreachable(f"ssh to {cli.remote} failed, and has said why", hint="is that port in use here?")
            out(url)
            note(f"{WORD}; ctrl-C ends it")
            wait(child.stdout.fileno(), told)
        finally:
            child.terminate()
    return 0


def wait(line: int, told: int) -> None:
    """Until a signal comes, or ssh ends."""
    poll = select.poll()
    poll.register(line, select.POLLIN)
    poll.register(told, select.POLLIN)
    for fd, _ in poll.poll():
        if fd == line:
            raise DaemonUnreachable("the connection to the box has ended")
