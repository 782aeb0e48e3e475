"""Stands in for the launcher in tests of pid 1: namespaces, mounts, then `init.run` in a child that is pid 1 of its own.

Run as `python -I -S init_child.py FILE` by an unprivileged user. The JSON in it: root (of the checkout), config, fds, report (a
socket: there go the pid, private KiB before init runs, and descriptors of smaps_rollup and status), rlimits, and of the mount
namespace it makes: tmpfs {path: size}, logs {service: [path, path]}.
"""

import ctypes
import fcntl
import gc
import json
import os
import resource
import socket
import struct
import sys

with open(sys.argv[1], "rb") as plan:
    given = json.load(plan)
sys.path.insert(0, given["root"])

from sandboxd.kernel import fds as kernel_fds
from sandboxd.launch import init, quick, warm

libc = ctypes.CDLL(None, use_errno=True)
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_BIND, MS_REC, MS_PRIVATE = 2, 0x1000, 0x4000, 0x40000


def check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), what)


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    words = [None if word is None else word.encode() for word in (source, target, kind, data)]
    check(libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]), f"mount {target}")


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def private_kib(*files: int) -> int:
    """Private dirty memory and page tables now."""
    lines = [line for fd in files for line in os.pread(fd, 10000, 0).splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith((b"Private_Dirty:", b"VmPTE:")))


quick.STDIO = (900, 901, 902)  # what the plan brings is open here before
warm.warm()  # as the launcher does; before the pid namespace, whose first process would be one of these
uid, gid = os.getuid(), os.getgid()
check(libc.unshare(NEWUSER | NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS), "unshare")
write("/proc/self/setgroups", "deny")
write("/proc/self/uid_map", f"{uid} {uid} 1")
write("/proc/self/gid_map", f"{gid} {gid} 1")
mount("none", "/", None, MS_REC | MS_PRIVATE)
for path, size in given.get("tmpfs", {}).items():
    mount("tmpfs", path, "tmpfs", MS_NOSUID, f"size={size}")
for name, pair in given.get("rlimits", {}).items():
    resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), pair)
report = socket.socket(fileno=given["report"])
gc.collect()
gc.freeze()
gc.disable()
pid = os.fork()
if pid:
    report.sendall(f"pid {pid}\n".encode())
    kernel_fds.keep_only([2])
    os.waitpid(pid, 0)
    os._exit(0)
mount("proc", "/proc", "proc", MS_NOSUID)
mount("devpts", "/dev/pts", "devpts", MS_NOSUID, "newinstance,ptmxmode=0666,mode=0600")
mount("/dev/pts/ptmx", "/dev/ptmx", None, MS_BIND)
with socket.socket() as probe:
    fcntl.ioctl(probe, 0x8914, struct.pack("16sH14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
fds = given["fds"]
for name, paths in given.get("logs", {}).items():
    fds["logs"][name] = [os.open(path, os.O_CREAT | os.O_WRONLY, 0o600) for path in paths]
opened = [os.open(f"/proc/self/{name}", os.O_RDONLY) for name in ("smaps_rollup", "status")]
kernel_fds.send(report, b"private %d\n" % private_kib(*opened), opened)  # later it is not dumpable, and nobody could open them
numbers = [fd for fd in (fds.get("control", -1), fds.get("dial", -1), fds.get("exits", -1)) if fd >= 0]
numbers += [fd for pair in fds.get("logs", {}).values() for fd in pair]
numbers += [fd for ends in fds.get("attach", {}).values() for fd in ends.values()]
kernel_fds.keep_only([2, *numbers])
sys.path.clear()
sys.meta_path.clear()
init.run(given["config"], fds)
