"""Tries to get out, one attempt after another, and says of each exactly what happened.

    python3 -I -S probe.py ATTEMPTS.json [capable|routed]

Runs inside an env; the same file outside one, or with `capable` in namespaces that hold every capability, is the control;
with `routed` these have a default route besides, so that the host needs none.
Stdlib only. An attempt is [action, argument, …]; each runs in a child of its own, so that none sees what another did to itself,
and yields "ok", an errno's name, the name of the signal that ended it, or what it got. Printed: one JSON list, in order.
"""

import ctypes
import errno
import fcntl
import json
import os
import platform
import resource
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 20
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
# (x86-64, aarch64) where the numbers differ; from 403 on they are the same everywhere (asm-generic/unistd.h).
NUMBERS = {
    "acct": (163, 89), "add_key": (248, 217), "adjtimex": (159, 171), "bpf": (321, 280), "chroot": (161, 51),
    "clock_settime": (227, 112), "clone": (56, 220), "clone3": (435, 435), "delete_module": (176, 106),
    "fanotify_init": (300, 262), "finit_module": (313, 273), "fsconfig": (431, 431), "fsmount": (432, 432),
    "fsopen": (430, 430), "fspick": (433, 433), "init_module": (175, 105), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "io_uring_setup": (425, 425), "ioperm": (173, None), "iopl": (172, None),
    "ioprio_set": (251, 30), "kcmp": (312, 272), "kexec_file_load": (320, 294), "kexec_load": (246, 104), "keyctl": (250, 219),
    "kill": (62, 129), "lookup_dcookie": (212, 18), "mbind": (237, 235), "migrate_pages": (256, 238),
    "modify_ldt": (154, None), "mount": (165, 40), "mount_setattr": (442, 442), "move_mount": (429, 429),
    "move_pages": (279, 239), "name_to_handle_at": (303, 264), "nfsservctl": (180, 42), "open_by_handle_at": (304, 265),
    "open_tree": (428, 428), "perf_event_open": (298, 241), "personality": (135, 92), "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "pivot_root": (155, 41), "prlimit64": (302, 261),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "ptrace": (101, 117), "quotactl": (179, 60), "quotactl_fd": (443, 443),
    "reboot": (169, 142), "request_key": (249, 218), "sched_setaffinity": (203, 122), "sched_setattr": (314, 274),
    "sched_setscheduler": (144, 119), "set_mempolicy": (238, 237), "setdomainname": (171, 162), "sethostname": (170, 161),
    "setns": (308, 268), "setpriority": (141, 140), "settimeofday": (164, 170), "swapoff": (168, 225), "swapon": (167, 224),
    "syslog": (103, 116), "tgkill": (234, 131), "umount2": (166, 39), "unshare": (272, 97), "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}  # fmt: skip
COLUMN = {"x86_64": 0, "aarch64": 1}[platform.machine()]
NEWNS, NEWUSER = 0x20000, 0x10000000


# -- what an attempt is made of ---------------------------------------------------------------------------------------------


def checked(result):
    """What a call of libc's gave, or its errno."""
    if result == -1:
        raise OSError(ctypes.get_errno(), "call")
    return result


def syscall(name, *arguments):
    """A system call by name; its arguments as `passed` says."""
    number = NUMBERS[name][COLUMN]
    if number is None:
        raise OSError(errno.ENOSYS, name)  # not on this machine
    result = checked(libc.syscall(ctypes.c_long(number), *map(passed, arguments)))
    if result == 0 and name.startswith("clone"):
        os._exit(0)  # we are the one that was made


def passed(argument):
    """A string goes as a pointer to it, [format, value, …] as one to what struct makes of it, None as NULL."""
    if isinstance(argument, str):
        return ctypes.c_char_p(os.fsencode(argument))
    if isinstance(argument, list):
        return ctypes.create_string_buffer(struct.pack(argument[0], *argument[1:]))
    return None if argument is None else ctypes.c_long(argument)


def descriptor_call(name, path, *arguments):
    """A system call whose first argument is a descriptor of that path."""
    return syscall(name, os.open(path, os.O_RDONLY), *arguments)


def pidfd_call(name, pid, *arguments):
    """A system call whose first argument is a pidfd."""
    return syscall(name, os.pidfd_open(pid), *arguments)


def read(path):
    """One byte."""
    with open(path, "rb") as file:
        file.read(1)


def write(path, flags=os.O_WRONLY | os.O_APPEND | os.O_CREAT, data="x"):
    """Something appended or made."""
    fd = os.open(path, flags, 0o644)
    os.write(fd, data.encode())


def via_descriptor(path, directory="/proc/self/fd"):
    """Open a file for reading, then the same inode for writing through a directory of descriptors."""
    fd = os.open(path, os.O_RDONLY)
    os.open(f"{directory}/{fd}", os.O_RDWR)


def prctl(option, value):
    """Ask something for oneself."""
    checked(libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)))


def below(directory, path):
    """openat with a path that climbs."""
    os.open(path, os.O_RDONLY, dir_fd=os.open(directory, os.O_RDONLY))


def link_and_read(target, link):
    """A symbolic link made here, and read through."""
    try:
        os.symlink(target, link)
        read(link)
    finally:
        os.unlink(link)


def replace(path, workshop):
    """A new file renamed over an old one; put back when that worked."""
    new = workshop + "/new"
    with open(path) as file:
        write(new, data=file.read() + " ")
    try:
        os.rename(new, path)
    except OSError:
        os.unlink(new)
        raise


def there_and_back(path, moved):
    """Rename away; put back when that worked."""
    os.rename(path, moved)
    os.rename(moved, path)


def exchange(path, other):
    """renameat2(RENAME_EXCHANGE), twice."""
    for _ in range(2):
        checked(libc.renameat2(-100, os.fsencode(path), -100, os.fsencode(other), 2))


def make(path):
    """A file or, for a path that ends in a slash, a directory; gone again when it could be made."""
    if path.endswith("/"):
        os.mkdir(path)
        os.rmdir(path)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.unlink(path)


def ioctl(request, argument, path="/dev/ptmx"):
    """An ioctl on a fresh terminal's slave that is our controlling one; high bits as given (CVE-2019-10063)."""
    os.setsid()
    _, slave = os.openpty()
    fcntl.ioctl(slave, 0x540E, 0)  # TIOCSCTTY
    checked(libc.ioctl(slave, ctypes.c_ulong(request), ctypes.create_string_buffer(argument.encode())))


def connect(family, address, kind=socket.SOCK_STREAM):
    """A connection; of a datagram socket, a packet that gets an answer."""
    with socket.socket(getattr(socket, family), kind) as sock:
        sock.settimeout(2)
        sock.connect(tuple(address) if isinstance(address, list) else address)
        if kind == socket.SOCK_DGRAM:
            sock.send(b"x")
            sock.recv(1)


def be_told(family, address):
    """A connection to who speaks first: what is led astray connects, and hears nothing."""
    with socket.socket(getattr(socket, family)) as sock:
        sock.settimeout(20)
        sock.connect(tuple(address))
        if not sock.recv(1):
            raise ConnectionResetError(errno.ECONNRESET, "it ended")


def announce(group, port):
    """A packet to a group, one of whose members (we, by lo) hears it: as mDNS does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as member:
        sock.connect((group, port))
        member.bind((group, port))
        member.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + struct.pack("=4xi", 1))
        member.settimeout(PATIENCE / 2)
        sock.send(b"x")
        member.recv(1)


def make_socket(family, kind, protocol=0):
    """A socket of that kind."""
    socket.socket(getattr(socket, family), kind, protocol).close()


def listen(family, address):
    """A server reached by ourselves."""
    with socket.socket(getattr(socket, family)) as server:
        server.bind(tuple(address) if isinstance(address, list) else address)
        server.listen()
        connect(family, server.getsockname())
        if address[0] == "/":
            os.unlink(address)


def netlink_change(kind):
    """Ask rtnetlink to change something; its answer's errno. kind: link (set lo down), up, addr, route."""
    body = {
        "link": (16, struct.pack("BxHiII", 0, 0, 1, 0, 1)),
        "up": (16, struct.pack("BxHiII", 0, 0, 1, 1, 1)),
        "addr": (20, struct.pack("BBBBI", 2, 8, 0, 0, 1) + struct.pack("HH4s", 8, 2, bytes((10, 9, 8, 7)))),
        "route": (24, struct.pack("BBBBBBBBI", 2, 0, 0, 0, 254, 3, 0, 1, 0) + struct.pack("HHi", 8, 4, 1)),
    }[kind]
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        sock.send(struct.pack("IHHII", 16 + len(body[1]), body[0], 5 if kind in ("link", "up") else 0x605, 1, 0) + body[1])
        code = struct.unpack_from("i", sock.recv(4096), 16)[0]
    if code:
        raise OSError(-code, kind)


def limit(pid, name, value):
    """prlimit on somebody."""
    resource.prlimit(pid, getattr(resource, "RLIMIT_" + name), (value, value))


def remote(pid, write_it):
    """process_vm_readv or _writev of eight bytes at an address that every process here has."""
    buffer = ctypes.create_string_buffer(8)
    piece = struct.pack("QQ", ctypes.addressof(buffer), 8)
    syscall("process_vm_writev" if write_it else "process_vm_readv", pid, ["16s", piece], 1, ["16s", piece], 1, 0)


def seize(pid):
    """PTRACE_SEIZE: attach without stopping."""
    checked(libc.ptrace(0x4206, pid, None, None))


def setns(path, kind):
    """Join a namespace."""
    checked(libc.setns(os.open(path, os.O_RDONLY), kind))


def own_namespaces(flags):
    """A user namespace of our own, mapped, with whatever else."""
    uid, gid = os.getuid(), os.getgid()
    checked(libc.unshare(NEWUSER | flags))
    for name, line in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)


def inner_proc():
    """A procfs of a pid namespace of our own, as bwrap, podman and Chromium mount it."""
    own_namespaces(NEWNS | 0x20000000)  # PID
    pid = os.fork()
    if pid == 0:
        os._exit(ctypes.get_errno() if libc.mount(b"proc", b"/proc", b"proc", 0, None) else 0)
    refused = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if refused:
        raise OSError(refused, "mount")


def on_child(action, *arguments):
    """Another action on a process of our own, whose pid stands where None does."""
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        return DO[action](*[child if argument is None else argument for argument in arguments])
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def descriptors():
    """What is open besides 0, 1, 2, by what it is; the one that lists them is not."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            if int(name) > 2 and int(name) != RESULT:
                found.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue
    return sorted(found)


def overlay(where):
    """An overlay over a system directory."""
    os.makedirs(where + "/upper", exist_ok=True)
    os.makedirs(where + "/work", exist_ok=True)
    options = f"lowerdir=/usr/share,upperdir={where}/upper,workdir={where}/work,userxattr".encode()
    checked(libc.mount(b"overlay", b"/usr/share", b"overlay", 0, options))


def mkfifo(path):
    """A named pipe; gone again when it could be made."""
    os.mkfifo(path)
    os.unlink(path)


DO: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (
        announce, be_told, below, connect, descriptor_call, descriptors, exchange, inner_proc, ioctl, limit, link_and_read,
        listen, make, make_socket, mkfifo, netlink_change, on_child, overlay, own_namespaces, pidfd_call, prctl, read, remote,
        replace, seize, setns, syscall, there_and_back, via_descriptor, write, os.chmod, os.chown, os.chroot, os.kill, os.link,
        os.mknod, os.setuid, os.truncate, os.utime,
    )
} | {
    "access": lambda path: os.close(os.open(path, os.O_PATH)),
    "affinity": lambda pid: os.sched_setaffinity(pid, os.sched_getaffinity(0)),
    "execute": lambda *argv: os.spawnv(os.P_WAIT, argv[0], argv) or None,
    "list": lambda path: os.listdir(path)[:0] or None,
    "nice": lambda who, value: os.setpriority(os.PRIO_PROCESS, who, value),
    "readlink": lambda path: os.readlink(path)[:0] or None,
    "scheduler": lambda pid: os.sched_setscheduler(pid, os.SCHED_BATCH, os.sched_param(0)),
    "xattr": lambda path: os.setxattr(path, "user.x", b"x"),
}  # fmt: skip


# -- one after another --------------------------------------------------------------------------------------------------------

RESULT = 3


def outcome(action, arguments):
    """What came of it."""
    try:
        found = DO[action](*arguments)
    except OSError as error:
        return "TIMEOUT" if isinstance(error, TimeoutError) else errno.errorcode.get(error.errno or 0, str(error))
    return "ok" if found is None or (isinstance(found, list) and action == "list") else found


def attempt(action, arguments, *, own_mounts=False):
    """Run in a child; a child that does not come back is ended, and its signal is the outcome."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(writing, RESULT)
            os.closerange(RESULT + 1, 64)
            if own_mounts:
                checked(libc.unshare(NEWNS))
            os.write(RESULT, json.dumps(outcome(action, arguments)).encode())
        except BaseException as error:  # a mistake of ours must not look like a wall
            os.write(RESULT, json.dumps(f"PROBE: {error!r}").encode())
        finally:
            os._exit(0)
    os.close(writing)
    data, until = b"", time.monotonic() + PATIENCE
    while select.select([reading], [], [], max(0, until - time.monotonic()))[0]:
        chunk = os.read(reading, 65536)
        if not chunk:
            break
        data += chunk
    else:
        os.kill(pid, signal.SIGKILL)
    os.close(reading)
    status = os.waitpid(pid, 0)[1]
    if data:
        return json.loads(data)
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"


def become_capable():
    """Every namespace of our own, every capability in it, the host's tree as it is."""
    own_namespaces(NEWNS | 0x04000000 | 0x08000000 | 0x40000000 | 0x20000000)  # UTS, IPC, NET, PID
    checked(libc.mount(None, b"/", None, 0x4000 | 0x40000, None))
    pid = os.fork()  # the first process in the new pid namespace
    if pid:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def main(path, *how):
    """All of a file's attempts."""
    with open(path) as file:
        attempts = json.load(file)
    if how:
        become_capable()
    if how == ("routed",):
        netlink_change("up")
        netlink_change("route")
    print(json.dumps([attempt(action, arguments, own_mounts=bool(how)) for action, *arguments in attempts]))


if __name__ == "__main__":
    main(*sys.argv[1:])
