"""Flags of `run` into an `EnvSpec`, and a spec file's relative paths into absolute ones.

Pure: the caller's directory, environment and the texts of env files are arguments. Imports spec, units and errors only.
Invariant: what cannot be meant is refused here with the flag's name in the message; what this version does not have is
passed on where the spec can say it (the daemon refuses it by name), else refused here by name.
"""

import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from sandboxd.cli.ceilings import LimitFlags, changes, nofile, whole
from sandboxd.errors import NameInvalid, NotOffered, SandboxdError, SpecInvalid, UsageError
from sandboxd.spec import EnvSpec, Idle, Isolation, Lifecycle, Limits, Mount, Network, Publish, Service, Workspace
from sandboxd.units import parse_duration

SERVICE = "main"
"""The name of the one service of an env made by `run`."""

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
LONGEST = 63  # of a name of two labels, too
VARIABLE = re.compile(r"[^=\0\s][^=\0]*")

HANDED_ON = frozenset(
    ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TERM", "COLORTERM", "TZ", "NO_COLOR")
)  # fmt: skip
"""What of the caller's environment leaves this process, and LC_*: where things are, how to speak. `-e NAME` hands others on."""


class RunFlags(LimitFlags, frozen=True, kw_only=True):
    """The flags of `run` that say what the env is; the names are click's."""

    name: str | None = None
    publish: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    workdir: str | None = None
    workspace: str = "bind"
    volume: tuple[str, ...] = ()
    ulimit: tuple[str, ...] = ()
    network: Literal["private", "host", "none"] = "private"
    egress: tuple[str, ...] = ()
    forward: tuple[str, ...] = ()
    share: Literal["private", "box", "link"] | None = None
    isolation: Literal["full", "landlock", "none"] = "full"
    nested: bool = False
    restart: str = "no"
    ttl: str | None = None
    idle: str | None = None
    label: tuple[str, ...] = ()
    rm: bool = False
    interactive: bool = False
    tty: bool = False
    stop_signal: str = "TERM"
    stop_timeout: str | None = None
    user: str | None = None


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Where `run` was typed: directory (absolute), home, environment, and the env files' texts by path."""

    directory: str
    home: str
    environ: Mapping[str, str]
    env_files: tuple[tuple[str, bytes], ...] = ()


def handed_on(environ: Mapping[str, str]) -> dict[str, str]:
    """What of an environment goes to the daemon."""
    return {key: value for key, value in environ.items() if key in HANDED_ON or key.startswith("LC_")}


def spec_of(flags: RunFlags, command: Sequence[str], caller: Caller) -> EnvSpec:
    """The env that `run FLAGS -- COMMAND` asks for; raises UsageError (with the flag's name), NameInvalid, NotOffered."""
    if not command:
        raise UsageError(
            "run needs a command", hint="sandbox run -- npm run dev; for a project with a sandbox.toml: sandbox up"
        )
    routed, published = ports(flags.publish, caller.directory)
    return EnvSpec(
        name=None if flags.name is None else checked_name(flags.name),
        services={SERVICE: service_of(flags, command, routed)},
        workspace=Workspace(path=workspace_path(flags, caller)),
        env=environment(flags.env, caller),
        limits=Limits(**changes(flags), **nofile(flags.ulimit)),  # type: ignore[arg-type] # checked by the daemon
        isolation=Isolation(level=flags.isolation, user=user(flags.user), nested=flags.nested),
        network=network(flags, published),
        lifecycle=Lifecycle(ttl=lifetime(flags.ttl), idle=idle(flags.idle), restart=restart(flags.restart), remove=flags.rm),
        mounts=[mount(text, caller.directory) for text in flags.volume],
        labels=labels(flags.label),
    )


def network(flags: RunFlags, published: list[Publish]) -> Network:
    """Ways in and out."""
    given = {} if flags.share is None else {"share": flags.share}
    return Network(mode=flags.network, egress=egress(flags.egress), forward=forwards(flags.forward), publish=published, **given)


def service_of(flags: RunFlags, command: Sequence[str], routed: int | None) -> Service:
    """The one service."""
    more: dict[str, Any] = {}
    if flags.stop_timeout is not None:
        more["stop_timeout"] = max(duration("--stop-timeout", flags.stop_timeout), 0.001)  # docker's 0 is "kill at once"
    return Service(
        command=list(command), port=routed, tty=flags.tty, stdin=flags.interactive, stop_signal=flags.stop_signal, **more
    )


def checked_name(name: str) -> str:
    """A name for an env: a DNS label, or two as in BRANCH.PROJECT, since it becomes NAME.localhost."""
    parts = name.split(".")
    if len(parts) <= 2 and len(name) <= LONGEST and all(LABEL.fullmatch(part) for part in parts):
        return name
    better = as_label(name)
    raise NameInvalid(
        f"{name!r} cannot name an env: 1 to 63 of a-z, 0-9 and inner hyphens, since it becomes a host name",
        hint=f"--name {better}" if better else "--name shop",
    )


def as_label(text: str) -> str:
    """The nearest DNS label, or empty: `My App` is `my-app`."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63].strip("-")


def default_name(directory: str, branch: str | None = None) -> str | None:
    """The name of a directory's env: of a linked git worktree `branch.project`, so that checkouts of one project differ."""
    project = as_label(posixpath.basename(directory.rstrip("/")))
    if branch and project:
        label = as_label(branch)[: max(LONGEST - len(project) - 1, 0)].strip("-")
        return f"{label}.{project}" if label else project
    return project or None


def workspace_path(flags: RunFlags, caller: Caller) -> str | None:
    """The workspace: -w, else the caller's directory; None (private, empty) where that is the home or the root."""
    if flags.workspace != "bind":
        raise NotOffered(
            f"--workspace {flags.workspace}: this version has only `bind`, the live directory",
            hint="copy the directory yourself and name it with -w",
        )
    if flags.workdir is not None:
        return absolute(flags.workdir, caller.directory)
    return None if is_too_wide(caller.directory, caller.home) else caller.directory


def is_too_wide(directory: str, home: str) -> bool:
    """Whether sharing that directory unasked would share everything."""
    return posixpath.normpath(directory) in {"/", posixpath.normpath(home or "/")}


def absolute(path: str, directory: str, home: str | None = None) -> str:
    """`path` as seen from `directory`, without `..`; `~` is `home` where one is given (the shell has expanded the others)."""
    if home and (path == "~" or path.startswith("~/")):
        path = home + path[1:]
    return posixpath.normpath(posixpath.join(directory, path))


def ports(texts: Sequence[str], directory: str) -> tuple[int | None, list[Publish]]:
    """`3000` is the routed port, `[IP:]8080:3000` and `unix:PATH:3000` host addresses besides (and routed when no other is)."""
    routed: int | None = None
    published: list[Publish] = []
    for text in texts:
        if text.startswith("unix:"):
            published.append(socket(text, directory))
            continue
        bare, _, protocol = text.partition("/")
        if protocol not in {"", "tcp", "tcp+proxy"}:
            raise NotOffered(f"-p {text}: only TCP ports can be published", hint=f"-p {bare}")
        address, host, inner = split_publish(bare, text)
        port = whole(f"-p {text}", inner, 1, 65535, "port")
        if host is not None:
            host_port = whole(f"-p {text}", host, 1, 65535, "port")
            proxied = protocol == "tcp+proxy"
            published.append(Publish(host_port=host_port, port=port, address=address or "127.0.0.1", proxy_protocol=proxied))
        elif protocol == "tcp+proxy":
            raise UsageError(f"-p {text}: the routed port is told by Forwarded fields", hint=f"-p {port}:{port}/tcp+proxy")
        elif routed is not None and routed != port:
            raise UsageError(
                f"-p {text}: an env has one routed port, and -p {routed} named it already",
                hint=f"to reach it on a host port: -p {port}:{port}; several routed services: sandbox.toml and `sandbox up`",
            )
        else:
            routed = port
    if routed is None and published:
        routed = published[0].port
    return routed, published


def socket(text: str, directory: str) -> Publish:
    """`unix:PATH:PORT`, the path as it is meant where it was typed."""
    from sandboxd.specfile.words import parse_publish  # noqa: PLC0415 - few ask for it, and ipaddress is slow to import

    path = text.removeprefix("unix:")
    try:
        return parse_publish("unix:" + posixpath.join(directory, path))
    except SpecInvalid as error:
        raise UsageError(f"-p {text}: {error.message}", hint="-p unix:./shop.sock:3000") from None


def split_publish(bare: str, text: str) -> tuple[str | None, str | None, str]:
    """(address, host port, port inside) of `-p`, as text; IPv6 addresses stand in brackets."""
    address: str | None = None
    rest = bare
    if bare.startswith("["):
        address, bracket, rest = bare[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            raise UsageError(f"-p {text}: no `]:` after the IPv6 address", hint="-p [::1]:8080:3000")
        rest = rest[1:]
    parts = rest.split(":")
    if address is None and len(parts) == 3:
        address = parts.pop(0) or None
        if address == "localhost":
            address = "127.0.0.1"
        elif address is not None and not re.fullmatch(r"\d{1,3}(\.\d{1,3}){3}", address):
            raise UsageError(f"-p {text}: {address!r} is no IP address", hint="-p 127.0.0.1:8080:3000")
    if len(parts) == 1 and address is None:
        return None, None, parts[0]
    if len(parts) != 2:
        raise UsageError(f"-p {text} is neither PORT nor [IP:]HOSTPORT:PORT", hint="-p 3000 or -p 8080:3000")
    return address, parts[0], parts[1]


def environment(texts: Sequence[str], caller: Caller) -> dict[str, str]:
    """Env files in order, then `-e`; a bare NAME is the caller's value, and nothing where the caller has none (as docker)."""
    found: dict[str, str] = {}
    for path, text in caller.env_files:
        found.update(env_file(path, text, caller.environ))
    for pair in texts:
        key, equals, value = pair.partition("=")
        if not VARIABLE.fullmatch(key) or "\0" in value:
            raise UsageError(f"-e {pair}: no variable name before the `=`", hint="-e NAME=VALUE, or -e NAME for your own value")
        if equals:
            found[key] = value
        elif key in caller.environ:
            found[key] = caller.environ[key]
    return found


def env_file(path: str, text: bytes, environ: Mapping[str, str]) -> dict[str, str]:
    """docker's format: NAME=VALUE as it stands (no quotes, no expansion), NAME alone, `#` lines; raises with file and line."""
    found: dict[str, str] = {}
    try:
        lines = text.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"--env-file {path}: not UTF-8 at byte {error.start}") from error
    for number, raw in enumerate(lines, 1):
        line = raw.removesuffix("\r").lstrip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.partition("=")
        if not VARIABLE.fullmatch(key) or " " in key or "\0" in value:
            raise UsageError(f"--env-file {path}, line {number}: {key!r} is no variable name", hint="one NAME=VALUE a line")
        if equals:
            found[key] = value
        elif key in environ:
            found[key] = environ[key]
    return found


def labels(texts: Sequence[str]) -> dict[str, str]:
    """`-l K=V`; a bare K has an empty value."""
    found: dict[str, str] = {}
    for text in texts:
        key, _, value = text.partition("=")
        if not key:
            raise UsageError(f"-l {text}: a label needs a key", hint="-l team=web")
        found[key] = value
    return found


def mount(text: str, directory: str) -> Mount:
    """`-v SRC:DST[:ro]`; SRC may be relative when it has a slash, as in docker, and alone it is also DST."""
    parts = text.split(":")
    mode = parts.pop() if len(parts) == 3 or (len(parts) == 2 and parts[1] in {"ro", "rw"}) else "rw"
    if len(parts) > 2 or not all(parts) or mode not in {"ro", "rw"}:
        raise UsageError(f"-v {text} is not SRC:DST[:ro]", hint="-v ./data:/data:ro")
    source, target = parts[0], parts[-1]
    if "/" not in source and source not in {".", ".."}:
        raise NotOffered(f"-v {text}: named volumes are not offered", hint=f"name a directory: -v ./{text}")
    source = absolute(source, directory)
    if len(parts) == 1:
        target = source
    if not target.startswith("/"):
        raise UsageError(f"-v {text}: {target!r} inside the env is not absolute", hint=f"-v {parts[0]}:/{target}")
    return Mount(source=source, target=posixpath.normpath(target), readonly=mode == "ro")


def egress(texts: Sequence[str]) -> Literal["open", "none", "proxy"] | list[str] | None:
    """`open`, `none`, or rules, by commas or repeated. None: nothing was asked for."""
    hosts = [host.strip() for text in texts for host in text.split(",") if host.strip()]
    if hosts == ["open"]:
        return "open"
    if hosts in (["none"], ["proxy"]):
        return "none" if hosts == ["none"] else "proxy"
    if "none" in hosts:
        raise UsageError(f"--egress {','.join(hosts)}: none stands alone", hint="--egress registry.npmjs.org,github.com")
    return hosts or None


def forwards(texts: Sequence[str]) -> list[int | str]:
    """Ports of the host's loopback, or HOST:PORT."""
    return [text if ":" in text else whole("--forward", text, 1, 65535, "port") for text in texts]


def restart(text: str) -> str:
    """docker's policies."""
    if not re.fullmatch(r"no|on-failure(:[0-9]{1,4})?|always|unless-stopped", text):
        raise UsageError(f"--restart {text}: no such policy", hint="no, on-failure[:N], always or unless-stopped")
    return text


def user(text: str | None) -> Literal["self", "root"]:
    """`root` must be asked for by name, and is all that can be asked for."""
    if text in {None, "self"}:
        return "self"
    if text in {"root", "0", "0:0"}:
        return "root"
    raise NotOffered(f"--user {text}: an env runs as you, or as root inside", hint="--user root, or leave it out")


def lifetime(text: str | None) -> float | None:
    """`--ttl`."""
    if text is None:
        return None
    seconds = duration("--ttl", text)
    if seconds <= 0:
        raise UsageError(f"--ttl {text}: an env that lives for no time", hint="--ttl 2h")
    return seconds


def idle(text: str | None) -> Idle | None:
    """`--idle`."""
    if text is None:
        return None
    from sandboxd.specfile.words import parse_idle  # noqa: PLC0415 - the file reader's package, for one flag

    try:
        return parse_idle(text)
    except SandboxdError as error:
        raise UsageError(
            f"--idle {text}: {error.message}", hint=error.hint or "--idle 15m, or --idle suspend=5m,stop=1h"
        ) from error


def duration(flag: str, text: str) -> float:
    """Seconds from `90s` or a bare number; errors name the flag."""
    try:
        return parse_duration(text)
    except SandboxdError as error:
        raise UsageError(f"{flag} {text}: {error.message}", hint=error.hint) from error


def placed(spec: EnvSpec, directory: str, home: str) -> EnvSpec:
    """A spec file's env, seen from the file's directory: workspace there by default, relative paths made absolute."""
    path = spec.workspace.path
    at = directory if path is None else absolute(path, directory, home)
    mounts = [msgspec.structs.replace(one, source=absolute(one.source, directory, home)) for one in spec.mounts]
    workspace = msgspec.structs.replace(spec.workspace, path=at)
    return msgspec.structs.replace(spec, workspace=workspace, mounts=mounts)
