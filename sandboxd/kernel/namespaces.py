"""Namespaces: clone3 into new ones, the id maps of a user namespace, and the little that is set inside.

Imports `errors` and `kernel.libc`. The caller of `clone3` has to be single-threaded, must have its signals blocked, and its
child leaves by exec or os._exit only: none of the interpreter's after-fork work is done, and buffers would be flushed twice.
"""

import _signal  # type: ignore[import-not-found]  # as in kernel.signals
import _socket
import ctypes
import fcntl
import os
import struct

from sandboxd.errors import KernelError
from sandboxd.kernel.libc import check, function, syscall

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
CLONE_PIDFD, PARENT, INTO_CGROUP = 0x1000, 0x8000, 0x200000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
SO_NETNS_COOKIE = 71
KEYCTL_JOIN_SESSION_KEYRING = 1
KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "armv7l": 311, "s390x": 280, "ppc64le": 271}  # no libc symbol


class CloneArgs(ctypes.Structure):
    """struct clone_args, clone(2)."""

    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            *("flags", "pidfd", "child_tid", "parent_tid", "exit_signal"),
            *("stack", "stack_size", "tls", "set_tid", "set_tid_size", "cgroup"),
        )
    ]


_clone3 = syscall(435, ctypes.POINTER(CloneArgs), ctypes.c_size_t)
_sethostname = function("sethostname", ctypes.c_char_p, ctypes.c_size_t)
_unshare = function("unshare", ctypes.c_int)
_setns = function("setns", ctypes.c_int, ctypes.c_int)


def clone3(flags: int, group: int = -1) -> tuple[int, int]:
    """Fork into the new namespaces of `flags`: (pid, pidfd) in the parent, (0, -1) in the child; the pidfd is close-on-exec.

    group: the descriptor of a control group that the child is born in. With PARENT it is its parent's sibling, and tells of its
    end as its parent does.
    """
    pidfd = ctypes.c_int(-1)
    arguments = CloneArgs(
        flags=flags | CLONE_PIDFD | (INTO_CGROUP if group >= 0 else 0),
        pidfd=ctypes.addressof(pidfd),
        exit_signal=0 if flags & PARENT else _signal.SIGCHLD,
        cgroup=max(group, 0),
    )
    pid = check(_clone3(ctypes.byref(arguments), ctypes.sizeof(arguments)), "clone3")
    return (pid, pidfd.value) if pid else (0, -1)


def unshare(flags: int) -> None:
    """unshare(2)."""
    check(_unshare(flags), "unshare")


def mount_namespace() -> int:
    """A descriptor of the mount namespace that we are in."""
    return os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)


def join_mounts(namespace: int) -> None:
    """setns(2) into a mount namespace, whose root becomes our root and working directory."""
    check(_setns(namespace, NEWNS), "setns", "mount namespace")


def join(process: int, flags: int) -> None:
    """setns(2) into those namespaces of the process of that pidfd, all at once; its children are to be in its pid namespace.

    One whose user namespace is new has to be dumpable (ptrace(2), access mode checking).
    """
    check(_setns(process, flags), "setns", "a child's namespaces")


def write_maps(pid: int, *, uid: tuple[int, int], gid: tuple[int, int]) -> None:
    """Map one (inside, outside) uid and gid of a fresh user namespace, from its parent; the child must be dumpable.

    A caller without CAP_SETGID outside has to deny setgroups first (user_namespaces(7)); one with it leaves setgroups be, since
    the child uses it to drop the groups it inherited.
    """
    if os.geteuid() != 0:
        write_proc(f"/proc/{pid}/setgroups", b"deny")
    write_proc(f"/proc/{pid}/uid_map", b"%d %d 1" % uid)
    write_proc(f"/proc/{pid}/gid_map", b"%d %d 1" % gid)


def write_proc(path: str, text: bytes) -> None:
    """Write a /proc or /sys file by one write(2), which is how the kernel wants it."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text)
        finally:
            os.close(fd)
    except OSError as error:
        raise KernelError(error.errno or 0, "write", path) from error


def sethostname(name: str) -> None:
    """The name of this UTS namespace."""
    text = name.encode()
    check(_sethostname(text, len(text)), "sethostname", name)


def loopback_up() -> None:
    """Bring up `lo` of this network namespace; 127.0.0.1 and ::1 come with it."""
    control = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        fcntl.ioctl(control.fileno(), SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
    finally:
        control.close()


def netns_cookie() -> int:
    """The kernel's never reused number of this network namespace (socket(7), >= 5.14)."""
    probe = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        return int.from_bytes(probe.getsockopt(_socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), "little")
    finally:
        probe.close()


def leave_session_keyring() -> None:
    """Join a fresh, anonymous session keyring, so that the caller's keys are not possessed any more (session-keyring(7)).

    Where the architecture's number is not known, or the kernel has no keyrings, nothing is possessed by name either way.
    """
    number = KEYCTL.get(os.uname().machine)
    if number is not None:
        syscall(number, ctypes.c_int, ctypes.c_char_p)(KEYCTL_JOIN_SESSION_KEYRING, None)
