"""`sandbox scale`: how many replicas envs are to have. `up --scale` asks the same."""

import click

from sandboxd.cli import options
from sandboxd.cli.context import Cli, Flags
from sandboxd.cli.progress import Progress
from sandboxd.cli.render import out
from sandboxd.cli.targets import Target, each, one
from sandboxd.errors import UsageError
from sandboxd.protocol.messages import EnvInfo, Scale

MOST = 256
AUTO = "auto"


class ScaleFlags(Flags, frozen=True, kw_only=True):
    """Flags of `scale`."""

    wanted: tuple[str, ...]
    detach: bool
    timeout: float | None


@click.command
@click.argument("wanted", nargs=-1, required=True, metavar="[ENV=]N…")
@click.option("-d", "--no-wait", "detach", is_flag=True, help="Do not wait until they are ready.")
@options.duration_option("--timeout", text="Give up waiting after that, with exit code 124; it goes on.")
@options.takes(ScaleFlags)
def scale(cli: Cli, flags: ScaleFlags) -> int:
    """Have N replicas of an env, each a sandbox of its own behind one name; `auto`: as its [scale] says; 0: stop it."""
    numbers = {name or one(cli, None): number for name, number in map(wanted, flags.wanted)}

    def act(cli: Cli, target: Target) -> EnvInfo:
        return ask(cli, target.target, numbers[target.target], wait=not flags.detach, timeout=flags.timeout)

    with Progress(f"scaling {', '.join(numbers)}"):
        results, code = each(cli, [Target(name, name) for name in numbers], act, say=False)
    for info in results:
        out(f"{info.name}   {told(info)}   {info.url or ''}".rstrip())
    return code


def ask(cli: Cli, target: str, number: int | None, *, wait: bool, timeout: float | None) -> EnvInfo:
    """Ask for that many, None being as many as its [scale] says."""
    return cli.client.call(Scale(target=target, replicas=number, wait=wait, timeout=timeout)).env


def wanted(text: str) -> tuple[str, int | None]:
    """`shop=3`, `shop=auto`, or the number alone for the env of this directory."""
    name, equals, number = text.rpartition("=")
    if (not name and equals) or not (number == AUTO or (number.isascii() and number.isdigit() and int(number) <= MOST)):
        raise UsageError(f"{text!r} says no number of replicas", hint=f"as shop=3, from 0 to {MOST}, or shop={AUTO}")
    return name, None if number == AUTO else int(number)


def told(info: EnvInfo) -> str:
    """`3 of 3 replicas ready`."""
    if info.scale is None or info.scale.wanted == 0:
        return info.state
    return f"{info.scale.ready} of {info.scale.wanted} replicas ready"
