"""The file system an env sees: an allow-list, not the host with holes in it.

Pure. System directories come read-only from the host, /proc, /dev, /tmp and /run are the env's own, $HOME is private but for
toolchains, the workspace is writable at its own path. Parents are shown before what lies in them. What is confined must not
rewrite its walls: sandbox.toml, git's hooks and config and the like are shown read-only on top, in every writable view of them,
and the directories on the way to them are mounted upon themselves, since a mount point cannot be renamed but its parent can.
"""

import posixpath

import msgspec

from sandboxd.isolation import landlock
from sandboxd.isolation.facts import Layout, MountFact, PlaceFacts
from sandboxd.isolation.steps import (
    AnyStep,
    Bind,
    Devices,
    Devpts,
    Directories,
    Enter,
    Files,
    Groups,
    Leave,
    Links,
    Loopback,
    Mask,
    Pivot,
    Proc,
    Queues,
    Sysctl,
    System,
    Tmpfs,
    Way,
)

OWN = "/.sandboxd"
GROUPS = "/sys/fs/cgroup"
QUEUES = landlock.QUEUES
EMPTY, BLANK = f"{OWN}/empty", f"{OWN}/blank"
HOSTS, RESOLV_CONF = f"{OWN}/hosts", f"{OWN}/resolv.conf"
ROOT_SIZE, RUN_SIZE = 16 << 20, 64 << 20
TOP = ("/dev", "/dev/shm", "/dev/pts", "/proc", "/sys", "/tmp", "/run", "/var", "/var/lib", "/var/cache", "/var/tmp")
INOTIFY = 64
SCRATCH = ("/tmp", "/var/tmp", "/dev/shm")
LINKS = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
    ("/var/run", "../run"),
    ("/var/lock", "../run"),
]
TMP_LEAST, TMP_MOST = 64 << 20, 2 << 30
RESOLVER = """\
# No name beyond /etc/hosts is resolved here: this env has no way out, or one by proxy only (HTTP_PROXY).
"""
RELAYED = """\
# Names are answered by sandboxd, as the host resolves them and `egress` allows: see `sandbox net`.
nameserver 198.18.83.67
options timeout:5 attempts:2
"""


def tmp_size(memory: int, limit: int | None) -> int:
    """Bytes for each of /tmp, /var/tmp and /dev/shm: a quarter of the RAM within bounds, and no more than the env's memory."""
    size = max(TMP_LEAST, min(TMP_MOST, memory // 4))
    return size if limit is None else max(1 << 20, min(size, limit))


def base_steps(
    layout: Layout, proc: str, *, network: bool, abi: int = 0, nested: bool = False, egress: bool = False
) -> list[AnyStep]:
    """What every env of this host shares; applied to a parked child before any plan is there. abi: of Landlock.

    egress: there is a way out. nested: a procfs is to be mounted inside, which the kernel refuses where parts of this one are
    covered (mount_too_revealing, fs/namespace.c).
    """
    size, resolver = tmp_size(layout.memory, None), RELAYED if egress else RESOLVER
    own = [(HOSTS, layout.hosts), (RESOLV_CONF, layout.resolv_conf)]
    trees = [(source, path) for path, source in layout.directories]
    steps: list[AnyStep] = [
        Enter(ROOT_SIZE),
        Directories(directories(layout, nested=nested)),
        Directories([EMPTY], 0o555),
        Files([(BLANK, ""), (HOSTS, ""), (RESOLV_CONF, resolver)]),
        System(
            trees=[*trees, *[(part, part) for part in layout.system]],
            files=[(ours, theirs) for ours, theirs in own if is_shown(theirs, layout)],
        ),
        Links([*layout.links, *LINKS]),
        Devices(layout.nodes),
        Devpts("/dev/pts"),
        *([Queues(QUEUES)] if layout.queues else []),
        Proc("/proc", "subset=pid" if proc == "subset" else ""),
        *([Groups(GROUPS)] if layout.groups else []),
        *[Tmpfs(scratch, size, 0o1777) for scratch in SCRATCH],
        Tmpfs("/run", RUN_SIZE, 0o755),
        Pivot(),
    ]
    if layout.resolv_conf and not is_shown(layout.resolv_conf, layout):
        steps.append(Files([(layout.resolv_conf, resolver)]))
    if abi:
        steps.append(landlock.base(abi, layout, network=network))
    if network:
        steps.append(Loopback())
    steps.append(Leave())
    if network:
        # Ports below 1024 are this network's own, and nobody in it has CAP_NET_BIND_SERVICE.
        steps.append(Sysctl("net/ipv4/ip_unprivileged_port_start", "0"))
    # Counted for the user as well, who has 128 by default: without it one env takes them all, from editors outside too.
    steps.append(Sysctl("user/max_inotify_instances", str(INOTIFY)))
    if not nested:
        steps.append(Sysctl("user/max_user_namespaces", "0"))
    if proc == "full" and not nested:  # of a subset nothing is there to be masked
        # A namespace's own: they need capabilities in it, which are there until the last step and then nowhere.
        kept = ["/proc/sys/user", *(["/proc/sys/net"] if network else [])]
        hidden = [(BLANK if is_file else EMPTY, path) for path, is_file in layout.hidden]
        steps.append(Mask(layout.sealed, kept if layout.sealed else [], hidden))
    if nested and layout.subids:
        # newuidmap has no privileges here: podman, which believes the tables, would fail where it could do with one id
        steps.append(Mask([], [], [(BLANK, path) for path in layout.subids]))
    if egress:
        steps.append(Way())
    return steps


def directories(layout: Layout, *, nested: bool = False) -> list[str]:
    """Every directory of the new root, parents first: of the home only what lies in nothing that is mounted later.

    podman will not do without a /sys/fs/cgroup, be it empty.
    """
    shown = [path for path, _ in layout.directories]
    wanted = [OWN, *TOP, *shown, *layout.system]
    wanted += [*([GROUPS] if layout.groups or nested else []), *([QUEUES] if layout.queues else [])]
    if not any(f"{layout.home}/".startswith(f"{path}/") for path in [*shown, *TOP, *[path for path, _ in layout.links], "/."]):
        wanted.append(layout.home)
    made: dict[str, None] = {}
    for path in wanted:
        names = path.strip("/").split("/")
        made.update(dict.fromkeys("/" + "/".join(names[: depth + 1]) for depth in range(len(names))))
    return [path for path in made if path != "/"]


def is_shown(path: str, layout: Layout) -> bool:
    """Whether a path lies in one of the host's trees that are shown at their own place."""
    return any(path.startswith(f"{source}/") for place, source in layout.directories if place == source)


def own_files(layout: Layout, hosts: str, resolver: str) -> Files:
    """The texts of /etc/hosts and /etc/resolv.conf, where they lie ("": as they are)."""
    files = [(HOSTS if is_shown(layout.hosts, layout) else layout.hosts, hosts)]
    files.append((RESOLV_CONF if is_shown(layout.resolv_conf, layout) else layout.resolv_conf, resolver))
    return Files([(path, text) for path, text in files if path and text])


def view_steps(place: PlaceFacts, layout: Layout, *, handed: bool) -> list[AnyStep]:
    """This env's own part of the view. handed: the private home comes as a descriptor; its path is not the env's to walk."""
    links = [*layout.links, *LINKS]
    shown = [msgspec.structs.replace(tree, target=settle(tree.target, links)) for tree in trees(place)]
    at = settle(place.home, links)
    if place.real_home is None:
        home = Bind(place.env_home, at, readonly=False, origin="handed" if handed else "host")
    else:
        home = Bind(place.real_home, at)
    binds = [home, *[Bind(tree.source, tree.target, tree.readonly, tree.file) for tree in shown]]
    for tree in shown:
        if not tree.readonly and not tree.file:
            binds += [Bind(pin, seen, readonly=False) for pin, seen in within(tree, place.pins)]
            for path, is_file in place.protect:
                binds += [Bind(path, seen, readonly=True, file=is_file) for _, seen in within(tree, [path])]
            binds += [Bind(EMPTY, seen, origin="inside") for _, seen in within(tree, place.blank)]
    everything = shown
    if place.real_home is not None:
        everything = [MountFact(source=place.real_home, target=at, readonly=True, file=False), *shown]
    for tree in everything:
        binds += [Bind(EMPTY, seen, origin="inside") for _, seen in within(tree, place.hide)]
        for path, is_file in place.secrets:
            masks = within(tree, [path]) if tree.source == place.real_home else []
            binds += [Bind(BLANK if is_file else EMPTY, seen, file=is_file, origin="inside") for _, seen in masks]
    # Stable: what lies in something comes after it, and of two at one place the later one is on top.
    return [*sorted(binds, key=lambda bind: depth(bind.target))]


def settle(target: str, links: list[tuple[str, str]]) -> str:
    """Where a path inside really lies, given the links of the root that are ours; the child follows none."""
    for path, text in links:
        if target == path or target.startswith(f"{path}/"):
            there = posixpath.normpath(posixpath.join(posixpath.dirname(path), text))
            return settle(there + target[len(path) :], [link for link in links if link[0] != path])
    return target


def is_own(path: str, place: PlaceFacts, layout: Layout) -> bool:
    """Whether a path lies in what is this env's alone: its /run, scratch and home, and nothing of the host's shown there."""
    links = [*layout.links, *LINKS]
    lies = settle(path, links)
    own = ["/run", *SCRATCH, *([settle(place.home, links)] if place.real_home is None else [])]
    shown = [settle(tree.target, links) for tree in trees(place)]
    return any(lies.startswith(f"{root}/") for root in own) and not any(f"{lies}/".startswith(f"{tree}/") for tree in shown)


def trees(place: PlaceFacts) -> list[MountFact]:
    """Toolchains, workspace and mounts."""
    shown = [MountFact(source=tool, target=tool, readonly=True, file=False) for tool in place.tools]
    if place.workspace is not None:
        shown.append(MountFact(source=place.workspace, target=place.workspace, readonly=False, file=False))
    return [*shown, *place.mounts]


def within(tree: MountFact, paths: list[str]) -> list[tuple[str, str]]:
    """Those of the paths that lie below the tree's source, each with where it is then seen."""
    root = tree.source.rstrip("/") + "/"
    return [(path, posixpath.join(tree.target, path[len(root) :])) for path in paths if path.startswith(root)]


def depth(path: str) -> int:
    """How many names a path has."""
    return len([part for part in path.split("/") if part])


def hosts_file(names: list[str], own: str) -> str:
    """/etc/hosts: the host's own lines where its network is shared, then localhost and the names of this env's services."""
    known = " ".join(dict.fromkeys(names))
    return f"{own}127.0.0.1 localhost {known}\n::1 localhost ip6-localhost ip6-loopback\n"
