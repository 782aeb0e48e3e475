"""Start the daemon as a unit of the service manager: the installed `sandboxd.service`, or a transient one made here.

A unit is watched and restarted, and outlives the terminal that happened to start it. How its start went comes over a FIFO in
the state directory, since a unit inherits no descriptors. Only the default daemon is a unit: SANDBOXD_DIR makes others that
nobody but their owner knows of. Blocking, and bounded by the caller's deadline.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence

from sandboxd.errors import EXIT_SANDBOXD, DaemonUnreachable
from sandboxd.settings import START_FIFO, Settings, manager_socket

NAME = "sandboxd.service"
NOT_LOADED = 5  # systemctl's exit code for a unit that it does not know (LSB's "not installed")
WORD_CAP = 64 << 10
HANDED_ON = ("PATH", "LANG", "TZ", "VIRTUAL_ENV", "SSL_CERT_FILE", "XDG_STATE_HOME")
PREFIXES = ("SANDBOXD_", "PYTHON", "LC_")


def manager(environ: Mapping[str, str], uid: int) -> list[str] | None:
    """The option for systemctl and systemd-run that names the manager which is to run this daemon; None: none is."""
    path = manager_socket(environ, uid)
    if "SANDBOXD_DIR" in environ or path is None or not path.is_socket():
        return None
    if shutil.which("systemd-run") is None or shutil.which("systemctl") is None:
        return None
    return [] if uid == 0 else ["--user"]


def start(settings: Settings, state: int, command: Sequence[str], environ: Mapping[str, str], deadline: float) -> bytes:
    """What the daemon said of its start; empty: there is no such manager, or it could not start one.

    state: the open state directory, with daemon.log in it. environ: what the daemon is to see.
    """
    whose = manager(os.environ, os.geteuid())
    if whose is None:
        return b""
    try:
        os.unlink(START_FIFO, dir_fd=state)
    except FileNotFoundError:
        pass
    os.mkfifo(START_FIFO, 0o600, dir_fd=state)
    said = os.open(START_FIFO, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=state)
    try:
        # Loaded where it is installed, or waits to be restarted after a crash.
        code = run(["systemctl", *whose, "start", NAME], environ, deadline)
        if code == NOT_LOADED:
            run(transient(settings, whose, command, environ), environ, deadline)
        return os.read(said, WORD_CAP).partition(b"\n")[0]
    except BlockingIOError:  # it said nothing
        return b""
    except subprocess.TimeoutExpired:  # it still starts: another one beside it would only be in its way
        raise DaemonUnreachable(
            f"{NAME} was started, but is not ready in time", hint=f"systemctl {' '.join(whose)} status {NAME}"
        ) from None
    finally:
        os.close(said)
        os.unlink(START_FIFO, dir_fd=state)


def log_hint(settings: Settings) -> str:
    """Where to read what the daemon said: the journal, where it is an installed unit, else its own file."""
    whose = manager(os.environ, os.geteuid())
    if whose is not None:
        show = ["systemctl", *whose, "show", "--property=LoadState,StandardError", NAME]
        try:
            shown = subprocess.run(
                show, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=5, check=False
            ).stdout
        except (OSError, subprocess.TimeoutExpired):
            shown = ""
        if "LoadState=loaded" in shown and "StandardError=append:" not in shown:  # the transient one writes to the file
            return f"see {' '.join(['journalctl', *whose, '-u', NAME])}"
    return f"see {settings.state_dir / 'daemon.log'}"


def run(command: Sequence[str], environ: Mapping[str, str], deadline: float) -> int:
    """A command's exit code; both return once the unit is ready or has failed (Type=notify)."""
    left = max(1.0, deadline - time.monotonic())
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environ, timeout=left,
        check=False,
    ).returncode  # fmt: skip


def transient(settings: Settings, whose: Sequence[str], command: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """systemd-run's command line for a unit like systemd/user/sandboxd.service, for this very interpreter and environment."""
    log = f"append:{settings.state_dir / 'daemon.log'}"
    properties = {
        "Description": "sandboxd: isolated environments, reached by name",
        "NotifyAccess": "main",
        "Restart": "on-failure",
        # It said why, and would again: a setting that cannot be meant, a port that is taken.
        "RestartPreventExitStatus": str(EXIT_SANDBOXD),
        "WatchdogSec": "60",
        "TimeoutStartSec": "180",
        "TimeoutStopSec": "30",
        # Where the launcher got no scope of its own, the envs live in this unit and are to survive it.
        "KillMode": "process",
        "FileDescriptorStoreMax": "16",
        "StandardOutput": log,
        "StandardError": log,
    }
    words = ["systemd-run", *whose, "--quiet", "--collect", f"--unit={NAME}", "--slice=sandboxd.slice"]
    words += ["--service-type=notify", "--working-directory=/"]
    words += [word for key, value in properties.items() for word in ("-p", f"{key}={value}")]
    # By name only: the values go over the manager's socket and never stand in a command line.
    words += [f"--setenv={name}" for name in environ if name in HANDED_ON or name.startswith(PREFIXES)]
    return [*words, "--", *command]
