"""Looks at the host for the doctor, part by part: one that cannot be looked at is written down and does not hide the rest.

Imports launch's probes, kernel and the other looks of this package. Needs no daemon and changes nothing. As root under sudo it
looks on behalf of the user who typed sudo: it is their envs that are to run.
"""

import errno
import os
import platform
import pwd
import resource
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from sandboxd import __version__
from sandboxd.doctor.asking import look_at_daemon, look_at_names, look_at_ports, run_quietly
from sandboxd.doctor.facts import AppArmorFacts, Facts, Place
from sandboxd.errors import SandboxdError
from sandboxd.isolation import hints
from sandboxd.isolation.facts import HostFacts, LimitFacts
from sandboxd.launch import interpreter, probes
from sandboxd.limits import hierarchy
from sandboxd.limits.delegation import root_of
from sandboxd.settings import Settings, manager_socket
from sandboxd.store import config

T = TypeVar("T")
INOTIFY = ("fs.inotify.max_user_watches", "fs.inotify.max_user_instances")
SETTINGS = (*hints.SETTINGS, *INOTIFY, "fs.pipe-user-pages-soft", "kernel.pid_max")
PEERS = {"git": "--version", "curl": "--version", "node": "--version", "npm": "--version", "java": "-version"}
ADMIN = 1 << 21  # CAP_SYS_ADMIN
FIRST_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO of linux/proc_ns.h
PROFILES = "/etc/apparmor.d"


class Seen:
    """Who looks, for whom, and what could not be looked at."""

    def __init__(self, environ: Mapping[str, str], command: str) -> None:
        self.command = command
        self.failed: dict[str, str] = {}
        self.root = os.geteuid() == 0
        sudo = environ.get("SUDO_UID", "")
        self.uid = int(sudo) if self.root and sudo.isdigit() else os.geteuid()
        self.environ = dict(environ)
        if self.uid != os.geteuid():  # what sudo left of the environment is root's
            known = pwd.getpwuid(self.uid)
            runtime = f"/run/user/{self.uid}"
            self.environ = {"HOME": known.pw_dir, "USER": known.pw_name, "PATH": environ.get("PATH", "")}
            self.environ |= {"XDG_RUNTIME_DIR": runtime} if os.path.isdir(runtime) else {}
            self.environ |= {name: value for name, value in environ.items() if name.startswith("SANDBOXD_")}
        self.name = self.part("user", lambda: pwd.getpwuid(self.uid).pw_name, str(self.uid))
        self.user = None if self.uid == os.geteuid() else self.uid

    def part(self, name: str, look: Callable[[], T], default: T) -> T:
        """What `look` finds; the default where it cannot."""
        try:
            return look()
        except (SandboxdError, OSError, ValueError, KeyError) as error:
            self.failed[name] = str(error) or type(error).__name__
            return default


def look(environ: Mapping[str, str], command: str = "sandbox") -> Facts:
    """Everything. command: how this program is called, for fixes that call it again."""
    seen = Seen(environ, command)
    settings = seen.part("settings", lambda: config.load(seen.environ, seen.uid).settings, None)
    if settings is None:  # a file that cannot be meant does not hide what the environment says
        settings = seen.part("settings", lambda: Settings.from_environ(seen.environ, seen.uid), None)
    host = seen.part("host", lambda: probes.probe_host(seen.user), None)
    found = Facts(
        version=__version__,
        uid=seen.uid,
        user=seen.name,
        root=seen.root,
        command=command,
        kernel=os.uname().release,
        host=host,
        settings={name: probes.read_setting(name) for name in SETTINGS},
        features=seen.part("features", lambda: probes.probe_features(seen.user), {}),
        pressure=look_at_pressure(),
        rlimits=look_at_rlimits(),
        container=seen.part("container", container_of, ""),
        nested=seen.part("nested", is_nested, False),
        powerless=seen.uid == 0 and not seen.part("capabilities", is_admin, True),
        runtime=seen.environ.get("XDG_RUNTIME_DIR", ""),
        apparmor=seen.part("apparmor", look_at_apparmor, AppArmorFacts()),
        clock=time.time(),
        newest=os.stat(__file__).st_mtime,
        **look_at_system(seen),
    )
    if settings is not None:
        found = msgspec.structs.replace(
            found,
            limits=seen.part("limits", lambda: look_at_groups(seen, settings, host), None),
            state=look_at_place(settings.state_dir),
            runtime_place=look_at_place(settings.socket.parent),
            daemon=seen.part("daemon", lambda: look_at_daemon(settings, seen.uid), found.daemon),
            addresses=seen.part("addresses", lambda: look_at_ports(settings.listen), found.addresses),
        )
    names = seen.part("names", look_at_names, found.names)
    return msgspec.structs.replace(found, names=names, peers=look_at_peers(), failed=seen.failed)


def look_at_system(seen: Seen) -> dict[str, Any]:
    """Which distribution, and whether systemd runs for the machine and for this user."""
    release: dict[str, str] = seen.part("system", platform.freedesktop_os_release, {})
    manager = os.path.exists(f"/run/user/{seen.uid}/systemd/private")
    linger = None
    if os.path.isdir("/run/systemd/system"):
        linger = os.path.exists(f"/var/lib/systemd/linger/{seen.name}")  # as loginctl show-user says, without asking a bus
    return {
        "system": release.get("PRETTY_NAME", ""),
        "family": f"{release.get('ID', '')} {release.get('ID_LIKE', '')}".strip(),
        "systemd": os.path.isdir("/run/systemd/system"),
        "manager": manager,
        "linger": linger,
    }


def look_at_pressure() -> str:
    """`yes`, or why /proc/pressure cannot be read: psi=0 gives EOPNOTSUPP, a kernel without CONFIG_PSI has no such file."""
    try:
        Path("/proc/pressure/memory").read_text()
    except OSError as error:
        return {errno.ENOENT: "absent", errno.EOPNOTSUPP: "off"}.get(error.errno or 0, str(error.strerror))
    return "yes"


def look_at_rlimits() -> dict[str, int]:
    """Hard ceilings of this session that envs inherit; -1: none."""
    found = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC, "memlock": resource.RLIMIT_MEMLOCK}
    return {name: resource.getrlimit(which)[1] for name, which in found.items()}


def container_of() -> str:
    """Which kind of container this is, as far as it can be told from inside; empty: none.

    Marker files alone prove nothing: machines are made from container images. The first pid namespace has a number of its own.
    """
    if os.readlink("/proc/self/ns/pid") == FIRST_PID_NAMESPACE:
        return ""
    if os.path.exists("/run/.containerenv"):
        return "podman"
    if os.path.exists("/.dockerenv"):
        return "docker"
    try:
        return Path("/run/systemd/container").read_text().strip()
    except OSError:
        pass
    try:
        told = Path("/proc/1/environ").read_bytes().split(b"\0")
        return next((word[10:].decode(errors="replace") for word in told if word.startswith(b"container=")), "")
    except OSError:
        return ""


def is_admin() -> bool:
    """Whether we have CAP_SYS_ADMIN; root of a container often has not."""
    status = Path("/proc/self/status").read_text()
    return bool(int(status.partition("CapEff:")[2].split(None, 1)[0], 16) & ADMIN)


def is_nested() -> bool:
    """Whether this is not the first user namespace: there all uids are mapped to themselves (user_namespaces(7))."""
    return Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]


def look_at_groups(seen: Seen, settings: Settings, host: HostFacts | None) -> LimitFacts | None:
    """With what limits could be enforced: by the control group that a launcher would live in, started as it would be."""
    if host is None:
        return None
    named = settings.cgroup
    manager = manager_socket(seen.environ, seen.uid)
    if not named and "SANDBOXD_DIR" not in seen.environ and manager is not None and manager.is_socket():
        # Its scopes are made by the service manager (client.unit), with what that one has been delegated itself.
        named = f"/user.slice/user-{seen.uid}.slice/user@{seen.uid}.service" if seen.uid else "/system.slice"
    root = root_of(hierarchy.look("self", named))
    there = settings.state_dir
    while not there.exists():
        there = there.parent
    return msgspec.structs.replace(
        host.limits, controllers=list(root.controllers), reason=root.reason, fix=root.fix, devices=hierarchy.disks(str(there))
    )


def look_at_apparmor() -> AppArmorFacts:
    """AppArmor's state, and our copied interpreter's."""
    path = interpreter.copy_path()
    wrong = interpreter.what_is_wrong(path)
    label = ""
    if not wrong:
        told = run_quietly([path, "-I", "-S", "-c", "print(open('/proc/self/attr/apparmor/current').read())"])
        label = told[1].strip()
    try:
        enabled = Path("/sys/module/apparmor/parameters/enabled").read_text().strip() == "Y"
    except OSError:
        enabled = False
    return AppArmorFacts(
        enabled=enabled,
        parser=shutil.which("apparmor_parser", path="/usr/sbin:/sbin:/usr/bin") is not None,
        profile=os.path.exists(f"{PROFILES}/sandboxd"),
        copy={"": "good", "missing": ""}.get(wrong, wrong),
        copy_path=path,
        source=interpreter.original(),
        trusted=not interpreter.not_roots_alone(interpreter.original()),
        label=label,
    )


def look_at_peers() -> dict[str, str]:
    """Versions of programs that people use in envs; "" where there is none. None of them is needed."""
    found = {}
    for name, flag in PEERS.items():
        program = shutil.which(name)
        said = "" if program is None else run_quietly([program, flag])[1].strip()
        found[name] = said.splitlines()[0][:120] if said else ""
    return found


def look_at_place(path: Path) -> Place:
    """A directory, or the nearest one above it where it is to be made."""
    there = path
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    try:
        found = os.lstat(path) if there == path else None
        room = os.statvfs(there)
        kind, options = mount_of(os.path.realpath(there))
    except OSError as error:
        return Place(path=str(path), error=error.strerror or str(error))
    return Place(
        path=str(path),
        mode=None if found is None else found.st_mode & 0o7777,
        uid=None if found is None else found.st_uid,
        is_directory=os.path.isdir(there),
        writable=os.access(there, os.W_OK | os.X_OK),
        kind=kind,
        options=options,
        free=room.f_bavail * room.f_frsize,
        inodes=room.f_favail if room.f_files else None,  # btrfs counts none
    )


def mount_of(path: str) -> tuple[str, list[str]]:
    """Kind and options of the file system that a path is on, from mountinfo (proc(5)); the last mount at a place is on top."""
    kind, options, longest = "", "", -1
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        at = fields[4].encode().decode("unicode_escape")
        if f"{path}/".startswith(f"{at.rstrip('/')}/") and len(at) >= longest:
            kind, options, longest = after.split()[0], fields[5], len(at)
    return kind, options.split(",")
