"""Carries out fixes, exactly those of `fixes`, and says of each what was before and what is after.

Writes to: sysctls and /etc/sysctl.d/60-sandboxd.conf, /etc/apparmor.d/sandboxd, the copied interpreter, modes of our own
directories, our stale socket, and through loginctl one's own linger. Invariant: a fix that needs root is not tried without, and
after each the host is looked at again rather than believed.
"""

import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from sandboxd.doctor.asking import run_quietly
from sandboxd.doctor.report import Fix
from sandboxd.errors import SandboxdError
from sandboxd.launch import interpreter, probes

PROFILE = Path("/etc/apparmor.d/sandboxd")
PERSISTENT = Path("/etc/sysctl.d/60-sandboxd.conf")
HEAD = "# Written by `sandbox doctor --fix`.\n"


def mend(fix: Fix) -> Fix:
    """Do it, if we may; the fix with what came of it."""
    if fix.root and os.geteuid() != 0:
        return replace(fix, error="needs root")
    try:
        after = ACTS[fix.kind](fix)
    except (OSError, SandboxdError, ValueError) as error:
        return replace(fix, error=str(error))
    return replace(fix, done=True, after=after)


def sysctl(fix: Fix) -> str:
    """Set it now, and write it down for the next boot."""
    file = Path("/proc/sys", fix.target.replace(".", "/"))
    file.write_text(fix.value)
    line = f"{fix.target} = {fix.value}\n"
    kept = PERSISTENT.read_text() if PERSISTENT.exists() else HEAD
    others = [one for one in kept.splitlines(keepends=True) if not one.startswith(f"{fix.target} ")]
    PERSISTENT.parent.mkdir(mode=0o755, exist_ok=True)
    PERSISTENT.write_text("".join([*others, line]))
    return probes.read_setting(fix.target)


def apparmor(fix: Fix) -> str:
    """Copy the interpreter, install the profile, load it, and see how a process of the copy runs."""
    copy_interpreter(Path(fix.value), Path(fix.target))
    PROFILE.write_text(profile_text())
    PROFILE.chmod(0o644)
    code, said = run_quietly(["apparmor_parser", "-r", "-W", str(PROFILE)])
    if code != 0:
        raise ValueError(f"apparmor_parser refused the profile: {said.strip()}")
    wrong = interpreter.what_is_wrong(fix.target)
    if wrong:
        raise ValueError(f"{fix.target}: {wrong}")
    return f"{fix.target}, profile loaded"


def copy_interpreter(source: Path, target: Path) -> None:
    """A copy that is root's alone and finds its library where the original's is (pyvenv.cfg: site, "home")."""
    why = interpreter.not_roots_alone(str(source))
    if why:
        raise ValueError(f"no copy of it may be let through: {why}")
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.new")
    shutil.copy2(source, fresh)
    os.chown(fresh, 0, 0)
    fresh.chmod(0o755)
    fresh.rename(target)  # a launcher that runs from the old copy keeps it
    target.with_name("pyvenv.cfg").write_text(f"home = {source.parent}\n")


def profile_text() -> str:
    """The profile as it ships: beside the package in a checkout, in it once installed."""
    package = Path(__file__).resolve().parent.parent
    for place in (package / "systemd/apparmor/sandboxd", package.parent / "systemd/apparmor/sandboxd"):
        if place.is_file():
            return place.read_text()
    raise ValueError("the profile did not come with this installation")


def mode(fix: Fix) -> str:
    """Ours alone. By descriptor, so that no link is followed."""
    directory = os.open(fix.target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(directory, int(fix.value, 8))
        return f"{stat.S_IMODE(os.fstat(directory).st_mode):04o}"
    finally:
        os.close(directory)


def stale_socket(fix: Fix) -> str:
    """Remove it, if still nobody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as trial:
        trial.settimeout(2)
        try:
            trial.connect(fix.target)
        except FileNotFoundError:
            return "gone"
        except ConnectionRefusedError:
            os.unlink(fix.target)
            return "removed"
    raise ValueError("a daemon has come meanwhile")


def linger(fix: Fix) -> str:
    """As the user would: logind asks polkit, which lets people at the machine do it for themselves."""
    code, said = run_quietly(["loginctl", "--no-ask-password", "enable-linger", fix.target])
    if code != 0:
        raise ValueError(said.strip() or f"loginctl left with {code}")
    return "on"


ACTS: dict[str, Callable[[Fix], str]] = {
    "sysctl": sysctl,
    "apparmor": apparmor,
    "mode": mode,
    "socket": stale_socket,
    "linger": linger,
}
