"""What about this machine may bite: kernel, container, groups, quotas, directories, the session. Pure: facts in, checks out."""

import errno
import re

from sandboxd.doctor.facts import Facts, Place
from sandboxd.doctor.report import Check, Status
from sandboxd.units import format_size

LEAST_KERNEL = (5, 14)
FEW_WATCHES, FEW_INSTANCES = 65536, 256
FEW_FILES = 4096
FEW_NAMESPACES = 1000
LITTLE_ROOM, LITTLE_INODES = 512 << 20, 10_000
NETWORKED = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs", "fuse.glusterfs", "ncpfs", "vboxsf")
NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts")


def host(facts: Facts) -> list[Check]:
    """Everything about the machine and the session."""
    return [
        kernel(facts), *container(facts), *power(facts), *groups(facts), *quotas(facts), pressure(facts), *inotify(facts),
        *ulimits(facts), *clock(facts), *features(facts), *unseen(facts),
    ]  # fmt: skip


def kernel(facts: Facts) -> Check:
    """Old kernels lack mount_setattr, pidfds and the like."""
    numbers = re.match(r"(\d+)\.(\d+)", facts.kernel)
    found = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    name = f"kernel {facts.kernel}" + (f", {facts.system}" if facts.system else "")
    if found >= LEAST_KERNEL:
        return Check(id="host.kernel", group="host", name=name, offered=True)
    why = f"sandboxd needs Linux {LEAST_KERNEL[0]}.{LEAST_KERNEL[1]} or newer"
    return Check(id="host.kernel", group="host", name=name, status="fail", offered=False, reason=why, fix="upgrade the kernel")


def container(facts: Facts) -> list[Check]:
    """Inside a container the outer one decides."""
    if not facts.container and not facts.nested:
        return []
    what = f"inside a {facts.container} container" if facts.container else "inside a user namespace"
    why = "what it forbids cannot be had here, and limits of the outer one hold besides ours"
    return [Check(id="host.container", group="host", name=what, status="note", reason=why)]


def power(facts: Facts) -> list[Check]:
    """Root runs envs as nobody, to whom the home is handed as a mount: without CAP_SYS_ADMIN it cannot (open_tree(2))."""
    if not facts.powerless:
        return []
    why = "this root lacks CAP_SYS_ADMIN, as in containers: it cannot hand an env's home to another user"
    return [Check(id="host.power", group="host", name="envs of root's that run as nobody", status="fail", offered=False,
                  reason=why, fix="run sandboxd as an ordinary user there, or ask for --user root")]  # fmt: skip


def groups(facts: Facts) -> list[Check]:
    """Groups that an env keeps, since an unprivileged user namespace denies setgroups (user_namespaces(7))."""
    found = facts.host.groups if facts.host else []
    if not found:
        return [Check(id="host.groups", group="host", name="no group of yours gives power over this machine")]
    why = "envs keep your groups (no unprivileged process may drop them): where their files are shown, envs may use them"
    return [Check(id="host.groups", group="host", name=f"you are in {', '.join(found)}", status="note", reason=why,
                  fix=f"leave what you do not need: sudo gpasswd -d {facts.user} {found[0]}, then log in anew")]  # fmt: skip


def quotas(facts: Facts) -> list[Check]:
    """user.max_*_namespaces bound how many envs there can be."""
    values = {name: facts.settings.get(f"user.max_{name}_namespaces", "") for name in NAMESPACES}
    low = [name for name, value in values.items() if value.isdigit() and 0 < int(value) < FEW_NAMESPACES]
    if not low:
        return []
    least = min(int(values[name]) for name in low)
    return [Check(id="host.quotas", group="host", name="namespaces at once", status="warn",
                  reason=f"user.max_{low[0]}_namespaces={values[low[0]]}: no more than about {least} envs can run at once",
                  fix=f"sudo sysctl -w user.max_{low[0]}_namespaces=10000")]  # fmt: skip


def pressure(facts: Facts) -> Check:
    """Admission looks at the memory pressure of the machine."""
    name = "pressure information (PSI)"
    if facts.pressure == "yes":
        return Check(id="host.psi", group="host", name=name, offered=True)
    why = (
        "the kernel was booted with psi=0, or without psi=1" if facts.pressure == "off" else "this kernel has none (CONFIG_PSI)"
    )
    fix = "add psi=1 to the kernel's command line, and reboot" if facts.pressure == "off" else ""
    return Check(id="host.psi", group="host", name=name, status="warn", offered=False, fix=fix,
                 reason=f"{why}: under memory pressure new envs start all the same")  # fmt: skip


def inotify(facts: Facts) -> list[Check]:
    """Watchers of dev servers are counted per user, over all envs."""
    checks = []
    for name, few in (("max_user_watches", FEW_WATCHES), ("max_user_instances", FEW_INSTANCES)):
        value = facts.settings.get(f"fs.inotify.{name}", "")
        if value.isdigit() and int(value) < few:
            checks.append(Check(
                id=f"host.inotify.{name}", group="host", name=f"inotify: {name} = {value}", status="warn",
                reason="file watchers of several dev servers share it; when it is used up they fail with ENOSPC or EMFILE",
                fix=f"sudo sysctl -w fs.inotify.{name}={few * 8}",
            ))  # fmt: skip
    return checks


def ulimits(facts: Facts) -> list[Check]:
    """Hard rlimits of the session cap what envs may ask for."""
    files = facts.rlimits.get("nofile", -1)
    if files == -1 or files >= FEW_FILES:
        return []
    return [Check(id="host.nofile", group="host", name=f"ulimit -Hn = {files}", status="warn",
                  reason="no env can have more open files than that, and its own default is 4096",
                  fix="raise it in /etc/security/limits.conf, or LimitNOFILE= of your login's unit")]  # fmt: skip


def clock(facts: Facts) -> list[Check]:
    """A clock before our own files makes ages and certificates wrong."""
    if facts.clock >= facts.newest - 86400:
        return []
    return [Check(id="host.clock", group="host", name="the clock is wrong", status="warn",
                  reason="it shows a time before sandboxd itself was installed; ages, TLS and --since will be off",
                  fix="sudo timedatectl set-ntp true")]  # fmt: skip


def features(facts: Facts) -> list[Check]:
    """What is no wall but depends on the host."""
    words = {
        "overlay": ("overlay file systems", "copy-on-write workspaces need them: Linux 5.11 with CONFIG_OVERLAY_FS"),
        "nft": ("nf_tables", "without it an env has egress none by default: sudo modprobe nf_tables"),
    }
    checks = []
    for feature, number in facts.features.items():
        name, without = words.get(feature, (feature, ""))
        code = errno.errorcode.get(number, str(number))
        reason = "" if number == 0 else f"in a user namespace it fails with {code}; {without}"
        checks.append(Check(id=f"feature.{feature}", group="features", name=f"{name}, unprivileged",
                            status="ok" if number == 0 else "warn", offered=number == 0, reason=reason))  # fmt: skip
    return checks


def unseen(facts: Facts) -> list[Check]:
    """What could not be looked at; the trial of the walls has a check of its own."""
    return [
        Check(id=f"look.{part}", group="host", name=f"could not look at {part}", status="warn", reason=why)
        for part, why in facts.failed.items()
        if part != "host"
    ]


# -- directories -------------------------------------------------------------------------------------------------------------


def places(facts: Facts) -> list[Check]:
    """The daemon's directories."""
    found = []
    if facts.state is not None:
        found.append(place(facts, facts.state, "state", "XDG_STATE_HOME or SANDBOXD_DIR"))
    if facts.runtime_place is not None and (facts.state is None or facts.runtime_place.path != facts.state.path):
        found.append(place(facts, facts.runtime_place, "runtime", "XDG_RUNTIME_DIR or SANDBOXD_DIR"))
    return found


def place(facts: Facts, seen: Place, which: str, variables: str) -> Check:
    """One directory: there or to be made, ours alone, on a file system that can do what we need. The first wrong counts."""
    elsewhere = f"set {variables} to a directory that is yours, on a local disk"
    chmod = f"chmod 700 {seen.path}"
    mode = seen.mode or 0
    made = "you cannot write to it" if seen.mode is not None else "it cannot be made: you cannot write above it"
    kind = f"it is on a network file system ({seen.kind}): sqlite's locks, sockets and speed suffer"
    wrong: list[tuple[bool, Status, str, str]] = [
        (bool(seen.error), "fail", seen.error, elsewhere),
        (not seen.is_directory, "fail", "it is no directory, or lies below something that is none", elsewhere),
        (seen.uid not in (None, facts.uid), "fail", f"it belongs to uid {seen.uid}, not to you (uid {facts.uid})", elsewhere),
        ("ro" in seen.options, "fail", "its file system is mounted read-only", elsewhere),
        (not seen.writable and not facts.root, "fail", made, elsewhere),
        (bool(mode & 0o022), "fail", f"others may write to it (mode {mode:04o})", chmod),
        (bool(mode & 0o077), "warn", f"others may look into it (mode {mode:04o})", chmod),
        (seen.kind in NETWORKED, "warn", kind, elsewhere),
        (is_little(seen.free, LITTLE_ROOM), "warn", f"{format_size(seen.free or 0)} are left", "free some space"),
        (is_little(seen.inodes, LITTLE_INODES), "warn", f"{seen.inodes} inodes are left", "remove some files"),
        (which == "state" and "noexec" in seen.options, "warn",
         "its file system is mounted noexec: what envs put in their home cannot be executed", elsewhere),
    ]  # fmt: skip
    id, name = f"daemon.{which}", f"{which} directory {seen.path}"
    for holds, status, reason, fix in wrong:
        if holds:
            return Check(id=id, group="daemon", name=name, status=status, offered=False, reason=reason, fix=fix,
                         fixable="user" if fix == chmod else "")  # fmt: skip
    return Check(id=id, group="daemon", name=name, offered=True)


def is_little(left: int | None, least: int) -> bool:
    """Whether that little is left, where it is known."""
    return left is not None and left < least
