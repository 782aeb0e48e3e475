"""Step tag -> function: what `isolation.steps` describes, done. Runs as pid 1 of a namespace that nobody else is in yet.

Imports `errors` and `kernel`. The host's tree is reached by `Stage.host` alone: after `enter` the old root is stacked upon
the new one, where no path leads. Sources are opened below it without following any link (the planner resolved them; whoever
can write to a directory on the way could swap in a link since). Targets are resolved inside the new root as chroot would,
magic links refused, because an env's home keeps what the env put there, links to /proc/self/fd included.
"""

import errno
import os

from sandboxd.errors import KernelError
from sandboxd.kernel import capabilities, mounts, namespaces

SOURCE = mounts.RESOLVE_IN_ROOT | mounts.RESOLVE_NO_MAGICLINKS | mounts.RESOLVE_NO_SYMLINKS
TARGET = mounts.RESOLVE_IN_ROOT | mounts.RESOLVE_NO_MAGICLINKS
QUIET = mounts.MS_NOSUID | mounts.MS_NODEV
STAGING = ("/tmp", "/mnt", "/usr")  # any directory: it is covered only until the pivot


class Stage:
    """What the steps of one env share: descriptors of the host's root and the new one, and the trees that were handed over."""

    __slots__ = ("handed", "host", "root")

    def __init__(self) -> None:
        self.host = -1
        self.root = -1
        self.handed: list[int] = []


def enter(stage: Stage, size: int) -> None:
    """A tmpfs as root. Slave, not private: what the host unmounts later must not stay busy in a child parked since."""
    mounts.mount(None, "/", mounts.MS_REC | mounts.MS_SLAVE)
    stage.host = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    staging = next(path for path in STAGING if os.path.isdir(path))
    mounts.mount("tmpfs", staging, QUIET, options(size, 0o755))
    os.chdir(staging)
    mounts.pivot_root(".", ".")
    os.chdir("/")
    stage.root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def options(size: int, mode: int) -> str:
    """tmpfs(5): bytes, mode, and one inode per page, since inodes are kernel memory that size= does not count."""
    return f"size={size},mode={mode:o},nr_inodes={max(size >> 12, 1024)}"


def tmpfs(_: Stage, target: str, size: int, mode: int) -> None:
    """A new tmpfs at a place of ours."""
    os.makedirs(target, exist_ok=True)
    mounts.mount("tmpfs", target, QUIET, options(size, mode))


def resize(_: Stage, target: str, size: int) -> None:
    """Another ceiling; a remount replaces all flags, so they are given again."""
    mounts.mount(None, target, mounts.MS_REMOUNT | QUIET, f"size={size},nr_inodes={max(size >> 12, 1024)}")


def proc(_: Stage, target: str, how: str) -> None:
    """A procfs of this pid namespace."""
    os.makedirs(target, exist_ok=True)
    mounts.mount("proc", target, QUIET | mounts.MS_NOEXEC, how)


def devpts(_: Stage, target: str) -> None:
    """Own terminals. No gid=5: that group is not mapped here, and the option is then refused (devpts.rst)."""
    os.makedirs(target, exist_ok=True)
    mounts.mount("devpts", target, mounts.MS_NOSUID | mounts.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")


def directory(_: Stage, path: str, mode: int) -> None:
    """A directory with exactly that mode."""
    os.makedirs(path, exist_ok=True)
    os.chmod(path, mode)


def symlink(_: Stage, path: str, text: str) -> None:
    """A symbolic link."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.symlink(text, path)


def file(_: Stage, path: str, text: str) -> None:
    """A file of ours; only for places that no env could write to yet."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def bind(stage: Stage, source: str, target: str, *how: object) -> None:
    """Copy a tree of mounts, make the copy what it should be, and only then attach it: it is never seen writable."""
    readonly, is_file, device, origin = how
    tree = (
        stage.handed.pop(0) if origin == "handed" else take(stage.host if origin == "host" else stage.root, source, not is_file)
    )
    try:
        wanted = mounts.ATTR_NOSUID | (0 if device else mounts.ATTR_NODEV) | (mounts.ATTR_RDONLY if readonly else 0)
        mounts.mount_setattr(tree, wanted, recursive=not is_file, propagation=mounts.MS_PRIVATE, subject=source)
        place = find(stage.root, target, make_file=bool(is_file))
        try:
            mounts.move_mount(tree, place, subject=target)
        finally:
            os.close(place)
    finally:
        os.close(tree)


def take(root: int, source: str, recursive: bool) -> int:
    """A detached copy of the tree at `source` below `root`."""
    fd = mounts.openat2(root, source.lstrip("/") or ".", os.O_PATH, SOURCE)
    try:
        return mounts.open_tree(fd, recursive=recursive, subject=source)
    finally:
        os.close(fd)


def find(root: int, target: str, *, make_file: bool) -> int:
    """A descriptor of the place to mount on, made where it is missing."""
    path = target.lstrip("/")
    try:
        return mounts.openat2(root, path, os.O_PATH, TARGET)
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise
    make(root, path, make_file=make_file)
    return mounts.openat2(root, path, os.O_PATH, TARGET)


def make(root: int, path: str, *, make_file: bool) -> None:
    """Make what is missing of `path`, one name at a time, each below a descriptor that was resolved inside the new root."""
    parts = path.split("/")
    for depth in range(1, len(parts) + 1):
        parent = mounts.openat2(root, "/".join(parts[: depth - 1]) or ".", os.O_PATH | os.O_DIRECTORY, TARGET)
        try:
            if depth == len(parts) and make_file:
                flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                os.close(os.open(parts[-1], flags, 0o644, dir_fd=parent))
            else:
                os.mkdir(parts[depth - 1], 0o755, dir_fd=parent)
        except FileExistsError:
            continue
        finally:
            os.close(parent)


def hostname(_: Stage, name: str) -> None:
    """The host name."""
    namespaces.sethostname(name)


def loopback(_: Stage) -> None:
    """lo up."""
    namespaces.loopback_up()


def seal(stage: Stage) -> None:
    """The root read-only, by itself."""
    mounts.mount_setattr(stage.root, mounts.ATTR_RDONLY, recursive=False, subject="/")


def leave(stage: Stage) -> None:
    """Let go of the host's tree; umount2 takes the topmost mount at "/", which is the old root."""
    mounts.umount("/", mounts.MNT_DETACH)
    os.close(stage.host)
    os.close(stage.root)
    stage.host = stage.root = -1


def sysctl(_: Stage, name: str, value: str) -> None:
    """A setting; one that this kernel was built without is no error."""
    try:
        namespaces.write_proc(f"/proc/sys/{name}", value.encode())
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise


def bounding(_: Stage) -> None:
    """Nothing to gain any more."""
    capabilities.drop_bounding()
    capabilities.no_new_privs()
    if capabilities.bounding():
        raise KernelError(errno.EPERM, "PR_CAPBSET_DROP")


def empty(_: Stage) -> None:
    """Nothing held any more."""
    capabilities.empty()


def prove(stage: Stage) -> None:
    """Ask the kernel instead of trusting the steps before."""
    holds = {
        "is pid 1": os.getpid() == 1,
        "holds no capability": capabilities.held() == (0, 0, 0),
        "has no_new_privs": capabilities.has_no_new_privs(),
        "is not dumpable": not capabilities.is_dumpable(),
        "has let go of the host's tree": stage.host == -1 and not stage.handed,
    }
    for claim, held in holds.items():
        if not held:
            raise KernelError(errno.EPERM, f"the child {claim}", "does not hold")


APPLY = {
    "enter": enter,
    "tmpfs": tmpfs,
    "resize": resize,
    "proc": proc,
    "devpts": devpts,
    "directory": directory,
    "symlink": symlink,
    "file": file,
    "bind": bind,
    "hostname": hostname,
    "loopback": loopback,
    "seal": seal,
    "leave": leave,
    "sysctl": sysctl,
    "bounding": bounding,
    "capabilities": empty,
    "prove": prove,
}
