"""Looks at the paths that one spec names: workspace, home, toolchains, mounts, and what in them the env must not touch.

Imports the standard library, `errors`, `isolation` and `spec`. Raises WorkspaceInvalid or SpecInvalid with what, where and
why before anything is made. Sources leave here resolved: the child follows no link on the way to them, so whoever swaps one
in afterwards gets an error and not another directory.
"""

import functools
import os
import pwd
import stat
import sys
from pathlib import Path

from sandboxd.errors import SpecInvalid, WorkspaceInvalid
from sandboxd.isolation import toolchains
from sandboxd.isolation.facts import MountFact, PlaceFacts
from sandboxd.launch.guards import guard, small_text
from sandboxd.launch.repository import mounts_of, repository_of
from sandboxd.spec import EnvSpec, Mount

NOBODY = 65534
DEFAULT_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
# Neither these nor anything in them can be a workspace; the second are too much by themselves.
SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc",
    "/proc",
    "/sys",
    "/dev",
    "/boot",
    "/nix",
    "/snap",
)
SHARED = (
    "/",
    "/home",
    "/root",
    "/tmp",
    "/var",
    "/var/tmp",
    "/run",
    "/opt",
    "/srv",
    "/mnt",
    "/media",
    "/run/media",
    "/run/user",
)
OWN = ("/proc", "/sys", "/dev", "/.sandboxd")
LINKS_LIMIT = 512


def look_at(spec: EnvSpec, *, environ: dict[str, str], env_dir: Path, uid: int) -> PlaceFacts:
    """The facts, or WorkspaceInvalid, SpecInvalid. environ: the caller's; env_dir: S/envs/ID; uid: the daemon's."""
    runs_as = NOBODY if uid == 0 and spec.isolation.user != "root" else uid
    home = home_of(environ, uid)
    real_home = resolve(home)
    place = str(env_dir)
    hide = hidden(place.rsplit("/", 2)[0])  # S of S/envs/ID
    workspace = look_at_workspace(spec.workspace.path, real_home, hide, runs_as if uid == 0 else None)
    mounts = [look_at_mount(mount, hide) for mount in spec.mounts]
    mounts += look_at_repository(workspace, [mount.source for mount in mounts], hide)
    writable = [mount.source for mount in mounts if not mount.readonly and not mount.file]
    writable += [workspace] if workspace else []
    guards = guard(writable, own_code())
    readonly_home = spec.isolation.home == "readonly"
    if readonly_home and uid == 0 and runs_as != 0:
        raise SpecInvalid('isolation.home = "readonly" shows root\'s home to an env that is not root', key="isolation.home")
    seen = [*writable, *[mount.source for mount in mounts]]
    tools = [] if readonly_home else find_tools(environ.get("PATH", ""), real_home, seen, hide)
    if runs_as != uid:  # root's own toolchains, where nobody may not go, are not shown: what is not there is not promised
        tools = [tool for tool in tools if not where_stopped(tool, runs_as)]
    shared = spec.network.mode == "host"
    return PlaceFacts(
        home=home,
        env_home=f"{place}/home",
        user="root" if spec.isolation.user == "root" else user_name(runs_as),
        workspace=workspace,
        real_home=real_home if readonly_home else None,
        tools=tools,
        path=path_inside(environ.get("PATH", ""), [*tools, *seen, *([real_home] if readonly_home else [])]),
        mounts=mounts,
        protect=guards.protect,
        pins=guards.pins,
        blank=guards.blank,
        hide=hide,
        own=[path for path in own_code() if is_in(path, writable)],
        secrets=secrets_of(real_home) if readonly_home else [],
        resolv_conf=small_text("/etc/resolv.conf") if shared else "",
        hosts=small_text("/etc/hosts") if shared else "",
        foreign=runs_as != os.geteuid(),
    )


def home_of(environ: dict[str, str], uid: int) -> str:
    """The home's path as programs will be told."""
    named = environ.get("HOME", "")
    if not named.startswith("/"):
        try:
            named = pwd.getpwuid(uid).pw_dir
        except KeyError:
            named = "/"
    home = os.path.normpath(utf8(named, "HOME"))
    return "/home" if home in SHARED and home != "/root" else home


@functools.cache
def user_name(uid: int) -> str:
    """The name of a uid, or its number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@functools.cache
def hidden(state: str) -> list[str]:
    """The daemon's own directories: state and sockets."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    own = [state, f"{runtime}/sandboxd" if runtime else f"/tmp/sandboxd-{os.getuid()}"]
    return list(dict.fromkeys(resolve(path) for path in own))


@functools.cache
def default_path() -> list[str]:
    """The system's directories of programs."""
    return [name for name in DEFAULT_PATH if os.path.isdir(name)]


# -- workspace ---------------------------------------------------------------------------------------------------------------


def look_at_workspace(path: str | None, home: str, hide: list[str], runs_as: int | None) -> str | None:
    """The workspace, resolved; runs_as: the uid that has to get there, where that is not ours."""
    if path is None:
        return None
    utf8(path, "workspace")
    if not path.startswith("/"):
        raise WorkspaceInvalid(f"workspace {path!r} is not an absolute path", hint="give its full path", key="workspace.path")
    real = utf8(resolve(path), "workspace")
    refuse_workspace(real, home, hide)
    try:
        if not stat.S_ISDIR(os.stat(real).st_mode):
            raise WorkspaceInvalid(
                f"workspace {real} is not a directory", hint="name the project's directory", key="workspace.path"
            )
    except FileNotFoundError:
        raise WorkspaceInvalid(f"workspace {real} does not exist", hint=f"mkdir -p {real}", key="workspace.path") from None
    except OSError as error:
        raise WorkspaceInvalid(f"workspace {real} cannot be reached: {error.strerror}", key="workspace.path") from error
    if not os.access(real, os.R_OK | os.X_OK, effective_ids=True):  # as whom files are looked at now, not as who started us
        raise WorkspaceInvalid(
            f"workspace {real} cannot be read by uid {os.getuid()}", hint=f"chmod u+rx {real}", key="workspace.path"
        )
    if runs_as is not None:
        reachable(real, runs_as)
    return real


def refuse_workspace(real: str, home: str, hide: list[str]) -> None:
    """What must not be handed to an env for writing."""
    hint = "use a directory of its own for the project"
    if real in SHARED or is_in(real, [*SYSTEM]):
        raise WorkspaceInvalid(f"workspace {real} is a directory of the system", hint=hint, key="workspace.path")
    if f"{home}/".startswith(f"{real}/"):
        raise WorkspaceInvalid(
            f"workspace {real} is or holds your home, with all your keys in it", hint=hint, key="workspace.path"
        )
    if real.startswith(f"{home}/") and toolchains.is_secret(os.path.relpath(real, home)):
        raise WorkspaceInvalid(f"workspace {real} is where secrets are kept", hint=hint, key="workspace.path")
    if is_in(real, hide):
        raise WorkspaceInvalid(f"workspace {real} lies in sandboxd's own directory", hint=hint, key="workspace.path")
    if is_in(real, own_code()):
        raise WorkspaceInvalid(f"workspace {real} lies in sandboxd's own code", hint=hint, key="workspace.path")


def reachable(path: str, uid: int) -> None:
    """Raise WorkspaceInvalid unless a uid with no groups can walk to `path` and read it."""
    walked = where_stopped(path, uid)
    if walked:
        raise WorkspaceInvalid(
            f"workspace {path}: root's envs run as uid {uid}, which cannot enter {walked}",
            hint=f"move it to where uid {uid} may read it, or ask for root by name: --user root",
            key="workspace.path",
        )


def where_stopped(path: str, uid: int) -> str:
    """The first directory on the way to `path` that a uid with no groups cannot enter, or empty."""
    walked = "/"
    for part in ["", *path.strip("/").split("/")]:
        walked = os.path.join(walked, part)
        status = os.stat(walked)
        bits = status.st_mode >> 6 if status.st_uid == uid else status.st_mode
        needed = 0o5 if walked == path else 0o1
        if bits & needed != needed:
            return walked
    return ""


def look_at_repository(workspace: str | None, seen: list[str], hide: list[str]) -> list[MountFact]:
    """What is shown of a linked worktree's repository; nothing where it is shown already, or must not be."""
    found = repository_of(workspace, os.stat(workspace).st_uid) if workspace is not None else None
    if found is None or is_in(found.common, [*seen, *hide, *SYSTEM]) or not is_utf8(found.common):
        return []
    return mounts_of(found)


# -- mounts, toolchains, texts -----------------------------------------------------------------------------------------------


def look_at_mount(mount: Mount, hide: list[str]) -> MountFact:
    """One mount with its source resolved."""
    key = f"mounts: {mount.source}:{mount.target}"
    for path in (mount.source, mount.target):
        utf8(path, "mount")
        if not path.startswith("/"):
            raise SpecInvalid(f"mount {path!r} is not an absolute path", hint="give its full path", key=key)
    target = os.path.normpath(mount.target)
    if target == "/" or is_in(target, [*OWN]):
        raise SpecInvalid(f"nothing can be mounted at {target}: it is the env's own", hint="mount it elsewhere", key=key)
    real = utf8(resolve(mount.source), "mount")
    if real == "/" or is_in(real, ["/proc", "/sys"]):
        raise SpecInvalid(
            f"{real} cannot be shown: it has the host's processes in it", hint="mount what is needed of it", key=key
        )
    if is_in(real, hide):
        raise SpecInvalid(f"{real} is sandboxd's own directory and is never shown", key=key)
    if not mount.readonly and is_in(real, own_code()):
        raise SpecInvalid(
            f"{real} is sandboxd's own code", hint=f"show it read-only: {mount.source}:{mount.target}:ro", key=key
        )
    if not os.path.exists(real):
        raise SpecInvalid(
            f"mount source {mount.source} does not exist, or cannot be reached", hint=f"mkdir -p {mount.source}", key=key
        )
    return MountFact(source=real, target=target, readonly=mount.readonly, file=not os.path.isdir(real))


def find_tools(path: str, home: str, seen: list[str], hide: list[str]) -> list[str]:
    """Directories below the home that the programs on PATH need."""
    found: list[str] = []
    for named in path.split(":"):
        outside = not named.startswith("/") or is_in(named, [*SYSTEM])
        directory = "" if outside else resolve(named)
        if directory.startswith(f"{home}/") and os.path.isdir(directory):
            found += tools_of(directory, home)
    kept = [tool for tool in found if os.path.exists(tool) and resolve(tool) == tool and is_utf8(tool)]
    return [tool for tool in toolchains.outermost(kept) if not is_in(tool, [*seen, *hide])]


def tools_of(directory: str, home: str) -> list[str]:
    """What one directory of programs needs, those that its links and its pyvenv.cfg lead to included."""
    found = toolchains.needed(directory, home, is_prefix=is_prefix(os.path.dirname(directory)))
    leads = []
    try:
        with os.scandir(directory) as entries:
            for entry, _ in zip(entries, range(LINKS_LIMIT), strict=False):
                if entry.is_symlink():
                    leads.append(resolve(entry.path))
    except OSError:
        return found
    for line in small_text(os.path.join(os.path.dirname(directory), "pyvenv.cfg")).splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "home":
            leads.append(os.path.join(resolve(value.strip()), "python"))
    for lead in leads:
        if lead.startswith(f"{home}/") and toolchains.is_known(lead, home):
            found += toolchains.needed(os.path.dirname(lead), home, is_prefix=False)
    return found


def is_prefix(directory: str) -> bool:
    """Whether this is an installation of its own: a virtual or a conda environment."""
    return os.path.isfile(os.path.join(directory, "pyvenv.cfg")) or os.path.isdir(os.path.join(directory, "conda-meta"))


def path_inside(path: str, shown: list[str]) -> str:
    """PATH without what cannot be seen inside."""
    visible = [*SYSTEM, "/opt", "/run/current-system", *shown]
    kept = []
    for named in path.split(":"):
        if named.startswith("/") and is_utf8(named) and (is_in(named, visible) or is_in(resolve(named), visible)):
            kept.append(named)
    return ":".join(dict.fromkeys([*kept, *default_path()]))


def is_in(path: str, places: list[str]) -> bool:
    """Whether a path is one of the places or lies in one."""
    return f"{path}/".startswith(tuple([f"{place}/" for place in places]))


def secrets_of(home: str) -> list[tuple[str, bool]]:
    """The secrets that are there, as (path, is it a file)."""
    try:
        named = [name for name in os.listdir(home) if toolchains.looks_secret(name) and is_utf8(name)]
    except OSError:
        named = []
    paths = [os.path.join(home, name) for name in dict.fromkeys([*toolchains.SECRETS, *named])]
    return [(path, not os.path.isdir(path)) for path in paths if os.path.exists(path) and resolve(path) == path]


def resolve(path: str) -> str:
    """The path without links, of a missing one as far as it is there. One open: realpath asks for each name on the way."""
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return os.path.realpath(path)
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


@functools.cache
def own_code() -> list[str]:
    """The code that guards the env: this package, and the virtual environment it runs from."""
    found = [str(Path(__file__).resolve().parent.parent)]
    if sys.prefix != sys.base_prefix:
        found.append(os.path.realpath(sys.prefix))
    return found


def is_utf8(path: str) -> bool:
    """Whether a path can travel in JSON."""
    try:
        path.encode()
    except UnicodeEncodeError:  # Python shows a byte that is no text as a lone surrogate
        return False
    return True


def utf8(path: str, what: str) -> str:
    """The path, or SpecInvalid."""
    if "\0" in path or not is_utf8(path):
        raise SpecInvalid(f"{what} {path!r} is not valid UTF-8 text", hint="rename it", key=what)
    return path
