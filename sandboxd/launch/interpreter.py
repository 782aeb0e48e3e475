"""Which interpreter the launcher is executed from: this one, or the copy that an AppArmor profile is attached to.

Imports the standard library. A profile attaches to the file that is executed (apparmor(7)), and one for /usr/bin/python3 would
open user namespaces to every Python program; so `sandbox doctor --fix` makes a copy for us alone and attaches it there. Whoever
may run the copy may still use it: it is root's, and the profile narrows a door that Ubuntu calls a tripwire, no wall.
A newer Python is not looked for, though with 3.12 a pid 1 holds half of what it does with 3.11 (kernel.heap): what guards every
env would depend on who started the daemon with which PATH, and would be another than the one that was tried with the rest.
Invariant: a copy is used only when nobody but root could have made it and it is this very interpreter.
"""

import os
import stat
import sys

COPIES = "/usr/local/lib/sandboxd"


def interpreter(copies: str = COPIES) -> str:
    """The copy where there is a good one, else this interpreter."""
    path = copy_path(copies)
    return path if what_is_wrong(path) == "" else sys.executable


def original() -> str:
    """The file that would be copied: this interpreter without the links of a virtual environment."""
    return os.path.realpath(sys.executable)


def copy_path(copies: str = COPIES) -> str:
    """Where the copy is, or would be."""
    return f"{copies}/python{sys.version_info.major}.{sys.version_info.minor}"


def what_is_wrong(path: str) -> str:
    """Why a copy must not be used, "missing" where there is none; empty: it is good."""
    try:
        found = os.lstat(path)
    except OSError:
        return "missing"
    here = os.stat(original())
    if not stat.S_ISREG(found.st_mode) or not found.st_mode & 0o111:
        return "it is no program"
    why = not_roots_alone(path)
    if why:
        return why
    if (found.st_size, found.st_mtime_ns) != (here.st_size, here.st_mtime_ns):
        return "it is a copy of another build of Python"
    return ""


def not_roots_alone(path: str) -> str:
    """Why a path is not root's alone, all of its directories included; empty: it is."""
    while True:
        found = os.lstat(path)
        if found.st_uid != 0:
            return f"{path} belongs to uid {found.st_uid}, not to root"
        if found.st_mode & 0o022 and not stat.S_ISLNK(found.st_mode):
            return f"others may write to {path} (mode {stat.S_IMODE(found.st_mode):04o})"
        if path == "/":
            return ""
        path = os.path.dirname(path)
