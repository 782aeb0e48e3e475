"""`sandbox daemon install|uninstall`: the daemon as an installed unit of the user's manager, or of the system's.

Not needed for daily use: where there is a user manager, the first command makes a unit like it. Installed, it starts at login
or boot, and its control socket is there before it. Files come from the package's `systemd` directory; what is ours to write is
written whole or not at all, and a file of settings that is there stays.
"""

import os
import sys
from pathlib import Path

import click

import sandboxd
from sandboxd.cli import options
from sandboxd.cli.context import Cli, Flags
from sandboxd.cli.leaving import open_pidfd, wait_gone
from sandboxd.cli.linger import LOGOUT, lingers
from sandboxd.cli.render import note, out
from sandboxd.errors import DaemonUnreachable, NotOffered, PermissionDenied, SandboxdError
from sandboxd.protocol.messages import Shutdown, Status

EDITED = ("env", "config.toml")  # the administrator's: what is there stays
MARK = "# Made by `sandbox daemon install`.\n"
ENABLED = ("sandboxd.socket", "sandboxd.service")


class InstallFlags(Flags, frozen=True, kw_only=True):
    """Flags of both."""

    system: bool


def places(*, system: bool) -> dict[str, Path]:
    """Where each of our files belongs, by its name in `systemd/`."""
    if system:
        etc = Path("/etc")
        units = {f"system/{name}": etc / "systemd/system" / name for name in (*ENABLED, "sandboxd-router.socket")}
        return {
            **units,
            "sysusers.d/sandboxd.conf": etc / "sysusers.d/sandboxd.conf",
            "tmpfiles.d/sandboxd.conf": etc / "tmpfiles.d/sandboxd.conf",
            **{name: etc / "sandboxd" / name for name in EDITED},
        }
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    units = {f"user/{name}": config / "systemd/user" / name for name in ENABLED}
    return units | {name: config / "sandboxd" / name for name in EDITED}


def source() -> Path:
    """The directory of what is installed: in the package, or beside it in a checkout."""
    package = Path(sandboxd.__file__).parent
    return next(path for path in (package / "systemd", package.parent / "systemd") if (path / "hardening.conf").exists())


def text_of(name: str) -> str:
    """A file as it is to be installed: for this interpreter, and this checkout if it is one."""
    folder = source()
    root = str(Path(sandboxd.__file__).parent.parent)
    paths = ":".join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = "" if root.endswith("-packages") else f"Environment=PYTHONPATH={paths}\n"
    text = (folder / name).read_text()
    text = text.replace("@ENVIRONMENT@\n", environment).replace("@PYTHON@", sys.executable)
    return MARK + text.replace("@HARDENING@\n", (folder / "hardening.conf").read_text())


def systemctl(*words: str, system: bool, check: bool = True) -> None:
    """Have the manager do it; raises NotOffered with what it said."""
    import subprocess  # noqa: PLC0415 - `daemon status` does not pay for it

    command = ["systemctl", *([] if system else ["--user"]), *words]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NotOffered(f"there is no systemd here ({error})", hint="`sandbox` starts the daemon by itself") from error
    if check and done.returncode:
        said = done.stderr.strip() or f"exit code {done.returncode}"
        hint = "journalctl -u sandboxd says why" if system else "is there a user manager? see `sandbox doctor`"
        raise NotOffered(f"{' '.join(command)}: {said}", hint=hint)


def check_rights(*, system: bool) -> None:
    """Whose manager it is."""
    if system and os.geteuid() != 0:
        raise PermissionDenied("a system unit is root's to install", hint="sudo sandbox daemon install --system")
    if not system and os.geteuid() == 0:
        raise PermissionDenied("root's daemon is the system's", hint="sandbox daemon install --system")


def make_way(cli: Cli, *, system: bool) -> None:
    """Have a daemon that runs end; envs and router run on. A transient unit of that name would be in the way of enabling it."""
    systemctl("stop", *ENABLED, system=system, check=False)
    try:
        status = cli.visitor.call(Status())
    except DaemonUnreachable:
        return
    pidfd = open_pidfd(status)
    try:
        cli.visitor.call(Shutdown())
        wait_gone(pidfd, status)
    finally:
        if pidfd is not None:
            os.close(pidfd)


@click.command("install")
@click.option("--system/--user", default=False, help="Of the system's manager, as root; or of your own (default).")
@options.takes(InstallFlags)
def install(cli: Cli, flags: InstallFlags) -> None:
    """Install the daemon as a systemd unit with its control socket, and start it. Envs run on meanwhile."""
    check_rights(system=flags.system)
    for name, path in places(system=flags.system).items():
        if name in EDITED and path.exists():
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh = path.with_name(f".{path.name}.new")
            fresh.write_text(text_of(name))
            fresh.replace(path)
        except OSError as error:
            raise SandboxdError(f"cannot write {path}: {error.strerror}", hint="nothing was enabled") from error
        out(str(path))
    make_way(cli, system=flags.system)
    systemctl("daemon-reload", system=flags.system)
    systemctl("enable", "--now", *ENABLED, system=flags.system)
    if not flags.system and not lingers():
        note(LOGOUT)


@click.command("uninstall")
@click.option("--system/--user", default=False, help="As it was installed.")
@options.takes(InstallFlags)
def uninstall(cli: Cli, flags: InstallFlags) -> None:
    """Remove the units that `install` made. Envs run on, and the next command starts a daemon for them."""
    check_rights(system=flags.system)
    found = {name: path for name, path in places(system=flags.system).items() if is_ours(path)}
    units = [path.name for name, path in found.items() if name.startswith(("user/", "system/"))]
    if units:
        systemctl("disable", "--now", *units, system=flags.system, check=False)
    for path in found.values():
        path.unlink()
        out(str(path))
    systemctl("daemon-reload", system=flags.system)
    if not found:
        note("nothing of ours is installed")


def is_ours(path: Path) -> bool:
    """Whether `install` made it; what is there to be edited counts only while nobody has."""
    try:
        text = path.read_text()
    except OSError:
        return False
    return text == text_of(path.name) if path.name in EDITED else text.startswith(MARK)
