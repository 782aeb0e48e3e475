"""What was seen: of this host (`HostFacts`), and of the paths that one spec names (`PlaceFacts`).

Pure data; `launch.probes` looks. An `Offer` says of one wall whether the host gives it, and if not why, and the exact fix.
Paths are absolute, free of symbolic links where they are sources, and valid UTF-8.
"""

from typing import Literal

import msgspec

# The walls of this version, in the order in which people meet them, and those that have their place kept.
WALLS = ("user", "mount", "pid", "net", "ipc", "uts", "cgroup", "proc", "capabilities", "no_new_privs", "landlock", "seccomp")
LATER: tuple[str, ...] = ()


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """One wall on this host; `reason` why not, `fix` what to type so that it is."""

    offered: bool
    reason: str = ""
    fix: str = ""


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """The host's tree as far as envs see it.

    directories: (path, where it really lies). links: (path, text) of symbolic links at the root. system: parts of /sys.
    nodes: harmless devices. resolv_conf, hosts: where these files end inside, once links are followed ("": the host has none).
    home: of the daemon's user, made ahead because most envs will want it. memory: bytes of RAM. groups: an env has control
    groups of its own, which it may look at. queues: the kernel has POSIX message queues. sealed: what of /proc is the whole
    kernel's to set; hidden: what tells of it, as (path, is it a file). subids: tables of ids that only setuid helpers can give.
    """

    directories: list[tuple[str, str]]
    links: list[tuple[str, str]]
    system: list[str]
    nodes: list[str]
    resolv_conf: str = ""
    hosts: str = ""
    foreign: bool = False
    home: str = ""
    memory: int = 1 << 30
    groups: bool = False
    queues: bool = False
    sealed: list[str] = []
    hidden: list[tuple[str, bool]] = []
    subids: list[str] = []


class LimitFacts(msgspec.Struct, frozen=True, kw_only=True):
    """With what this host lets limits be enforced.

    controllers: those of cgroup v2 that are delegated to us; without any, `reason` and `fix` say why and what to do about it.
    cpus: the numbers of those we may run on. hard: our own hard rlimits, which no env can have more of (-1: none).
    devices: the disks behind our state directory as "MAJOR:MINOR", for limits of disk traffic. unbound: why the router that
    runs cannot bound the connections to an env, if it cannot.
    """

    controllers: list[str] = []
    reason: str = "it was never looked for"
    fix: str = ""
    cpus: list[int] = []
    hard: dict[str, int] = {}
    devices: list[str] = []
    unbound: str = ""


class HostFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What this host offers. proc: which procfs can be mounted. groups: names of groups that give power over the host.
    egress: whether an env with a network of its own can be led to the relay, and so be given a way out.

    landlock: the kernel's newest ABI of it, 0 where it has none. machine: as of uname(2). listener: whether a filter may have
    one, so that refused system calls can be told.
    """

    walls: dict[str, Offer]
    proc: Literal["full", "subset", "none"]
    layout: Layout
    kernel: str = ""
    landlock: int = 0
    machine: str = "x86_64"
    listener: bool = True
    groups: list[str] = []
    limits: LimitFacts = LimitFacts()
    egress: Offer = Offer(offered=False, reason="it was never probed")


class MountFact(msgspec.Struct, frozen=True, kw_only=True):
    """A mount asked for, its source resolved."""

    source: str
    target: str
    readonly: bool
    file: bool


class PlaceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of one spec's paths.

    workspace: resolved, or None. home: the env's $HOME as a path inside; env_home: the directory that is shown there, or with
    `real_home` the real one read-only. tools: toolchain directories to show. path: PATH inside. mounts: those asked for.
    protect: what lies in a writable mount and must not be written from inside, as (path, is it a file); pins: directories on
    the way to it, which must not be renamed; blank: directories to be made there, empty and read-only. hide: directories
    that must stay invisible wherever a mount would show them. own: what of sandboxd's own code lies in what can be written.
    foreign: whether it runs as somebody else than the daemon.
    secrets: of the real home, where that is shown. resolv_conf, hosts: the host's own, for `--network host`.
    """

    home: str
    env_home: str
    user: str
    workspace: str | None = None
    real_home: str | None = None
    tools: list[str] = []
    path: str = "/usr/local/bin:/usr/bin:/bin"
    mounts: list[MountFact] = []
    protect: list[tuple[str, bool]] = []
    pins: list[str] = []
    blank: list[str] = []
    hide: list[str] = []
    own: list[str] = []
    secrets: list[tuple[str, bool]] = []
    resolv_conf: str = ""
    hosts: str = ""
    foreign: bool = False
