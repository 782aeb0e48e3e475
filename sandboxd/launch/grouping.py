"""The launcher's half of control groups: an env's group is made when its child is parked, and the child is born in it.

Imports `errors` and `kernel`. `env-X/{init,svc}`: pid 1 is born in `init`, all that it starts in `svc`, the one that is
limited. Nobody is ever moved: that costs 10 ms and leaves memory charged elsewhere. Why it is not simpler: where
a cgroup namespace bounds what may be moved (nsdelegate, as systemd mounts it), pid 1 can make nobody in `svc` unless the env's
namespace shows both, so the root of that has to be `env-X`. A new namespace's root is where its first process is born
(cgroup_post_fork); and nobody may live in a group whose groups below are limited ("No Internal Process Constraint",
cgroup-v2.rst). So a helper is born in `env-X` with the user and the cgroup namespace, makes the child in `init` with the other
namespaces as its own sibling, and is gone before `env-X` is divided.
"""

import os
import select
import struct

from sandboxd.errors import KernelError
from sandboxd.kernel import cgroups, namespaces

ANSWER = struct.Struct("=ii")  # pid, errno


class Group:
    """One env's group, made. services: descriptor of `svc`; descriptors are closed by `close`."""

    def __init__(self, path: str, uid: int) -> None:
        self.path, self.uid = path, uid
        self.top = self.init = self.services = -1
        try:
            cgroups.make(path)
            self.top, self.init, self.services = (
                opened(path + part) for part in ("", f"/{cgroups.INIT}", f"/{cgroups.SERVICES}")
            )
        except OSError:
            self.close()
            cgroups.remove(path)
            raise

    def divide(self) -> None:
        """Let `svc` be limited by all that the group itself may be, and pid 1 make processes in it."""
        if self.uid != os.geteuid():
            # Who does that writes, as far as permissions go, to its cgroup.procs and to that of the parent of both groups. Not
            # before: the helper is outside root without any capability for files of others.
            for part in ("", f"/{cgroups.SERVICES}"):
                os.chown(f"{self.path}{part}/cgroup.procs", self.uid, -1)
        cgroups.enable(self.path, cgroups.controllers(self.path))

    def remove(self) -> None:
        """Take it back; what still lives in it is killed."""
        try:
            cgroups.kill(self.path)
            cgroups.remove(self.path)
        except KernelError:
            return  # the daemon's sweep finds it

    def close(self) -> None:
        """Close the descriptors."""
        for fd in (self.top, self.init, self.services):
            if fd >= 0:
                os.close(fd)
        self.top = self.init = self.services = -1


def clone(flags: int, top: int, init: int) -> tuple[int, int]:
    """A sibling of ours, born in `init` below `top` (descriptors): as namespaces.clone3."""
    if not flags & namespaces.NEWCGROUP:
        return namespaces.clone3(flags | namespaces.PARENT, init)
    read, write = os.pipe2(os.O_CLOEXEC)
    helper, process = namespaces.clone3(namespaces.NEWUSER | namespaces.NEWCGROUP | namespaces.PARENT, top)
    if helper == 0:
        is_child = False
        try:
            is_child = make(flags & ~namespaces.NEWUSER & ~namespaces.NEWCGROUP, init, write)
        finally:
            if not is_child:
                os._exit(0)
        return 0, -1
    os.close(write)
    answer = os.read(read, ANSWER.size)
    os.close(read)
    select.select([process], [], [])  # it is the launcher's to reap, but has to be out of its group
    os.close(process)
    pid, number = ANSWER.unpack(answer) if len(answer) == ANSWER.size else (0, 32)
    if not pid:
        raise KernelError(number, "clone3")
    return pid, os.pidfd_open(pid)


def make(flags: int, init: int, answer: int) -> bool:
    """In the helper: make the child and say so; True in the child."""
    try:
        pid, _ = namespaces.clone3(flags | namespaces.PARENT, init)
    except OSError as error:
        os.write(answer, ANSWER.pack(0, error.errno or 1))
        return False
    if pid == 0:
        return True
    os.write(answer, ANSWER.pack(pid, 0))
    return False


def opened(path: str) -> int:
    """A descriptor of a group."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
