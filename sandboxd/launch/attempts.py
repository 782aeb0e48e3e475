"""What this host offers, found out by trying: each wall once, in a throwaway child, from a small program of its own.

    python -I -S attempts.py [FEATURE...]

Imports the standard library, `errors` and `kernel`. Prints one JSON object, wall -> errno (0: it worked) and `landlock_abi`, or
the same of the features named, which are no walls. It is a program because the children are made by raw clone3, which wants a
single-threaded process and would copy a daemon's page tables each time.
"""

import json
import os
import sys
from errno import EOPNOTSUPP

if not __package__:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from sandboxd.kernel import capabilities, landlock, mounts, namespaces, nftables, seccomp, signals

FLAGS = {
    "user": 0,
    "mount": namespaces.NEWNS,
    "pid": namespaces.NEWPID,
    "net": namespaces.NEWNET,
    "ipc": namespaces.NEWIPC,
    "uts": namespaces.NEWUTS,
    "cgroup": namespaces.NEWCGROUP,
}
ALLOW_ALL = "BgAAAAAA/38="  # one instruction in base64: return SECCOMP_RET_ALLOW
QUIET = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC


def mount_view() -> None:
    """What every view is made of: slave propagation, a tmpfs, a detached tree with attributes."""
    mounts.mount(None, "/", mounts.MS_REC | mounts.MS_SLAVE)
    mounts.mount("tmpfs", "/tmp", QUIET, "size=65536")
    place = os.open("/", os.O_PATH | os.O_CLOEXEC)
    tree = mounts.open_tree(place, recursive=True, subject="/")
    mounts.mount_setattr(tree, mounts.ATTR_RDONLY | mounts.ATTR_NOSUID, recursive=True, subject="/")


def mount_proc(options: str) -> None:
    """A fresh procfs over the old one."""
    mounts.mount(None, "/", mounts.MS_REC | mounts.MS_SLAVE)
    mounts.mount("proc", "/proc", QUIET, options)


def confine() -> None:
    """A Landlock domain without a rule; what it handles is what its first ABI has."""
    capabilities.no_new_privs()
    ruleset = landlock.create((1 << 13) - 1, 0, 0)
    landlock.restrict(ruleset, 0)
    try:
        os.listdir("/")
    except PermissionError:
        return
    raise OSError(EOPNOTSUPP, "Landlock confines nothing")


def landlock_abi() -> tuple[int, int]:
    """Its newest ABI or 0, and the errno of what failed."""
    try:
        abi = landlock.abi()
    except OSError as error:
        return 0, error.errno or 1
    failed = plainly(confine)
    return (0, failed) if failed else (abi, 0)


def give_up() -> None:
    """Capabilities and what goes with them."""
    capabilities.drop_bounding()
    capabilities.no_new_privs()
    capabilities.empty()


def sift(*, listener: bool) -> None:
    """A filter that allows everything."""
    capabilities.no_new_privs()
    seccomp.install(ALLOW_ALL, listener=listener)


def way() -> None:
    """The rules and routes of an env that may reach out: nf_tables with nat, notrack and reject."""
    namespaces.loopback_up()
    nftables.open_way()


TRIALS = {
    "mount": (namespaces.NEWNS, mount_view),
    "net": (namespaces.NEWNET, namespaces.loopback_up),
    "uts": (
        namespaces.NEWUTS,
        lambda: namespaces.sethostname("sandboxd"),
    ),  # containers' filters refuse it (docker's, podman's)
    "egress": (namespaces.NEWNET, way),
    "proc": (namespaces.NEWNS | namespaces.NEWPID, lambda: mount_proc("")),
    "subset": (namespaces.NEWNS | namespaces.NEWPID, lambda: mount_proc("subset=pid")),
    "capabilities": (0, give_up),
}


# What needs no namespace is tried without one: it may be had where those are not.
PLAIN = {
    "no_new_privs": capabilities.no_new_privs,
    "seccomp": lambda: sift(listener=False),
    "listener": lambda: sift(listener=True),
}


def overlay() -> None:
    """An overlay as an ordinary user may mount it (>= 5.11, overlayfs in user namespaces: user.* attributes)."""
    mounts.mount(None, "/", mounts.MS_REC | mounts.MS_SLAVE)
    mounts.mount("tmpfs", "/tmp", QUIET, "size=65536")
    for name in ("lower", "upper", "work", "merged"):
        os.mkdir(f"/tmp/{name}")
    mounts.mount("overlay", "/tmp/merged", QUIET, "lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work,userxattr")


FEATURES = {
    "overlay": (namespaces.NEWNS, overlay),
    "nft": (namespaces.NEWNET, way),
}


def attempt(flags: int, action) -> int:  # type: ignore[no-untyped-def]
    """Clone into a user namespace and more, map ourselves, act there; the errno of what failed, or 0."""
    ready, go = os.pipe()
    try:
        pid, process = namespaces.clone3(namespaces.NEWUSER | flags)
    except OSError as error:
        os.close(ready)
        os.close(go)
        return error.errno or 1
    if pid == 0:
        os.close(go)
        os._exit(outcome(ready, action))
    os.close(ready)
    os.close(process)
    failed = 0
    try:
        namespaces.write_maps(pid, uid=(os.geteuid(), os.geteuid()), gid=(os.getegid(), os.getegid()))
        os.write(go, b"g")
    except OSError as error:
        failed = error.errno or 1
    os.close(go)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return failed or abs(status)


def plainly(action) -> int:  # type: ignore[no-untyped-def]
    """Act in a child without namespaces; the errno of what failed, or 0."""
    pid = os.fork()
    if pid == 0:
        os._exit(outcome(None, action))
    return abs(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def outcome(ready: int | None, action) -> int:  # type: ignore[no-untyped-def]
    """In the child: the errno of the action, as an exit status (they are below 134)."""
    try:
        if ready is not None and not os.read(ready, 1):
            return 1
        if action is not None:
            action()
    except OSError as error:
        return error.errno or 1
    except BaseException:
        return 255
    return 0


def main() -> None:
    """Try everything, print what came of it."""
    signals.block_all()
    if sys.argv[1:]:
        os.write(1, json.dumps({name: attempt(*FEATURES[name]) for name in sys.argv[1:]}).encode())
        return
    found = {wall: attempt(flags, None) for wall, flags in FLAGS.items()}
    for wall, (flags, action) in TRIALS.items():
        found[wall] = found.get(wall, 0) or attempt(flags, action)
    found["landlock_abi"], found["landlock"] = landlock_abi()
    found |= {wall: plainly(action) for wall, action in PLAIN.items()}
    os.write(1, json.dumps(found).encode())


if __name__ == "__main__":
    main()
    os._exit(0)
