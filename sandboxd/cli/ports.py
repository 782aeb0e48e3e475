"""`url`, `open`, `ports`: how an env is reached."""

import os

import click
import msgspec

from sandboxd.cli import options, phrases, targets
from sandboxd.cli.context import Chosen, Cli, Flags
from sandboxd.cli.render import items, note, out
from sandboxd.cli.template import Columns
from sandboxd.errors import NotFound, SandboxdError
from sandboxd.protocol.messages import EnvInfo, Inspect, PortInfo


class EnvPort(PortInfo, frozen=True, kw_only=True):
    """A port and whose it is."""

    name: str


COLUMNS: Columns = {
    "NAME": lambda port: port.name,
    "SERVICE": lambda port: port.service,
    "PORT": lambda port: f"{port.port}/tcp",
    "EXPOSE": lambda port: port.expose,
    "ADDRESS": lambda port: port.address or "",
    "URL": lambda port: port.url or "",
    "ROUTES": lambda port: ", ".join(port.routes),
}


def inspected(cli: Cli, name: str | None) -> EnvInfo:
    """The env meant."""
    return cli.client.call(Inspect(target=targets.one(cli, name))).env


def url_of(info: EnvInfo, service: str | None) -> str:
    """The URL of an env or of one of its services; raises NotFound saying why there is none."""
    if service is None:
        found, what = info.url, info.name
    else:
        known = {one.name: one for one in info.services}
        if service not in known:
            raise NotFound(f"{info.name} has no service {service!r}", hint=f"it has {', '.join(known)}")
        found, what = known[service].url, f"{info.name}/{service}"
    if found:
        return found
    if info.state in {"stopped", "failed"}:
        raise NotFound(f"{what} has no URL: it is {info.state}", hint=f"sandbox start {info.name}")
    raise NotFound(
        f"{what} has no URL: it listens on no port that is reached by name",
        hint=f"`sandbox ports {info.name}` lists its ports; -p PORT names one when it is made",
    )


class UrlFlags(Flags, frozen=True, kw_only=True):
    """Flags of `url` and `open`."""

    reference: str | None


class PortsFlags(Chosen, frozen=True, kw_only=True):
    """Flags of `ports`."""

    how: str | None


@click.command
@options.reference
@options.takes(UrlFlags)
def url(cli: Cli, flags: UrlFlags) -> None:
    """Print where an env (or ENV/SERVICE) is reached."""
    name, service = targets.split(flags.reference)
    out(url_of(inspected(cli, name), service))


@click.command("open")
@options.reference
@options.takes(UrlFlags)
def open_url(cli: Cli, flags: UrlFlags) -> None:
    """Open an env's URL in the browser."""
    name, service = targets.split(flags.reference)
    found = url_of(inspected(cli, name), service)
    import webbrowser  # noqa: PLC0415 - imports subprocess and more; only this verb needs it

    has_display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or os.environ.get("BROWSER")
    if not has_display or not webbrowser.open(found):
        out(found)
        raise SandboxdError("no browser could be opened here", hint="the URL is above; BROWSER=COMMAND names one")
    note(f"opened {phrases.clean(found)}")


@click.command
@options.targets
@options.format_option
@options.takes(PortsFlags)
def ports(cli: Cli, flags: PortsFlags) -> None:
    """List envs' ports: inside, by name through the router, and on the host where one was published."""
    chosen = targets.chosen(cli, flags)
    found = [cli.client.call(Inspect(target=target.target)).env for target in chosen]
    rows = [EnvPort(name=info.name, **msgspec.structs.asdict(port)) for info in found for port in info.ports]
    hidden = ["NAME"] if len(found) == 1 else []
    hidden += [] if any(row.routes for row in rows) else ["ROUTES"]
    items(rows, COLUMNS, how=flags.how, hide=hidden)
