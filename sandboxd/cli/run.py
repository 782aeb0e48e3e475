"""`sandbox run`: one command in an env of its own, attached to your terminal or not.

Flags become a spec in `translate`; bytes are `relay`'s. Attached, it leaves with the command's exit code; detached, it
prints the id and nothing else on stdout.
"""

import os
import signal
from typing import TYPE_CHECKING

import click

from sandboxd.cli import keys, options
from sandboxd.cli.command_line import WithCommand, whole_command
from sandboxd.cli.context import Cli, Flags
from sandboxd.cli.exec import connect
from sandboxd.cli.linger import warn_once
from sandboxd.cli.phrases import cause, no_way, weaker
from sandboxd.cli.progress import Progress
from sandboxd.cli.relay import Ended, Plug
from sandboxd.cli.render import env_columns, items, note, out
from sandboxd.cli.terminal import check_input, size_of
from sandboxd.cli.translate import Caller, RunFlags, handed_on, is_too_wide, spec_of
from sandboxd.errors import EXIT_CANNOT_EXECUTE, EXIT_NOT_FOUND, SandboxdError, UsageError
from sandboxd.protocol.messages import EnvInfo, Kill, Run, RunReply
from sandboxd.spec import EnvSpec

if TYPE_CHECKING:
    from sandboxd.client import Session

ENV_FILE_CAP = 1 << 20
OWN = ("PATH", "HOME", "USER", "SHELL")  # this machine's: on a box they would be another's


def caller(cli: Cli, env_files: tuple[str, ...]) -> Caller:
    """Where `run` was typed; reads the env files, and raises UsageError for one that cannot be read."""
    texts = []
    for path in env_files:
        try:
            with open(path, "rb") as file:
                text = file.read(ENV_FILE_CAP + 1)
        except OSError as error:
            raise UsageError(f"--env-file {path}: {error.strerror}", hint="name a file with one NAME=VALUE a line") from error
        if len(text) > ENV_FILE_CAP:
            raise UsageError(f"--env-file {path}: longer than 1 MiB", hint="is this the right file?")
        texts.append((path, text))
    return Caller(directory=cli.directory, home=cli.home, environ=os.environ, env_files=tuple(texts))


class AllFlags(Flags, RunFlags, frozen=True, kw_only=True):
    """Flags of `run`: what the env is, and how it is started."""

    detach: bool
    env_files: tuple[str, ...]
    detach_keys: str
    ready: bool
    timeout: float | None
    how: str | None
    words: tuple[str, ...]


@click.command("run", cls=WithCommand)
@click.option("-d", "--detach", is_flag=True, help="Do not stay: print the id and return.")
@click.option("--rm", is_flag=True, help="Remove it once it has ended.")
@click.option("--name", metavar="NAME", help="Becomes http://NAME.localhost (default: two words).")
@click.option(
    "-p",
    "--publish",
    multiple=True,
    metavar="[[IP:]HOSTPORT:]PORT",
    help="The routed port; or a host port, or unix:PATH, besides.",
)
@click.option("-e", "--env", multiple=True, metavar="K=V", help="A variable (K alone: your own value).")
@click.option("--env-file", "env_files", multiple=True, metavar="FILE", help="Variables, one K=V a line.")
@click.option("-w", "--workdir", "--cwd", "workdir", metavar="DIR", help="The workspace (default: this directory).")
@click.option(
    "--workspace", type=click.Choice(["bind", "cow", "copy"]), default="bind", help="Default: bind, the live directory."
)
@click.option("-v", "--volume", multiple=True, metavar="SRC:DST[:ro]", help="A host path shown inside.")
@options.limits
@click.option("--ulimit", multiple=True, metavar="nofile=N", help="Open files of a process.")
@click.option(
    "--network", "--net", "network", type=click.Choice(["private", "host", "none"]), default="private", help="Default: private."
)
@click.option(
    "--egress",
    multiple=True,
    metavar="none|open|proxy|lan|host|NAME|ADDRESS[:PORT],...",
    help="What it may reach outside (default: open, the public internet).",
)
@click.option(
    "--forward", multiple=True, metavar="[PORT:]PORT|HOST:PORT|unix:PATH", help="A service of elsewhere on its own loopback."
)
@click.option(
    "--share", type=click.Choice(["private", "box", "link"]), help="By name: its owner, this machine's users, who has its URL."
)
@click.option("--nested", is_flag=True, help="Let programs make namespaces inside: Chromium, bwrap, podman.")
@click.option("--isolation", type=click.Choice(["full", "landlock", "none"]), default="full", help="The least to start with.")
@click.option("--restart", default="no", metavar="POLICY", help="no, on-failure[:N], always, unless-stopped.")
@click.option("--ttl", metavar="DURATION", help="Stop it after that, such as 2h.")
@click.option("--idle", metavar="DURATION", help="Stop it when unused for so long; or suspend=5m,stop=1h,remove=7d.")
@click.option("-l", "--label", multiple=True, metavar="K=V", help="A label, to select by.")
@click.option("-i", "--interactive", is_flag=True, help="Pass stdin on.")
@click.option("-t", "--tty", is_flag=True, help="Give the command a terminal.")
@click.option("-u", "--user", metavar="self|root", help="`root`: root inside, when you are root.")
@click.option("--stop-signal", default="TERM", metavar="SIGNAL", help="Default: TERM.")
@click.option("--stop-timeout", metavar="DURATION", help="Grace before the kill (default: 10s).")
@click.option("--detach-keys", default=keys.DEFAULT, metavar="KEYS", help=f"Leave and let it run (default: {keys.DEFAULT}).")
@click.option("--wait", "ready", is_flag=True, help="Detached: return once it is ready.")
@options.duration_option("--timeout", text="With --wait: give up after that, with exit code 124.")
@options.format_option
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[--] CMD...")
@options.takes(AllFlags)
def run(cli: Cli, flags: AllFlags) -> int:
    """Run a command in an env of its own, and leave with its exit code; `-d`: let it run, and print its id."""
    detached = flags.detach or flags.ready
    if flags.how is not None and not detached:
        raise UsageError("--format is for detached envs: attached, stdout is the command's", hint="add -d")
    sequence = keys.parse_keys(flags.detach_keys)
    if cli.remote is not None:
        check_places(flags)
    here = caller(cli, flags.env_files)
    spec = spec_of(flags, whole_command(click.get_current_context(), flags.words), here)
    if not detached:
        check_input(interactive=flags.interactive, terminal=flags.tty)
    if flags.workdir is None and is_too_wide(here.directory, here.home):
        where = here.directory if cli.remote is None else "this directory"
        note(f"sandbox: {where} is not shared with the env, its workspace is empty; -w DIR names one")
    if weaker(spec.isolation.level):
        note(weaker(spec.isolation.level))
    params = request(spec, here, ready=flags.ready, timeout=flags.timeout, far=cli.remote is not None)
    if not detached:
        return attached(cli, params, keys.DetachKeys(sequence))
    with Progress(f"starting {spec.name or 'an env'}"):
        info = cli.client.call(params).env
    if cli.remote is None:
        warn_once()
    if no_way(info):
        note(no_way(info))
    if flags.how is not None:
        items([info], env_columns(whole=True), how=flags.how, hide=["LABELS", "KEY"])
    else:
        out(info.id)
    return 0


def check_places(flags: AllFlags) -> None:
    """Directories of a box are named whole: it has no notion of where we stand. Raises UsageError."""
    for flag, place in (("-w", flags.workdir or "/"), *(("-v", volume) for volume in flags.volume)):
        if not place.startswith("/"):
            raise UsageError(f"{flag} {place}: on a box a directory is named whole", hint="it is the box's: start it with /")


def request(spec: EnvSpec, here: Caller, *, ready: bool, timeout: float | None, far: bool) -> Run:
    """The Run of a spec. far: on a box."""
    return Run(
        spec=spec,
        environ={key: value for key, value in handed_on(here.environ).items() if not far or key not in OWN},
        directory=here.directory,
        wait="ready" if ready else "started",
        timeout=timeout,
    )


def attached(cli: Cli, params: Run, sequence: keys.DetachKeys) -> int:
    """Stay with the command: its stdio is ours, and so is its exit code."""
    service = next(iter(params.spec.services.values()))
    rows, cols = size_of(0, 1, 2)
    params = Run(
        spec=params.spec, environ=params.environ, directory=params.directory, attach=True, fds=True, rows=rows, cols=cols
    )
    with Progress(f"starting {params.spec.name or 'an env'}") as progress, cli.client.open(params) as session:
        info = opened(session)
        progress.end()
        if no_way(info):
            note(no_way(info))
        plug = Plug(stdin=0 if service.stdin else None, stdout=1, stderr=2, keys=sequence)
        try:
            ended = connect(session, plug, terminal=service.tty)
        except BrokenPipeError:
            # whoever read our stdout has left: the command gets what it would have got from the kernel
            cli.client.call(Kill(target=info.id, signal=str(int(signal.SIGPIPE))))
            raise
        return exit_code_of(ended, info)


def opened(session: "Session") -> EnvInfo:
    """The env once it has started and its session is open; what comes before that are changes of its state."""
    reply = session.first
    replies = session.replies()
    while not session.session:
        reply = next(replies, None)
        if reply is None:
            raise SandboxdError("the env ended before it could be attached", hint="`sandbox ps -a` shows how")
    assert isinstance(reply, RunReply)
    return reply.env


def exit_code_of(ended: Ended, info: EnvInfo) -> int:
    """The command's exit code; what limit or command ended it is named on stderr."""
    if ended.detached:
        note(f"\r\ndetached; {info.name} runs on: sandbox attach {info.name}")
        return 0
    if not isinstance(ended.reply, RunReply):
        raise SandboxdError(f"{info.name} ended without a last word", hint=f"`sandbox inspect {info.name}` shows its state")
    last = ended.reply.env
    if cause(last) or (last.exit_code in {EXIT_CANNOT_EXECUTE, EXIT_NOT_FOUND} and last.reason):
        note(f"sandbox: {last.name} ended: {last.reason}")
    if last.exit_code is None:
        raise SandboxdError(f"{last.name} is {last.state}, without an exit code: {last.reason or 'nobody knows why'}")
    return last.exit_code
