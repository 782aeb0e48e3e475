"""Step tag -> function: what `isolation.steps` describes, done. Runs as pid 1 of a namespace that nobody else is in yet.

Imports `errors` and `kernel`. Until `pivot` the new root is built in the working directory, of the host's system directories
by plain mount(2), which is what makes a cold launch quick. What the plan shows of the host is picked up as detached mounts,
from below the new root where the plan is waited for. Else the base ends with the host's tree let go of, and a copy of it is in
a mount namespace that only the stager is ever in (`aside`): they are picked up there, first of all. An env's own sources and
targets are opened without following any link. Of sources because whoever can write to a directory on the way could have
swapped one in since the planner resolved it. Of targets because an env's home keeps what the env put there, and a link in it
would lead to where it wants.
"""

import errno
import os
import resource

from sandboxd.errors import KernelError
from sandboxd.kernel import capabilities, mounts, namespaces, nftables
from sandboxd.launch import walls
from sandboxd.launch.dialer import listen
from sandboxd.launch.targets import STRICT, find, make

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Sequence
    from typing import Any

    from sandboxd.kernel import beside

QUIET = mounts.MS_NOSUID | mounts.MS_NODEV
QUIETLY = mounts.ATTR_NOSUID | mounts.ATTR_NODEV
TERMINALS = 256
STAGING = ("/tmp", "/mnt", "/usr")  # any directory: it is covered only until the pivot


class Stage:
    """What the steps of one env share: descriptors of the host's root, the new one and its namespace, the trees that were
    handed over and picked up, the walls that were proven, a Landlock ruleset in the making, and pid 1's end of the socket on
    which that comes from the stager. is_awaited: somebody waits for the env; is_leaving: the host's tree is still there.
    here: we are not in the env's pid namespace; our children are.
    """

    __slots__ = (
        "bridge", "handed", "here", "home", "host", "is_awaited", "is_leaving",
        "listener", "picked", "proven", "root", "ruleset", "ways",
    )  # fmt: skip

    def __init__(self) -> None:
        self.host = self.root = self.home = -1
        self.handed: list[int] = []
        self.picked: list[int] = []
        self.proven: list[str] = []
        self.ruleset = -1
        self.listener = -1  # of our filter of system calls
        self.bridge: _socket.socket | None = None
        self.here: beside.Beside | None = None
        self.is_awaited = self.is_leaving = False
        self.ways: list[_socket.socket] = []  # listeners for what goes out


class StepFailed(Exception):
    """A step that could not be applied: `which` list, `index` in it; the cause is the OSError."""

    def __init__(self, which: str, index: int) -> None:
        super().__init__(which, index)
        self.which = which
        self.index = index


def apply(
    stage: Stage, which: str, steps: "Sequence[Sequence[Any]]", *, only_pick: bool = False, only: str = "", but: str = ""
) -> None:
    """Each step in turn; StepFailed says which one could not be done. only_pick: no more than to pick up the sources. only: the
    tag that is ours to do; but: the one that is somebody else's."""
    for index, step in enumerate(steps):
        try:
            tag, *arguments = step
            if only_pick:
                if tag == "bind":
                    pick(stage, *arguments)
            elif tag != but and only in ("", tag):
                APPLY[tag](stage, *arguments)  # type: ignore[operator]
        except Exception as error:  # whatever a plan can have wrong: it is said by the step's name
            raise StepFailed(which, index) from error


def inside(path: str) -> str:
    """A path of the new root, from the working directory: that is the root in the making and, after the pivot, the root."""
    return path.lstrip("/") or "."


# -- the base: nobody else has been here ----------------------------------------------------------------------------------


def enter(stage: Stage, size: int) -> None:
    """A tmpfs to build on. Slave, not private: what the host unmounts later must not stay busy in a child parked since."""
    mounts.mount(None, "/", mounts.MS_REC | mounts.MS_SLAVE)
    staging = next(path for path in STAGING if os.path.isdir(path))
    mounts.mount("tmpfs", staging, QUIET, options(size, 0o755))
    os.chdir(staging)
    stage.root = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def options(size: int, mode: int) -> str:
    """tmpfs(5): bytes, mode, and one inode per page, since inodes are kernel memory that size= does not count."""
    return f"size={size},mode={mode:o},nr_inodes={max(size >> 12, 1024)}"


def directories(_: Stage, paths: list[str], mode: int) -> None:
    """Directories, parents first."""
    for path in paths:
        os.mkdir(inside(path), mode)


def files(_: Stage, texts: list[tuple[str, str]]) -> None:
    """Files of ours; only for places that no env could write to yet."""
    for path, text in texts:
        name = inside(path)
        try:
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(name))
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        os.write(fd, text.encode())
        os.close(fd)


def links(_: Stage, pairs: list[tuple[str, str]]) -> None:
    """Symbolic links."""
    for path, text in pairs:
        name = inside(path)
        try:
            os.symlink(text, name)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(name))
            os.symlink(text, name)


def system(stage: Stage, trees: list[tuple[str, str]], own: list[tuple[str, str]]) -> None:
    """The allow-list, then one call that makes the whole of it read-only; the root itself stays writable for now."""
    for source, target in trees:
        mounts.bind(source, inside(target))
    for source, target in own:
        mounts.bind(inside(source), inside(target))
    wanted = mounts.ATTR_RDONLY | mounts.ATTR_NOSUID | mounts.ATTR_NODEV
    mounts.mount_setattr(stage.root, wanted, recursive=True, propagation=mounts.MS_PRIVATE, subject="the system view")
    mounts.mount_setattr(stage.root, 0, recursive=False, clear=mounts.ATTR_RDONLY, subject="the new root")


def devices(_: Stage, nodes: list[str]) -> None:
    """Binds of single nodes."""
    for node in nodes:
        os.close(os.open(inside(node), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        mounts.bind(node, inside(node))


def tmpfs(_: Stage, target: str, size: int, mode: int) -> None:
    """A new tmpfs at a place of ours."""
    mounts.mount("tmpfs", inside(target), QUIET, options(size, mode))


def proc(stage: Stage, target: str, how: str) -> None:
    """A procfs of the env's pid namespace: that of who mounts it."""

    def show() -> None:
        mounts.mount("proc", inside(target), QUIET | mounts.MS_NOEXEC, how)

    if stage.here is not None:
        stage.here.run(show, depth=1)
    else:
        show()


def groups(_: Stage, target: str) -> None:
    """The groups below the root of this cgroup namespace; nobody inside can make the mount writable."""
    mounts.mount("cgroup2", inside(target), QUIET | mounts.MS_NOEXEC | mounts.MS_RDONLY)


def devpts(_: Stage, target: str) -> None:
    """Own terminals, so many: all envs together may have 3072 (kernel.pty.max less its reserve). No gid=5: that group is not
    mapped here, and the option is then refused (devpts.rst)."""
    flags = mounts.MS_NOSUID | mounts.MS_NOEXEC
    mounts.mount("devpts", inside(target), flags, f"newinstance,ptmxmode=0666,mode=0620,max={TERMINALS}")


def queues(_: Stage, target: str) -> None:
    """The queues of this ipc namespace; mounted or not, it is one file system (mq_overview(7))."""
    mounts.mount("mqueue", inside(target), QUIET | mounts.MS_NOEXEC)


def pivot(_: Stage) -> None:
    """The new root is the root; what came from a slave mount of the host is private from here on."""
    mounts.mount(None, ".", mounts.MS_REC | mounts.MS_PRIVATE)
    mounts.pivot_root(".", ".")
    os.chdir("/")


# -- the env's own part ---------------------------------------------------------------------------------------------------


def aside(stage: Stage) -> tuple[int, int]:
    """Leave a copy of this namespace behind, and come back: descriptors of the copy, and of its root. To be called before the
    base. All of the host is in it, the copies being slaves as well."""
    stage.home = namespaces.mount_namespace()
    namespaces.unshare(namespaces.NEWNS)
    copy, root = namespaces.mount_namespace(), os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    namespaces.join_mounts(stage.home)
    return copy, root


def go_home(stage: Stage) -> None:
    """Back from the copy into the env's namespace, with what was picked up there and nothing else of the host."""
    namespaces.join_mounts(stage.home)
    os.close(stage.home)
    os.close(stage.host)
    stage.home = stage.host = -1


def rehearse(stage: Stage) -> None:
    """Take the paths that the plan's steps will take, to no effect, while nobody waits.

    A fork's first touch of each page costs a fault (measured on a nested virtual machine: 36 of them, 0.2 ms of the 0.7 ms
    from a plan to its init).
    """
    tree = mounts.open_tree(mounts.openat2(stage.root, "tmp", os.O_PATH, STRICT), recursive=True, subject="/tmp")
    mounts.mount_setattr(tree, QUIETLY, recursive=True, propagation=mounts.MS_PRIVATE, subject="/tmp")
    os.close(find(stage.root, "/tmp", make_file=False))
    make(stage.root, "tmp/.none/.none", make_file=False)  # what is not there takes another path
    os.rmdir("/tmp/.none/.none")
    os.rmdir("/tmp/.none")
    capabilities.again()
    namespaces.sethostname("parked")
    walls.rehearse(stage)


def resize(_: Stage, target: str, size: int) -> None:
    """Another ceiling; a remount replaces all flags, so they are given again."""
    mounts.mount(None, target, mounts.MS_REMOUNT | QUIET, f"size={size},nr_inodes={max(size >> 12, 1024)}")


def pick(stage: Stage, source: str, _: str, readonly: bool, is_file: bool, origin: str) -> None:
    """In the copy that was left behind: what a bind shows of the host."""
    if origin == "host":
        stage.picked.append(copied(stage.host, source, readonly=readonly, is_file=is_file))


def copied(root: int, source: str, *, readonly: bool, is_file: bool) -> int:
    """Copy a tree of mounts and make the copy what it should be."""
    place = mounts.openat2(root, inside(source), os.O_PATH, STRICT)
    tree = mounts.open_tree(place, recursive=not is_file, subject=source)
    os.close(place)
    set_flags(tree, source, readonly=readonly, is_file=is_file)
    return tree


def set_flags(tree: int, source: str, *, readonly: bool, is_file: bool) -> None:
    """What holds of all that is shown."""
    wanted = QUIETLY | (mounts.ATTR_RDONLY if readonly else 0)
    mounts.mount_setattr(tree, wanted, recursive=not is_file, propagation=mounts.MS_PRIVATE, subject=source)


def bind(stage: Stage, source: str, target: str, readonly: bool, is_file: bool, origin: str) -> None:
    """Attach a copy that already is what it should be: it is never seen writable."""
    if origin == "host":
        tree = stage.picked.pop(0)
    elif origin == "handed":
        tree = stage.handed.pop(0)
        set_flags(tree, source, readonly=readonly, is_file=is_file)
    else:
        tree = copied(stage.root, source, readonly=readonly, is_file=is_file)
    mounts.move_mount(tree, find(stage.root, target, make_file=is_file), subject=target)
    os.close(tree)


def hostname(_: Stage, name: str) -> None:
    """The host name."""
    namespaces.sethostname(name)


def loopback(_: Stage) -> None:
    """lo up."""
    namespaces.loopback_up()


def seal(stage: Stage) -> None:
    """The root read-only, by itself."""
    mounts.make_read_only(stage.root, "/")


def leave(stage: Stage) -> None:
    """Let go of the host's tree; umount2 takes the topmost mount at "/", which is the old root.

    The mounts are gone at once, but then the kernel waits until every core has been elsewhere (synchronize_rcu_expedited in
    namespace_unlock, fs/namespace.c; measured: 0.1 to 1.6 ms). Where somebody waits that comes last, while pid 1 goes on.
    """
    stage.is_leaving = stage.is_awaited
    if not stage.is_leaving:
        mounts.umount("/", mounts.MNT_DETACH)


def leave_last(stage: Stage, base: list) -> None:  # type: ignore[type-arg]
    """The same, where it was put off; raises StepFailed."""
    if stage.is_leaving:
        stage.is_awaited = False
        try:
            leave(stage)
        except KernelError as error:
            raise StepFailed("base", [tag for tag, *_ in base].index("leave")) from error


def sysctl(_: Stage, name: str, value: str) -> None:
    """A setting; one that this kernel was built without is no error."""
    try:
        namespaces.write_proc(f"/proc/sys/{name}", value.encode())
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise


def mask(stage: Stage, sealed: list[str], kept: list[str], hidden: list[tuple[str, str]]) -> None:
    """Read-only, hidden, or left as it is within what is read-only. /proc is ours yet: nobody else has been here."""
    left = [(path, copy_of(stage, path)) for path in kept]
    for source, path in [*((path, path) for path in sealed), *hidden]:
        mounts.bind_read_only(inside(source), inside(path))
    for path, tree in left:
        attach(stage, tree, path)


def copy_of(stage: Stage, path: str) -> int:
    """A detached copy of one mount of the new root."""
    place = mounts.openat2(stage.root, inside(path), os.O_PATH, STRICT)
    try:
        return mounts.open_tree(place, recursive=False, subject=path)
    finally:
        os.close(place)


def attach(stage: Stage, tree: int, path: str) -> None:
    """Attach a detached mount, whose descriptor is closed."""
    place = mounts.openat2(stage.root, inside(path), os.O_PATH, STRICT)
    mounts.move_mount(tree, place, subject=path)
    os.close(place)
    os.close(tree)


def way(_: Stage) -> None:
    """The way out."""
    nftables.open_way()


def empty(_: Stage) -> None:
    """Nothing held any more."""
    capabilities.empty()


def rlimits(_: Stage, limits: list[tuple[str, int, int]]) -> None:
    """Ceilings that every process of the env inherits."""
    for name, soft, hard in limits:
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (soft, hard))


def affinity(_: Stage, cpus: list[int]) -> None:
    """The CPUs to run on, inherited too."""
    os.sched_setaffinity(0, cpus)


APPLY = {
    "enter": enter,
    "directories": directories,
    "files": files,
    "links": links,
    "system": system,
    "devices": devices,
    "tmpfs": tmpfs,
    "proc": proc,
    "groups": groups,
    "devpts": devpts,
    "queues": queues,
    "pivot": pivot,
    "resize": resize,
    "bind": bind,
    "hostname": hostname,
    "loopback": loopback,
    "seal": seal,
    "leave": leave,
    "sysctl": sysctl,
    "mask": mask,
    "way": way,
    "listen": listen,
    "capabilities": empty,
    "rlimits": rlimits,
    "affinity": affinity,
    "ruleset": walls.prepare,
    "rules": walls.complete,
    "landlock": walls.confine,
    "seccomp": walls.sift,
    "prove": walls.prove,
}
