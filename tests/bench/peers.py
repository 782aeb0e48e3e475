"""Who we are held against, as a person would start them: bwrap behind the same walls, sandlock where pip has put it.

`bwrap` gets the walls of an env's default plan: every namespace, system directories read-only, fresh /proc, /dev and /tmp,
the workspace writable at its own path, no capabilities, the same filter of system calls. sandlock has no namespaces: Landlock,
seccomp and a supervisor in our own process, its library being the only thing that PyPI ships.
"""

import functools
import importlib
import importlib.util
import os
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path

from sandboxd.isolation.seccomp.policy import Demand, program

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt")
ENVIRON = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": os.path.expanduser("~"), "LANG": "C"}


def has_bwrap() -> bool:
    """Whether bubblewrap is installed."""
    return shutil.which("bwrap") is not None


def has_sandlock() -> bool:
    """Whether sandlock's library is installed."""
    return importlib.util.find_spec("sandlock") is not None


FILTER_FD = 9


@functools.cache
def filter_program() -> int:
    """A file with the default filter, as bwrap takes one."""
    fd = os.memfd_create("filter")
    os.write(fd, program(platform.machine(), Demand(), notify=False))
    return fd


def filtered() -> list[tuple[int, int, str, int, int]]:
    """What a spawned bwrap needs done before: the same filter of system calls as ours on its FILTER_FD, to be read once."""
    return [(os.POSIX_SPAWN_OPEN, FILTER_FD, f"/proc/self/fd/{filter_program()}", os.O_RDONLY, 0)]


def bwrap(workspace: Path, command: Sequence[str], *, share_net: bool = False) -> list[str]:
    """The argv that runs command behind bwrap's walls; share_net keeps the host's network, since bwrap routes nothing in.

    To be spawned with the file actions of `filtered()`.
    """
    argv = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--hostname", "bench"]
    argv += ["--seccomp", str(FILTER_FD)]
    if share_net:
        argv.append("--share-net")
    for directory in SYSTEM:
        argv += ["--ro-bind-try", directory, directory]
    argv += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/run", "--tmpfs", ENVIRON["HOME"]]
    argv += ["--bind", str(workspace), str(workspace), "--chdir", str(workspace), "--clearenv"]
    for name, value in ENVIRON.items():
        argv += ["--setenv", name, value]
    return [*argv, "--", *command]


def sandlock(workspace: Path, command: Sequence[str]) -> bytes:
    """Run command to its end in sandlock; its output."""
    library = importlib.import_module("sandlock")

    readable = [directory for directory in (*SYSTEM, "/proc", "/dev") if os.path.exists(directory)]
    done = library.Sandbox(fs_readable=readable, fs_writable=[str(workspace)]).run(list(command))
    assert done.exit_code == 0, done
    output: bytes = done.stdout
    return output
