"""Looks: at the host (each wall tried in a throwaway child, the layout of its tree), once; and at the paths of one spec.

Imports the standard library, `errors`, `kernel`, `isolation` and `spec`. What is decided from it is `isolation.plan`'s.
Looking at a spec resolves every path that will be shown, so that the child can refuse to follow any link later.
"""

import grp
import json
import os
import pwd
import resource
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sandboxd.errors import LaunchFailed
from sandboxd.isolation import hints
from sandboxd.isolation.facts import WALLS, HostFacts, Layout, LimitFacts, Offer
from sandboxd.launch import places
from sandboxd.launch.interpreter import interpreter
from sandboxd.launch.places import look_at

__all__ = ["look_at", "look_at_layout", "probe_features", "probe_host"]

PROGRAM = Path(__file__).with_name("attempts.py")
TIMEOUT = 60.0  # seconds; a third of what the unit gives a start: in a busy emulated guest 30 were too few
FEATURES = ("overlay", "nft")
# What a program may need of the host, and nothing that tells of its users: no /var, /run, /srv, /root, /home, /mnt, /boot.
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/nix", "/gnu", "/snap")
# Of what docker masks (oci/defaults.go) that which tells of other users or which root outside could write, capabilities or not;
# each is a mount more for every env.
SEALED = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs")
SUBIDS = ("/etc/subuid", "/etc/subgid")
HIDDEN = tuple(f"/proc/{name}" for name in ("kcore", "keys", "timer_list", "sched_debug", "latency_stats", "acpi", "scsi"))
SYSFS = ("/sys/devices/system", "/sys/kernel/mm")  # how many processors and nodes there are, and how pages behave
NODES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")
LINKS = ("/run/current-system",)  # NixOS finds its programs through it
POWERFUL = ("docker", "podman", "lxd", "incus", "libvirt", "kvm", "adm", "disk", "sudo", "wheel", "systemd-journal", "shadow")


def probe_host(user: int | None = None) -> HostFacts:
    """What this host offers, tried for real; about 0.1 s. Raises LaunchFailed when the trial itself cannot be run.

    user: whom root asks for, since what it offers depends on who asks.
    """
    failed = try_all((), user)
    settings = {name: read_setting(name) for name in hints.SETTINGS}
    walls = {wall: Offer(offered=True) if not failed[wall] else hints.explain(wall, failed[wall], settings) for wall in WALLS}
    if failed["landlock"]:
        walls["landlock"] = hints.without_landlock(failed["landlock"])
    return HostFacts(
        walls=walls,
        proc="full" if not failed["proc"] else "subset" if not failed["subset"] else "none",
        layout=look_at_layout(),
        kernel=os.uname().release,
        landlock=failed["landlock_abi"],
        machine=os.uname().machine,
        listener=not failed["listener"],
        groups=powerful_groups(user),
        limits=look_at_limits(),
        egress=Offer(offered=True) if not failed["egress"] else hints.without_nftables(failed["egress"]),
    )


def look_at_limits() -> LimitFacts:
    """With what limits can be enforced, but for cgroups: whoever has some says so."""
    hard = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[1] for name in ("NOFILE", "NPROC", "DATA", "FSIZE")}
    return LimitFacts(cpus=sorted(os.sched_getaffinity(0)), hard=hard)


def probe_features(user: int | None = None) -> dict[str, int]:
    """What is no wall but depends on the host, tried for real: name -> errno (0: it works). Raises as probe_host."""
    return try_all(FEATURES, user)


def try_all(words: Sequence[str], user: int | None) -> dict[str, int]:
    """Run the program of trials, as another user where root asks for one."""
    run_as: dict[str, Any] = {}
    if user is not None:
        known = pwd.getpwuid(user)
        run_as = {"user": user, "group": known.pw_gid, "extra_groups": []}
    try:
        done = subprocess.run(
            [interpreter(), "-I", "-S", str(PROGRAM), *words],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT, check=True, cwd="/", env={}, **run_as,
        )  # fmt: skip
        found: dict[str, int] = json.loads(done.stdout)
        return found
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        said = getattr(error, "stderr", b"") or b""
        raise LaunchFailed(
            f"cannot find out what this host offers: {error}", hint=said.decode(errors="replace")[-400:], step="probe", errno=0
        ) from error


def read_setting(name: str) -> str:
    """A sysctl's value, or "" where there is none."""
    try:
        return Path("/proc/sys", name.replace(".", "/")).read_text().strip()
    except OSError:
        return ""


def powerful_groups(user: int | None = None) -> list[str]:
    """Groups of ours that give power over the host; an unprivileged env cannot be rid of them (setgroups is denied)."""
    found = []
    known = None if user is None else pwd.getpwuid(user)
    for gid in os.getgroups() if known is None else os.getgrouplist(known.pw_name, known.pw_gid):
        try:
            name = grp.getgrgid(gid).gr_name
        except KeyError:
            continue
        if name in POWERFUL:
            found.append(name)
    return sorted(found)


def look_at_layout() -> Layout:
    """The host's tree as far as envs see it."""
    directories: list[tuple[str, str]] = []
    links: list[tuple[str, str]] = []
    for path in SYSTEM:
        real = os.path.realpath(path)
        if os.path.islink(path) and any(real.startswith(f"{other}/") for other in SYSTEM):
            links.append((path, os.readlink(path)))
        elif os.path.isdir(real) and real != "/":
            directories.append((path, real))
    links += [(path, os.readlink(path)) for path in LINKS if os.path.islink(path)]
    return Layout(
        directories=directories,
        links=links,
        system=[part for part in SYSFS if os.path.isdir(part)],
        nodes=[node for node in NODES if os.path.exists(node)],
        resolv_conf=where_it_ends("/etc/resolv.conf"),
        hosts=where_it_ends("/etc/hosts"),
        home=places.home_of({}, os.geteuid()),
        queues=os.path.isdir("/proc/sys/fs/mqueue"),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        sealed=[path for path in SEALED if os.path.exists(path)],
        hidden=[(path, not os.path.isdir(path)) for path in HIDDEN if os.path.exists(path)],
        subids=[path for path in SUBIDS if os.path.isfile(path) and not os.path.islink(path)],
    )


def where_it_ends(path: str) -> str:
    """Where a file of /etc lies inside, once links are followed: still shown from the host, or in our own /run; else ""."""
    real = os.path.realpath(path)
    shown = os.path.isfile(real) and any(real.startswith(f"{directory}/") for directory in SYSTEM)
    ours = os.path.lexists(path) and real.startswith("/run/")
    return real if shown or ours else ""
