"""Attempts on files: what is not shown, what is shown read-only, what guards the env itself, and mounts."""
# ruff: noqa: E501 - a row is read across, as a table's

from tests.walls.attempts import CAPABLE, NO_WALLS, OUTSIDE, SHOWN, Attempt

READ = ["read", "{workspace}/main.py"]
OBJECT = ["make", "{workspace}/.git/objects/x"]
O_RDWR, O_WRONLY, O_TRUNC = 2, 1, 0o1000

SECRETS = [
    Attempt("ssh key", ["read", "{home}/.ssh/id_ed25519"], "ENOENT", SHOWN, "ok", READ),
    Attempt("cloud credentials", ["read", "{home}/.aws/credentials"], "ENOENT", SHOWN, "ok", READ),
    Attempt("keyring", ["list", "{home}/.gnupg"], "ENOENT", SHOWN, "ok", ["list", "{workspace}"]),
    Attempt("another project", ["read", "{home}/src/else/notes"], "ENOENT", SHOWN, "ok", READ),
    Attempt("write to the home", ["write", "{home}/src/else/new"], "ENOENT", NO_WALLS, "ok", ["make", "{home}/mine"]),
    Attempt("another env's workspace", ["read", "{other_workspace}/data"], "ENOENT", SHOWN, "ok", READ),
    Attempt("write to another env's workspace", ["write", "{other_workspace}/x"], "ENOENT", OUTSIDE, "ok", ["make", "{workspace}/x"]),
    Attempt("another env's private home", ["read", "{other_home}/kept"], "ENOENT", OUTSIDE, "ok", ["list", "{home}"]),
    Attempt("the daemon's journal", ["read", "{state}/state.db"], "ENOENT", NO_WALLS, "ok", READ),
    Attempt("write the daemon's journal", ["access", "{state}/state.db"], "ENOENT", OUTSIDE, "ok", ["make", "{workspace}/state.db"]),
    Attempt("the daemon's log", ["read", "{state}/daemon.log"], "ENOENT", OUTSIDE, "ok", READ),
    Attempt("own logs", ["list", "{env_dir}/logs"], "ENOENT", NO_WALLS, "ok", ["list", "/tmp"]),
    Attempt("own exits", ["read", "{env_dir}/exits"], "ENOENT", OUTSIDE, "ok", READ),
    Attempt("the host's /tmp", ["read", "{host_tmp}"], "ENOENT", NO_WALLS, "ok", ["make", "/tmp/mine"]),
    Attempt("the host's /dev/shm", ["read", "{host_shm}"], "ENOENT", OUTSIDE, "ok", ["make", "/dev/shm/mine"]),
    Attempt("the host's logs", ["list", "/var/log"], "ENOENT", OUTSIDE, "ok", ["list", "/var/tmp"]),
    Attempt("root's files", ["access", "/root"], "ENOENT", OUTSIDE, "ok", ["access", "/usr"]),
    Attempt("disks", ["access", "/dev/{disk}"], "ENOENT", OUTSIDE, "ok", ["read", "/dev/urandom"]),
    Attempt("kernel log", ["access", "/dev/kmsg"], "ENOENT", NO_WALLS, "ok", ["read", "/dev/zero"]),
]  # fmt: skip

WAYS = [
    Attempt("link to a secret", ["link_and_read", "{home}/.ssh/id_ed25519", "{workspace}/link"], "ENOENT", SHOWN, "ok",
            ["link_and_read", "{workspace}/main.py", "{workspace}/link"]),
    Attempt("climbing link", ["link_and_read", "../../.ssh/id_ed25519", "{workspace}/link"], "ENOENT", SHOWN, "ok",
            ["link_and_read", "../shop/main.py", "{workspace}/link"]),
    Attempt("hard link to a secret", ["link", "{home}/.ssh/id_ed25519", "{workspace}/hard"], "ENOENT", OUTSIDE, "ok",
            ["there_and_back", "{workspace}/main.py", "{workspace}/moved"]),
    Attempt("..", ["read", "{workspace}/../../.ssh/id_ed25519"], "ENOENT", SHOWN, "ok", ["read", "{workspace}/../shop/main.py"]),
    Attempt(".. below a descriptor", ["below", "{workspace}", "../../.ssh/id_ed25519"], "ENOENT", SHOWN, "ok",
            ["below", "{workspace}", "../shop/main.py"]),
    Attempt("root of pid 1", ["read", "/proc/{init}/root/{home}/.ssh/id_ed25519"], "EACCES", OUTSIDE, "ok",
            ["read", "/proc/self/root/{workspace}/main.py"]),
    Attempt("cwd of pid 1", ["list", "/proc/{init}/cwd/"], "EACCES", OUTSIDE, "ok", ["list", "/proc/self/cwd/"]),
    Attempt("descriptors of pid 1", ["list", "/proc/{init}/fd"], "EACCES", OUTSIDE, "ok", ["list", "/proc/self/fd"]),
    Attempt("its descriptors' details", ["list", "/proc/{init}/fdinfo"], "EACCES", OUTSIDE, "ok", ["list", "/proc/self/fdinfo"]),
    Attempt("its mapped files", ["list", "/proc/{init}/map_files"], "EACCES|EPERM", OUTSIDE, "ok", ["list", "/proc/self/task"]),
    Attempt("first descriptor of pid 1", ["read", "/proc/{init}/fd/0"], "EACCES", OUTSIDE, "ok", ["read", "/dev/null"]),
    Attempt("a thread of pid 1", ["list", "/proc/{init}/task/{init}/fd"], "EACCES", OUTSIDE, "ok", ["list", "/proc/self/task"]),
]  # fmt: skip

GUARDS = [
    Attempt("append to sandbox.toml", ["write", "{workspace}/sandbox.toml"], "EROFS", OUTSIDE, "ok", ["write", "{workspace}/main.py"]),
    Attempt("cut sandbox.toml", ["truncate", "{workspace}/sandbox.toml", 3], "EROFS", OUTSIDE, "ok", ["truncate", "{workspace}/main.py", 3]),
    Attempt("unlink sandbox.toml", ["there_and_back", "{workspace}/sandbox.toml", "{workspace}/moved"], "EBUSY", OUTSIDE, "ok",
            ["there_and_back", "{workspace}/main.py", "{workspace}/moved"]),
    Attempt("replace sandbox.toml", ["replace", "{workspace}/sandbox.toml", "{workspace}"], "EBUSY|EXDEV", OUTSIDE, "ok",
            ["replace", "{workspace}/main.py", "{workspace}"]),
    Attempt("swap sandbox.toml", ["exchange", "{workspace}/sandbox.toml", "{workspace}/main.py"], "EBUSY|EXDEV", OUTSIDE, "ok",
            ["exchange", "{workspace}/second.py", "{workspace}/main.py"]),
    Attempt("link to sandbox.toml's inode", ["link", "{workspace}/sandbox.toml", "{workspace}/same"], "EXDEV", OUTSIDE, "ok", READ),
    Attempt("reopen it by its descriptor", ["via_descriptor", "{workspace}/sandbox.toml"], "EROFS", OUTSIDE, "ok",
            ["via_descriptor", "{workspace}/main.py"]),
    Attempt("reopen it by /dev/fd", ["via_descriptor", "{workspace}/sandbox.toml", "/dev/fd"], "EROFS", OUTSIDE, "ok",
            ["via_descriptor", "{workspace}/main.py", "/dev/fd"]),
    Attempt("its mode", ["chmod", "{workspace}/sandbox.toml", 0o666], "EROFS", OUTSIDE, "ok", ["chmod", "{workspace}/main.py", 0o644]),
    Attempt("its times", ["utime", "{workspace}/sandbox.toml"], "EROFS", OUTSIDE, "ok", ["utime", "{workspace}/main.py"]),
    Attempt("direnv", ["write", "{workspace}/.envrc"], "EROFS", OUTSIDE, "ok", ["write", "{workspace}/main.py"]),
    Attempt("git's config", ["write", "{workspace}/.git/config"], "EROFS", OUTSIDE, "ok", OBJECT),
    Attempt("a git hook", ["make", "{workspace}/.git/hooks/pre-commit"], "EROFS", OUTSIDE, "ok", OBJECT),
    Attempt("an old git hook", ["chmod", "{workspace}/.git/hooks/sample", 0o755], "EROFS", OUTSIDE, "ok", OBJECT),
    Attempt("git's hooks away", ["there_and_back", "{workspace}/.git/hooks", "{workspace}/.git/old"], "EBUSY", OUTSIDE, "ok",
            ["there_and_back", "{workspace}/.git/objects", "{workspace}/.git/old"]),
    Attempt("git away", ["there_and_back", "{workspace}/.git", "{workspace}/old"], "EBUSY", OUTSIDE, "ok",
            ["there_and_back", "{workspace}/src", "{workspace}/old"]),
    Attempt("swap git", ["exchange", "{workspace}/.git", "{workspace}/src"], "EBUSY", OUTSIDE, "ok",
            ["exchange", "{workspace}/second.py", "{workspace}/main.py"]),
    Attempt("the workspace away", ["there_and_back", "{workspace}", "{workspace}-old"], "EBUSY", OUTSIDE, "ok",
            ["there_and_back", "{workspace}/src", "{workspace}/old"]),
    Attempt("a program on PATH", ["write", "{tools}/bin/tool"], "EROFS", NO_WALLS, "ok", ["execute", "{tools}/bin/tool"]),
    Attempt("a new program on PATH", ["make", "{tools}/bin/ls"], "EROFS", OUTSIDE, "ok", ["make", "{home}/ls"]),
    Attempt("the system", ["make", "/usr/bin/mine"], "EROFS", OUTSIDE, "EACCES", ["make", "/var/tmp/mine"]),
    Attempt("/etc", ["make", "/etc/ld.so.preload"], "EROFS", OUTSIDE, "EACCES", ["read", "/etc/passwd"]),
    Attempt("names of hosts", ["write", "/etc/hosts"], "EROFS", OUTSIDE, "EACCES", ["read", "/etc/hosts"]),
    Attempt("the root", ["make", "/mine"], "EROFS", OUTSIDE, "EACCES", ["make", "/run/mine"]),
    Attempt("devices", ["make", "/dev/mine"], "EROFS", OUTSIDE, "EACCES", ["write", "/dev/null", O_WRONLY]),
    Attempt("an attribute", ["xattr", "{tools}/bin/tool"], "EROFS", OUTSIDE, "ok|EOPNOTSUPP", ["utime", "{workspace}/main.py"]),
]  # fmt: skip

MS_BIND, MS_REMOUNT, MS_MOVE, MNT_DETACH, OPEN_TREE_CLONE = 4096, 32, 8192, 2, 1
MOUNTS = [
    Attempt("a tmpfs", ["syscall", "mount", "none", "/tmp", "tmpfs", 0, None], "EPERM", CAPABLE, "ok", ["make", "/tmp/x"]),
    Attempt("bind over", ["syscall", "mount", "/tmp", "/etc", None, MS_BIND, None], "EPERM", CAPABLE, "ok", ["read", "/etc/passwd"]),
    Attempt("bind over a guard", ["syscall", "mount", "{workspace}/main.py", "{workspace}/sandbox.toml", None, MS_BIND, None],
            "EPERM", CAPABLE, "ok", ["read", "{workspace}/sandbox.toml"]),
    Attempt("remount writable", ["syscall", "mount", None, "{workspace}/.git/hooks", None, MS_BIND | MS_REMOUNT, None],
            "EPERM", CAPABLE, "EINVAL", OBJECT),
    Attempt("move a mount", ["syscall", "mount", "/proc", "/tmp", None, MS_MOVE, None], "EPERM", CAPABLE, "ok|EINVAL", READ),
    Attempt("unmount a guard", ["syscall", "umount2", "{workspace}/sandbox.toml", MNT_DETACH], "EPERM", CAPABLE, "EINVAL", READ),
    Attempt("unmount the root", ["syscall", "umount2", "/", MNT_DETACH], "EPERM", CAPABLE, "EINVAL", READ),
    Attempt("pivot back", ["syscall", "pivot_root", ".", "."], "EPERM", CAPABLE, "EINVAL|EBUSY|ok", READ),
    Attempt("chroot", ["chroot", "/tmp"], "EPERM", CAPABLE, "ok", ["list", "/tmp"]),
    Attempt("overlay", ["overlay", "{workspace}/over"], "EPERM", CAPABLE, "ok", ["list", "/usr/share"]),
    Attempt("procfs", ["syscall", "mount", "proc", "/tmp", "proc", 0, None], "EPERM", CAPABLE, "ok", ["list", "/proc"]),
    Attempt("fsopen", ["syscall", "fsopen", "tmpfs", 0], "EPERM", CAPABLE, "ok", READ),
    Attempt("open_tree", ["syscall", "open_tree", -100, "/usr", OPEN_TREE_CLONE], "EPERM", CAPABLE, "ok", ["access", "/usr"]),
    Attempt("move_mount", ["syscall", "move_mount", -100, "/usr", -100, "/tmp", 0], "EPERM", CAPABLE, "ok|EINVAL", READ),
    Attempt("mount_setattr", ["syscall", "mount_setattr", -100, "/usr", 0, ["QQQQ", 0, 1, 0, 0], 32], "EPERM", CAPABLE, "ok|EINVAL",
            ["list", "/usr"]),
    Attempt("fspick", ["syscall", "fspick", -100, "/tmp", 0], "EPERM", CAPABLE, "ok|EINVAL", READ),
    Attempt("join pid 1's mounts", ["setns", "/proc/{init}/ns/mnt", 0], "EACCES", OUTSIDE, "EPERM", ["readlink", "/proc/self/ns/mnt"]),
]  # fmt: skip

FILES = [*SECRETS, *WAYS, *GUARDS, *MOUNTS]
