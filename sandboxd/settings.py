"""What a daemon and its clients are told: paths, addresses, ceilings. Values in, `Settings` out.

Pure: the environment and the uid are arguments. `SANDBOXD_DIR=D` puts one daemon's socket, state and logs under D (tests,
side-by-side daemons); else the XDG base directories hold. `SANDBOXD_SOCKET` points a client elsewhere, `SANDBOXD_LISTEN`
is the router's address. No directory is made here: `store.rundir` makes and checks them. Paths are kept as text: every
`sandbox ps` reads settings, and pathlib is a sixth of its imports (measured).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from sandboxd.errors import UsageError
from sandboxd.units import parse_size

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_LISTEN = "127.0.0.1:7070"
BASE_DOMAIN = "localhost"
# In the state directory; there while a client waits to hear how the start of a daemon went that is no child of its own.
START_FIFO = "starting"
LOG_HINT = "see its log: `journalctl --user -u sandboxd` where it is an installed unit, else daemon.log in its directory"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One daemon's places and ceilings. pool: parked children kept ready.

    max_envs, max_starting: live envs, and such that start, at once. max_memory: bytes that the memory limits of all may add up
    to. queue, queue_wait: how many may wait for their turn, and for how many seconds. memory_reserve, memory_critical: bytes of
    the host's memory below which nothing starts (None: a twentieth), and below which the runaway among the envs is stopped
    (None: a fiftieth).

    control: the control socket; runtime: its directory by default; state: all that is kept. metrics: whether they are served
    at http://sandboxd.BASE_DOMAIN/metrics. router_workers: processes that route (0: one for each
    cpu we may use, eight at most). trusted_proxies: networks whose word on where a request came from is passed on.
    resolvers: ADDRESS:PORT of the name servers that answer envs; none: those of the host.
    max_per_source: connections of one address to each worker (0: a quarter of all and at most 1,024; of this host's, any).
    head_timeout, client_timeout, connect_timeout: seconds for the head of a request to come, for a connection to be kept
    without any, for a service to take a connection; drain_timeout: for requests that are under way to end, once it is to stop.
    """

    control: str
    runtime: str
    state: str
    listen: list[str]
    pool: int = 4
    max_envs: int = 1000
    max_starting: int = 64
    max_memory: int | None = None
    queue: int = 1000
    queue_wait: float = 60.0
    memory_reserve: int | None = None
    memory_critical: int | None = None
    hold: float = 30.0
    log_limit: int = 5 << 20
    base_domain: str = BASE_DOMAIN
    cgroup: str = ""
    metrics: bool = True
    router_workers: int = 0
    trusted_proxies: tuple[str, ...] = ()
    resolvers: tuple[str, ...] = ()
    max_per_source: int = 0
    head_timeout: float = 15.0
    client_timeout: float = 75.0
    connect_timeout: float = 10.0
    drain_timeout: float = 10.0

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], uid: int) -> "Settings":
        """Read the environment; raises UsageError for a value that cannot be meant."""
        home = environ.get("HOME") or f"/tmp/sandboxd-{uid}-home"
        own = environ.get("SANDBOXD_DIR")
        if own:
            runtime = state = absolute(own, "SANDBOXD_DIR")
        elif uid == 0:  # root's daemon is the system's, however one became root
            runtime, state = "/run/sandboxd", "/var/lib/sandboxd"
        else:
            state_home = environ.get("XDG_STATE_HOME") or f"{home}/.local/state"
            runtime_home = environ.get("XDG_RUNTIME_DIR")
            state = absolute(f"{state_home}/sandboxd", "XDG_STATE_HOME")
            runtime = absolute(f"{runtime_home}/sandboxd", "XDG_RUNTIME_DIR") if runtime_home else f"/tmp/sandboxd-{uid}"
        cgroup = environ.get("SANDBOXD_CGROUP", "")
        socket = environ.get("SANDBOXD_SOCKET")
        return cls(
            control=absolute(socket, "SANDBOXD_SOCKET") if socket else f"{runtime}/control.sock",
            runtime=runtime,
            state=state,
            listen=[address.strip() for address in environ.get("SANDBOXD_LISTEN", DEFAULT_LISTEN).split(",")],
            pool=whole(environ, "SANDBOXD_POOL", 4, low=0, high=256),
            max_envs=whole(environ, "SANDBOXD_MAX_ENVS", 1000, low=1, high=100_000),
            max_starting=whole(environ, "SANDBOXD_MAX_STARTING", 64, low=1, high=100_000),
            max_memory=size(environ, "SANDBOXD_MAX_MEMORY"),
            queue=whole(environ, "SANDBOXD_QUEUE", 1000, low=0, high=100_000),
            queue_wait=float(whole(environ, "SANDBOXD_QUEUE_WAIT", 60, low=1, high=86400)),
            memory_reserve=size(environ, "SANDBOXD_MEMORY_RESERVE"),
            memory_critical=size(environ, "SANDBOXD_MEMORY_CRITICAL"),
            log_limit=whole(environ, "SANDBOXD_LOG_LIMIT", 5 << 20, low=4096, high=1 << 40),
            cgroup=str(absolute(cgroup, "SANDBOXD_CGROUP")) if cgroup else "",
            hold=float(whole(environ, "SANDBOXD_HOLD", 30, low=0, high=3600)),
            router_workers=whole(environ, "SANDBOXD_ROUTER_WORKERS", 0, low=0, high=64),
            trusted_proxies=networks(environ, "SANDBOXD_TRUSTED_PROXIES"),
            resolvers=servers(environ, "SANDBOXD_RESOLVERS"),
            max_per_source=whole(environ, "SANDBOXD_MAX_PER_SOURCE", 0, low=0, high=1 << 20),
            head_timeout=float(whole(environ, "SANDBOXD_HEAD_TIMEOUT", 15, low=1, high=3600)),
            client_timeout=float(whole(environ, "SANDBOXD_CLIENT_TIMEOUT", 75, low=1, high=86400)),
            connect_timeout=float(whole(environ, "SANDBOXD_CONNECT_TIMEOUT", 10, low=1, high=3600)),
            drain_timeout=float(whole(environ, "SANDBOXD_DRAIN_TIMEOUT", 10, low=0, high=3600)),
            metrics=bool(whole(environ, "SANDBOXD_METRICS", 1, low=0, high=1)),
        )

    @property
    def socket(self) -> "Path":
        """The control socket."""
        return as_path(self.control)

    @property
    def runtime_dir(self) -> "Path":
        """Where the control socket is by default."""
        return as_path(self.runtime)

    @property
    def state_dir(self) -> "Path":
        """Where all that is kept is."""
        return as_path(self.state)


def as_path(text: str) -> "Path":
    """For the daemon, which has pathlib anyway."""
    from pathlib import Path  # noqa: PLC0415 - see above

    return Path(text)


def manager_socket(environ: Mapping[str, str], uid: int) -> "Path | None":
    """Where the service manager takes this user's orders, if one runs: systemd's own socket, which needs no message bus."""
    if uid == 0:
        return as_path("/run/systemd/private")
    runtime = environ.get("XDG_RUNTIME_DIR")
    return as_path(f"{runtime}/systemd/private") if runtime else None


def absolute(text: str, variable: str) -> str:
    """A path that means the same wherever the process stands."""
    if not text.startswith("/"):
        raise UsageError(f"{variable}={text!r} is not an absolute path", hint=f"set {variable} to a path that starts with /")
    return "/" + "/".join(part for part in text.split("/") if part not in ("", "."))


def whole(environ: Mapping[str, str], variable: str, default: int, *, low: int, high: int) -> int:
    """A whole number from the environment, within its bounds."""
    text = environ.get(variable)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
        raise UsageError(f"{variable}={text!r} is no whole number from {low} to {high}", hint=f"unset it for {default}")
    return int(text)


def networks(environ: Mapping[str, str], variable: str) -> tuple[str, ...]:
    """Addresses and networks from the environment, as "10.0.0.0/8,::1"."""
    text = environ.get(variable)
    if not text:
        return ()
    import ipaddress  # noqa: PLC0415 - of all settings of all commands only this one needs it

    found = tuple(part.strip() for part in text.split(","))
    for part in found:
        try:
            ipaddress.ip_network(part, strict=False)
        except ValueError:
            hint = f"as {variable}=10.0.0.0/8,::1"
            raise UsageError(f"{variable}: {part!r} is neither an address nor a network", hint=hint) from None
    return found


def servers(environ: Mapping[str, str], variable: str) -> tuple[str, ...]:
    """ADDRESS:PORT of name servers from the environment, as "127.0.0.1:53,[::1]:53"."""
    found = tuple(part.strip() for part in environ.get(variable, "").split(",") if part.strip())
    for part in found:
        address, _, port = part.rpartition(":")
        if not address or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
            raise UsageError(f"{variable}: {part!r} is not ADDRESS:PORT", hint=f"as {variable}=127.0.0.1:53")
    return found


def size(environ: Mapping[str, str], variable: str) -> int | None:
    """Bytes from the environment, as 512m; None where nothing is said."""
    text = environ.get(variable)
    if text is None:
        return None
    try:
        return parse_size(text)
    except UsageError as error:
        raise UsageError(f"{variable}={text!r}: {error.message}", hint=error.hint) from error
