"""`up` and `down`: a whole project from its sandbox.toml.

Reads the file, names the env, asks the daemon, shows progress and the outcome. Invariant: `up` never touches an env of
another directory that happens to have the same name.
"""

import os
import time
from typing import Literal, NamedTuple

import click
from msgspec.structs import replace

from sandboxd.cli import demand, options, scale, targets
from sandboxd.cli.context import Chosen, Cli, Flags, may_prompt
from sandboxd.cli.linger import warn_once
from sandboxd.cli.phrases import no_way, weaker
from sandboxd.cli.progress import Progress
from sandboxd.cli.render import env_columns, items, note, out
from sandboxd.cli.translate import as_label, checked_name, default_name, handed_on, placed
from sandboxd.cli.worktree import linked
from sandboxd.errors import NameTaken, NotAccepted, NotFound, NotReady, SandboxdError, SpecInvalid, UsageError, WorkspaceInvalid
from sandboxd.protocol.messages import EnvInfo, Inspect, Logs, LogsReply, Remove, Run, RunReply, Stop
from sandboxd.spec import EnvSpec
from sandboxd.specfile import parse_spec

FILE = "sandbox.toml"
MAX_BYTES = (256 << 10) + 1  # one more than parse_spec takes, so that it says so itself
LAST_LINES = 10


class Project(NamedTuple):
    """A spec file's env, ready to be asked for, and where it is."""

    spec: EnvSpec
    directory: str


def spec_path(cli: Cli, directory: str | None, file: str | None) -> str:
    """The spec file meant: --file, DIR/sandbox.toml, or that of this directory or the nearest above it."""
    if cli.remote is not None:
        raise UsageError(f"the project's directory is here, and not on {cli.remote}", hint="ssh there, and `sandbox up` in it")
    if file is not None:
        return os.path.abspath(file)
    if directory is not None:
        at = os.path.abspath(directory)
        if not os.path.isdir(at):
            raise WorkspaceInvalid(f"{directory} is no directory", hint="sandbox up DIR, with a sandbox.toml in it")
        if not os.path.exists(os.path.join(at, FILE)):
            raise no_file(directory)
        return os.path.join(at, FILE)
    at = cli.directory
    while not os.path.exists(os.path.join(at, FILE)):
        parent = os.path.dirname(at)
        if parent == at:
            raise no_file("this directory, nor above it")
        at = parent
    return os.path.join(at, FILE)


def no_file(where: str) -> SpecInvalid:
    """The error for a project without a spec file."""
    return SpecInvalid(
        f"there is no {FILE} in {where}",
        hint='a small one: [services.web] command = "npm run dev"; without any: sandbox run -- npm run dev',
    )


def read_project(cli: Cli, path: str, name: str | None) -> Project:
    """Read and place a spec file. In a linked git worktree its env is named `branch.project`."""
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_BYTES)
    except OSError as error:
        raise SpecInvalid(f"cannot read {path}: {error.strerror}", hint="sandbox up --file FILE", file=path) from error
    directory = os.path.dirname(path)
    shown = os.path.relpath(path, cli.directory)
    spec = parse_spec(text, file=path if shown.startswith("..") else shown, default_name=default_name(directory))
    worktree = linked(directory)
    if name is not None:
        spec = replace(spec, name=checked_name(name))
    elif worktree is not None:
        project = worktree.project if directory == worktree.root and spec.name == default_name(directory) else spec.name
        if "." not in (project or ""):  # a file that says the whole of it means that
            spec = replace(spec, name=default_name(project or directory, worktree.branch))
    if not spec.name:
        raise SpecInvalid(f"{shown} has no name, and {directory!r} gives none", hint='name = "shop"', file=path)
    return Project(placed(spec, directory, cli.home), directory)


def standing(cli: Cli, project: Project) -> EnvInfo | None:
    """The project's env where there is one; raises NameTaken when that name is another directory's."""
    name = project.spec.name or ""
    try:
        found = cli.client.call(Inspect(target=name)).env
    except NotFound:
        return None
    if found.name != name:  # the name is the beginning of some id
        return None
    if found.workspace != project.spec.workspace.path:
        other = as_label(f"{name}-2")
        raise NameTaken(
            f"{name} is the name of another env, of {found.workspace or 'no directory'}",
            hint=f"sandbox up --name {other}, or `name` in {FILE}; `sandbox rm -f {name}` ends the other one",
            id=found.id,
        )
    return found


class UpFlags(Flags, frozen=True, kw_only=True):
    """Flags of `up`."""

    directory: str | None
    file: str | None
    name: str | None
    detach: bool
    ready: bool
    accept: bool
    scale: str | None
    timeout: float | None
    how: str | None


class DownFlags(Flags, frozen=True, kw_only=True):
    """Flags of `down`."""

    where: str | None
    file: str | None
    volumes: bool
    timeout: float | None
    yes: bool


@click.command
@click.argument("directory", required=False, metavar="[DIR]", type=click.Path())
@click.option("-f", "--file", metavar="FILE", type=click.Path(), help=f"Instead of DIR/{FILE}.")
@click.option("--name", metavar="NAME", help="Instead of the file's name.")
@click.option("-d", "--detach", is_flag=True, hidden=True, help="As compose; `up` always returns.")
@click.option("--wait/--no-wait", "ready", default=True, help="Until it is ready (default), or only started.")
@click.option("--accept", is_flag=True, help=f"Go on where {FILE} opens more than when it was last started.")
@click.option("--scale", metavar="N", help="So many replicas, each a sandbox of its own; auto: as [scale] says.")
@options.duration_option("--timeout", text="Give up waiting after that, with exit code 124; the env runs on.")
@options.format_option
@options.takes(UpFlags)
def up(cli: Cli, flags: UpFlags) -> None:
    """Start the project of this directory, or bring it to what its sandbox.toml says now."""
    began = time.monotonic()
    project = read_project(cli, spec_path(cli, flags.directory, flags.file), flags.name)
    name = project.spec.name or ""
    if weaker(project.spec.isolation.level):
        note(weaker(project.spec.isolation.level))
    if project.spec.on_demand is not None:
        demand.up(cli, project.spec, project.directory, accept=flags.accept, how=flags.how)
        warn_once()
        return
    with Progress(f"starting {name}") as progress:
        before = standing(cli, project)
        until: Literal["ready", "started"] = "ready" if flags.ready else "started"
        params = Run(
            spec=project.spec, environ=handed_on(os.environ), directory=project.directory, exists="replace", wait=until,
            timeout=flags.timeout, accept=flags.accept,
        )  # fmt: skip
        replicas = scale.wanted(flags.scale) if flags.scale is not None else None
        try:
            reply = asked(cli, params, progress)
            if replicas is not None:
                info = scale.ask(cli, reply.env.id, replicas[1], wait=flags.ready, timeout=flags.timeout)
                reply = replace(reply, env=info)
        except NotReady:
            progress.end()
            last_lines(cli, name)
            raise
    warn_once()
    if flags.how is not None:
        items([reply.env], env_columns(whole=True), how=flags.how, hide=["LABELS", "KEY"])
        return
    say(reply, before, time.monotonic() - began)


def asked(cli: Cli, params: Run, progress: Progress) -> RunReply:
    """`follow`, and where the spec opens more than before, again once the person at the terminal has said that it is meant."""
    try:
        return follow(cli, params, progress)
    except NotAccepted as error:
        progress.end()
        if not may_prompt():
            raise
        note(f"sandbox: {error.message}")
        if not click.confirm("Is that meant?", default=False, err=True):
            raise
    return follow(cli, replace(params, accept=True), progress)


def follow(cli: Cli, params: Run, progress: Progress) -> RunReply:
    """The last reply of a Run, telling the progress line of what comes before."""
    last: RunReply | None = None
    for reply in cli.client.stream(params):
        assert isinstance(reply, RunReply)
        last = reply
        progress.say(stage(reply.env))
    if last is None:
        raise SandboxdError("the daemon answered nothing", hint="`sandbox daemon status` shows where its log is")
    return last


def stage(info: EnvInfo) -> str:
    """How far a start has come, service by service: `shop: db is ready, web is starting`."""
    words = {"running": "runs", "exited": "has ended", "failed": "has failed", "waiting": "waits"}
    told = [f"{service.name} {words.get(service.state, f'is {service.state}')}" for service in info.services]
    return f"{info.name}: {', '.join(told)}" if len(told) > 1 else f"{info.name} is {info.state}"


def say(reply: RunReply, before: EnvInfo | None, seconds: float) -> None:
    """`shop   ready in 0.21 s   http://shop.localhost:7070`, and a line for each further URL."""
    info = reply.env
    state = info.state
    if not reply.changed and before is not None:
        outcome = f"{state} already"
    elif state in {"stopped", "failed"}:
        outcome = f"exited ({info.exit_code})" if info.exit_code is not None else state
    else:
        outcome = f"{state} in {seconds:.2f} s"
    if info.scale is not None and info.scale.wanted > 1:
        outcome += f" ({scale.told(info)})"
    if no_way(info):
        note(no_way(info))
    rows = [[info.name, outcome, info.url or ""]]
    # the first service's own URL reaches the same as the env's
    rows += [[f"  {port.service}", "", port.url or ""] for port in info.ports[1:] if port.url]
    width = max(len(row[0]) for row in rows)
    middle = max(len(row[1]) for row in rows)
    for row in rows:
        out(f"{row[0]:<{width}}   {row[1]:<{middle}}   {row[2]}".rstrip())


def last_lines(cli: Cli, name: str) -> None:
    """The end of what an env that did not get ready wrote, on stderr: nearly always the reason is there."""
    lines = []
    try:
        for reply in cli.client.stream(Logs(target=name, tail=LAST_LINES)):
            assert isinstance(reply, LogsReply)
            lines += [f"  {line.service} | {line.text}" for line in reply.lines]
    except SandboxdError:
        return
    for line in lines[-LAST_LINES:]:
        note(line)


@click.command
@click.argument("where", required=False, metavar="[DIR|ENV]", shell_complete=options.env_names)
@click.option("-f", "--file", metavar="FILE", type=click.Path(), help=f"Instead of DIR/{FILE}.")
@click.option("-v", "--volumes", is_flag=True, help="As compose: an env's private home and logs go in any case.")
@options.duration_option("-t", "--time", "--timeout", "timeout", text="Grace before the kill (default: the env's own).")
@options.yes_option
@options.takes(DownFlags)
def down(cli: Cli, flags: DownFlags) -> int:
    """Stop and remove the project of this directory (or of DIR, or an env by name)."""

    def act(cli: Cli, target: targets.Target) -> None:
        cli.client.call(Stop(target=target.target, timeout=flags.timeout))
        try:
            cli.client.call(Remove(target=target.target, force=True))
        except NotFound:
            return  # `--rm`: it went by itself once it had stopped

    chosen = meant(cli, flags.where, flags.file, yes=flags.yes)
    with Progress(f"ending {', '.join(target.shown for target in chosen)}"):
        _, code = targets.each(cli, chosen, act)
    return code


def meant(cli: Cli, where: str | None, file: str | None, *, yes: bool) -> list[targets.Target]:
    """What `down` is about: an env by name, or the one that `up` made of that directory; empty when it is not up.

    Never an env of a directory above, which the same directory would mean for verbs that destroy nothing.
    """
    is_place = where is None or "/" in where or where in {".", ".."} or os.path.isdir(where)
    if where is not None and not is_place:
        return targets.chosen(cli, Chosen(names=(where,), yes=yes), destroys="down")
    try:
        project = read_project(cli, spec_path(cli, where, file), None)
    except SpecInvalid:
        if file is not None:
            raise
        return [targets.exactly(cli, os.path.abspath(where or cli.directory), "down")]
    try:
        found = standing(cli, project)
    except NameTaken:
        found = None
    if project.spec.on_demand is not None and found is None:
        demand.down(cli, project.spec.name or "")
        return []
    if found is None:
        note(f"{project.spec.name} is not up")
        return []
    return [targets.Target(found.id, found.name)]
