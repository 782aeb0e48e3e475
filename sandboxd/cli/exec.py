"""`exec`, `shell`, `attach`: a command of your own in a running env, or a seat at a running service.

The bytes are `relay`'s; here is what is asked for, and what its end means for the exit code.
"""

import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from sandboxd.cli import keys, options, targets
from sandboxd.cli.command_line import WithCommand, env_and_command
from sandboxd.cli.context import Cli, Flags, is_terminal
from sandboxd.cli.door import EXIT_INTERRUPTED
from sandboxd.cli.relay import Ended, Plug, Relay
from sandboxd.cli.render import note
from sandboxd.cli.terminal import check_input, raw, size_of
from sandboxd.cli.translate import Caller, environment
from sandboxd.errors import NotFound, SandboxdError, UsageError
from sandboxd.protocol.messages import Attach, Exec, Inspect, RunReply, SessionReply

if TYPE_CHECKING:
    from sandboxd.client import Session

PATIENCE = 3
"""After so many interrupts the user is believed: we leave, whatever the command does with them."""

KILLED = 137  # 128 + SIGKILL

SHELL = 'for s in "$1" bash sh; do command -v "$s" >/dev/null 2>&1 && exec "$s"; done; exec sh'


class Forwarder:
    """Sends signals that reach us on to the session's foreground process group."""

    def __init__(self, session: "Session") -> None:
        self._session = session
        self.interrupts = 0

    def __call__(self, number: int) -> None:
        """One signal; raises KeyboardInterrupt once the user has asked three times."""
        if number in {signal.SIGINT, signal.SIGTERM}:
            self.interrupts += 1
            if self.interrupts >= PATIENCE:
                raise KeyboardInterrupt
        with suppress(SandboxdError):  # it has just ended: its last reply says so
            self._session.signal(str(number))


def connect(session: "Session", plug: Plug, *, terminal: bool) -> Ended:
    """Relay a session, with the user's terminal raw where the other side is one."""
    is_raw = terminal and plug.stdin is not None and is_terminal(plug.stdin)
    window = (lambda: size_of(0, 1, 2)) if terminal and (is_terminal(0) or is_terminal(1)) else None
    forwarder = Forwarder(session)
    plug = plug._replace(size=window, keys=plug.keys if is_raw else None, forward=plug.forward or forwarder)
    with raw(plug.stdin if is_raw else None):
        ended = Relay(session, plug).run()
    last = ended.reply.env if isinstance(ended.reply, RunReply) else ended.reply
    if forwarder.interrupts and getattr(last, "exit_code", None) == EXIT_INTERRUPTED and is_terminal(2):
        sys.stderr.write("\n")  # the terminal's ^C stands there; a shell adds the end of its line only where a signal ended us
    return ended


def exit_code_of(ended: Ended, name: str) -> int:
    """The command's own exit code; a limit that ended it is named on stderr."""
    if ended.detached:
        return 0
    reply = ended.reply
    if not isinstance(reply, SessionReply) or reply.exit_code is None:
        raise SandboxdError(
            f"the session with {name} ended without an exit code", hint=f"`sandbox inspect {name}` shows its state"
        )
    if reply.reason:
        note(f"sandbox: {name} ended: {reply.reason}")
    return reply.exit_code


def run_inside(cli: Cli, params: Exec) -> int:
    """Open the session and leave with the command's exit code."""
    terminal = params.tty
    extra = {"TERM": os.environ.get("TERM", "xterm")} if terminal else {}
    rows, cols = size_of(0, 1, 2)
    params = Exec(
        target=params.target, service=params.service, argv=params.argv, env={**extra, **params.env}, workdir=params.workdir,
        tty=terminal, stdin=params.stdin, rows=rows, cols=cols, fds=True,
    )  # fmt: skip
    with cli.client.open(params) as session:
        plug = Plug(stdin=0 if params.stdin else None, stdout=1, stderr=2)
        ended = connect(session, plug, terminal=terminal)
        return exit_code_of(ended, params.target)


class ExecFlags(Flags, frozen=True, kw_only=True):
    """Flags of `exec`."""

    interactive: bool
    tty: bool
    env: tuple[str, ...]
    workdir: str | None
    words: tuple[str, ...]


@click.command("exec", cls=WithCommand)
@click.option("-i", "--interactive", is_flag=True, help="Pass stdin on.")
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal.")
@click.option("-e", "--env", multiple=True, metavar="K=V", help="A variable for the command (K alone: your own value).")
@click.option("-w", "--workdir", metavar="DIR", help="Where it runs, inside.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[ENV[/SERVICE]] [--] CMD...")
@options.takes(ExecFlags)
def exec_(cli: Cli, flags: ExecFlags) -> int:
    """Run a command in a running env (none named: that of this directory), and leave with its exit code."""
    reference, command = env_and_command(click.get_current_context(), flags.words)
    if not command:
        raise UsageError("exec needs a command", hint="sandbox exec -it ENV -- bash; or: sandbox shell ENV")
    if command[0].startswith("-"):
        raise UsageError(
            f"exec: {command[0]!r} stands where the command should", hint="flags stand before ENV: exec -it ENV -- bash"
        )
    check_input(interactive=flags.interactive, terminal=flags.tty)
    name, service = targets.split(reference)
    own = environment(flags.env, Caller(directory="/", home="/", environ=os.environ))
    params = Exec(
        target=targets.one(cli, name), service=service, argv=command, env=own, workdir=flags.workdir, tty=flags.tty,
        stdin=flags.interactive,
    )  # fmt: skip
    return run_inside(cli, params)


class ShellFlags(Flags, frozen=True, kw_only=True):
    """Flags of `shell`."""

    reference: str | None


@click.command
@options.reference
@options.takes(ShellFlags)
def shell(cli: Cli, flags: ShellFlags) -> int:
    """Open your shell (or bash, or sh) in a running env."""
    name, service = targets.split(flags.reference)
    terminal = is_terminal(0) and is_terminal(1)
    wanted = os.environ.get("SHELL", "") or "bash"
    argv = ["/bin/sh", "-c", SHELL, "sh", wanted]
    return run_inside(cli, Exec(target=targets.one(cli, name), service=service, argv=argv, tty=terminal, stdin=True))


class AttachFlags(Flags, frozen=True, kw_only=True):
    """Flags of `attach`."""

    reference: str | None
    no_stdin: bool
    sig_proxy: bool
    detach_keys: str


@click.command
@options.reference
@click.option("--no-stdin", is_flag=True, help="Only watch.")
@click.option("--sig-proxy/--no-sig-proxy", default=True, help="Pass signals on to the service (ctrl-C too; default: on).")
@click.option("--detach-keys", default=keys.DEFAULT, metavar="KEYS", help=f"Leave and let it run (default: {keys.DEFAULT}).")
@options.takes(AttachFlags)
def attach(cli: Cli, flags: AttachFlags) -> int:
    """Join a running service's terminal, or its output; ctrl-p ctrl-q leaves it."""
    sequence = keys.DetachKeys(keys.parse_keys(flags.detach_keys))
    name, service = targets.split(flags.reference)
    info = cli.client.call(Inspect(target=targets.one(cli, name))).env
    services = info.spec.services if info.spec is not None else {}
    chosen = service or next(iter(services), "")
    if chosen not in services:
        raise NotFound(f"{info.name} has no service {chosen!r}", hint=f"it has {', '.join(services)}")
    spec = services[chosen]
    listens = spec.stdin and not flags.no_stdin
    rows, cols = size_of(0, 1, 2)
    params = Attach(target=info.id, service=chosen, stdin=listens, rows=rows, cols=cols, fds=True)
    with cli.client.open(params) as session:
        plug = Plug(stdin=0 if listens else None, stdout=1, stderr=2, keys=sequence)
        if not flags.sig_proxy:
            plug = plug._replace(forward=leave)
        ended = connect(session, plug, terminal=spec.tty)
        if ended.detached:
            note(f"\r\ndetached; {info.name} runs on")
            return 0
    return service_code(cli, info.id, chosen, exit_code_of(ended, info.name))


def service_code(cli: Cli, env_id: str, service: str, code: int) -> int:
    """The service's own exit code: the end of the whole env may cut the session off (137) before that was told."""
    if code != KILLED:
        return code
    try:
        services = cli.client.call(Inspect(target=env_id)).env.services
    except NotFound:
        return code
    return next((one.exit_code for one in services if one.name == service and one.exit_code is not None), code)


def leave(number: int) -> None:
    """A signal that is not passed on ends us, not the service."""
    if number in {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}:
        raise KeyboardInterrupt
