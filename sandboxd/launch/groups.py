"""The daemon's half of control groups: below which group envs get theirs, and that none stays when its env has gone.

Imports `errors` and `kernel`. The launcher makes an env's group (`launch.grouping`), the daemon limits, reads and removes it.
Everything below our root that is called `env-…`, in which nothing lives and which no env has, is a leftover. Where many are
served, the envs of each uid are in a group `user-UID`: among groups side by side the kernel divides CPU and disk evenly, so who
runs fifty envs has no more of a busy host than who runs one.
"""

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import Collection

from sandboxd.errors import KernelError
from sandboxd.kernel import cgroups

log = logging.getLogger(__name__)
LAUNCHER, USER = "launcher", "user-"
# A group is busy until the last of its processes was reaped, which the kernel does in its own time.
PAUSES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


class Leaving:
    """Groups that are removed as soon as nothing lives in them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def release(self, path: str) -> None:
        """Remove a group soon; whatever still lives in it is killed."""
        if path:
            task = asyncio.get_running_loop().create_task(self._remove(path), name=f"remove {path}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _remove(self, path: str) -> None:
        try:
            for pause in PAUSES:
                await asyncio.sleep(pause)
                if cgroups.remove(path):
                    return
                cgroups.kill(path)
            log.warning("the control group %s could not be removed: something lives in it", path)
        except KernelError as error:
            log.warning("the control group %s could not be removed: %s", path, error)

    async def settled(self) -> None:
        """Wait until every removal that was asked for is through."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)


class Groups:
    """What a launcher makes envs' groups below. root: absolute, divided by `prepare`. by_user: by the uid that they run as."""

    def __init__(self, root: str, controllers: Collection[str], leaving: Leaving, *, by_user: bool = False) -> None:
        self.root = root
        self.by_user = by_user
        self.controllers = list(controllers)
        self.release = leaving.release

    def prepare(self, launcher: int) -> None:
        """Make the root ready: the launcher in a group of its own, and the rest to divide; raises KernelError."""
        leaf = f"{self.root}/{LAUNCHER}"
        try:
            cgroups.directory(leaf)
        except FileExistsError:
            pass
        except OSError as error:
            raise KernelError(error.errno or 0, "mkdir", leaf) from error
        cgroups.write(leaf, "cgroup.procs", str(launcher))
        cgroups.enable(self.root, self.controllers)

    def new(self, uid: int) -> str:
        """The path of the group of an env to come; raises KernelError."""
        return f"{self.of_user(uid) if self.by_user else self.root}/{cgroups.PREFIX}{secrets.token_hex(8)}"

    def of_user(self, uid: int) -> str:
        """The group of a uid's envs, made and to be divided."""
        path = f"{self.root}/{USER}{uid}"
        try:
            cgroups.directory(path)
        except FileExistsError:
            return path
        except OSError as error:
            raise KernelError(error.errno or 0, "mkdir", path) from error
        cgroups.enable(path, self.controllers)
        return path

    def leave(self) -> None:
        """Remove the users' groups that hold nothing any more; the others are the next daemon's."""
        for name in names_in(self.root):
            if name.startswith(USER):
                with contextlib.suppress(OSError):
                    os.rmdir(f"{self.root}/{name}")


def names_in(path: str) -> list[str]:
    """What is there."""
    try:
        return os.listdir(path)
    except OSError:
        return []


def of_envs(root: str) -> list[str]:
    """The paths of all envs' groups below a root, the users' too."""
    paths: list[str] = []
    for name in names_in(root):
        if name.startswith(USER):
            paths += of_envs(f"{root}/{name}")
        elif name.startswith(cgroups.PREFIX):
            paths.append(f"{root}/{name}")
    return paths


def sweep(root: str, known: Collection[str]) -> int:
    """Remove the empty groups that no env has; how many there were."""
    removed = 0
    for path in of_envs(root):
        if path not in known and not cgroups.is_populated(path):
            with contextlib.suppress(KernelError):
                removed += cgroups.remove(path)
    return removed
