"""cgroup v2 as files: make, limit, read, freeze, kill, remove a control group (cgroup-v2.rst).

Imports `errors`. Paths are absolute, below the mount of the cgroup2 hierarchy. A write is one write(2), since the kernel takes
each as one order; a file that the kernel lacks is not there, and whoever asks for it gets ENOENT.
"""

import errno
import os

from sandboxd.errors import KernelError

INIT, SERVICES = "init", "svc"
PREFIX = "env-"


def write(group: str, name: str, text: str) -> None:
    """Write one of a group's files."""
    path = f"{group}/{name}"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise KernelError(error.errno or 0, "write", path) from error


def read(group: str, name: str) -> str:
    """One of a group's files whole."""
    path = f"{group}/{name}"
    try:
        with open(path, "rb") as file:  # the launcher could import no codec any more
            return file.read().decode()
    except OSError as error:
        raise KernelError(error.errno or 0, "read", path) from error


def table(group: str, name: str) -> dict[str, int]:
    """A file of `name number` lines; empty where there is none."""
    try:
        text = read(group, name)
    except KernelError:
        return {}
    lines = (line.partition(" ") for line in text.splitlines())
    return {key: int(value) for key, _, value in lines if value.isdigit()}


def number(group: str, name: str) -> int | None:
    """A file of one number; None where there is none, or where it says `max`."""
    try:
        text = read(group, name).strip()
    except KernelError:
        return None
    return int(text) if text.isdigit() else None


def controllers(group: str) -> list[str]:
    """What a group may be limited by."""
    try:
        return read(group, "cgroup.controllers").split()
    except KernelError:
        return []


def enable(group: str, wanted: list[str]) -> None:
    """Let the groups below be limited by these; raises KernelError (EBUSY: processes live in the group itself)."""
    if wanted:
        write(group, "cgroup.subtree_control", " ".join(f"+{name}" for name in wanted))


def own_path(pid: int | str = "self") -> str:
    """A process's group as a path below the mount; "" where there is no cgroup v2, or it is gone."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            return next((line.rstrip("\n")[3:] for line in file if line.startswith("0::")), "")
    except OSError:
        return ""


def is_populated(group: str) -> bool:
    """Whether a process lives in the group or below it."""
    return table(group, "cgroup.events").get("populated", 0) != 0


def freeze(group: str, *, frozen: bool) -> None:
    """Have nothing in the group run, or run on; done once cgroup.events says so."""
    write(group, "cgroup.freeze", "1" if frozen else "0")


def kill(group: str) -> None:
    """Kill all in a group and below, forks that are under way too (since 5.14)."""
    write(group, "cgroup.kill", "1")


def directory(path: str) -> None:
    """A group that everybody may look at: who mounts the hierarchy in a namespace of his own has the kernel look up its root as
    him (EACCES in a group of ours that a umask has closed), and then reads there what he may use."""
    os.mkdir(path)
    os.chmod(path, 0o755)


def make(path: str) -> None:
    """An env's group with the two below it."""
    for part in "", f"/{INIT}", f"/{SERVICES}":
        directory(path + part)


def remove(path: str) -> bool:
    """Remove an env's group; False while something lives in it. One that is gone is removed."""
    for part in (f"/{INIT}", f"/{SERVICES}", ""):
        try:
            os.rmdir(path + part)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
                return False
            raise KernelError(error.errno or 0, "rmdir", path + part) from error
    return True


def count(path: str) -> int:
    """How many groups of an env there are."""
    return sum(os.path.isdir(path + part) for part in (f"/{INIT}", f"/{SERVICES}", "")) if path else 0
