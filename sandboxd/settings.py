"""What a daemon and its clients are told: paths, addresses, ceilings. Values in, `Settings` out.

Pure: the environment, the uid and what the config file said (`config`) are arguments; the environment wins over the file.
`SANDBOXD_DIR=D` puts one daemon's socket, state, logs and config file under D (tests, side-by-side daemons); else the XDG base
directories hold. `SANDBOXD_SOCKET` points a client elsewhere. `KINDS` is the one table of what can be set: a name there is a
key of the file and, in capitals behind SANDBOXD_, a variable. No directory is made here: `store.rundir` makes and checks them.
Paths are kept as text: every `sandbox ps` reads settings, and pathlib is a sixth of its imports (measured).
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from sandboxd.errors import UsageError
from sandboxd.units import format_duration, format_size, parse_duration, parse_size, shown

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_LISTEN = "127.0.0.1:7070"
BASE_DOMAIN = "localhost"
# In the state directory; there while a client waits to hear how the start of a daemon went that is no child of its own.
START_FIFO = "starting"
LOG_HINT = "see its log: `journalctl --user -u sandboxd` where it is an installed unit, else daemon.log in its directory"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One daemon's places and ceilings. pool: parked children kept ready. pool_memory: bytes that those kept for bursts which
    templates expect may take (None: a twentieth of the host's).

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
    connection_queue, connection_timeout: how many requests may wait for a connection to one env that bounds them, for how long.
    access_log: where each request is written down, "": nowhere; access_log_limit: bytes of that file, and of the one before it.
    janitor: seconds between two looks for what belongs to no env.
    audit_limit: bytes of the log of who did what (None: 10 MiB where many are served, else 0, none).
    shared: whether root's daemon serves every user, each his own envs; admin_group: whose members see all of them.
    limits: those of an env whose spec says nothing of them, by their names in a spec; quota: what users and groups may have, as
    `spec.Quotas`. Only the config file has these.
    """

    control: str
    runtime: str
    state: str
    listen: list[str]
    pool: int = 4
    pool_memory: int | None = None
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
    connection_queue: int = 1000
    connection_timeout: float = 30.0
    access_log: str = ""
    access_log_limit: int = 50 << 20
    janitor: float = 60.0
    limits: dict[str, Any] = {}
    quota: dict[str, Any] = {}
    shared: bool = False
    admin_group: str = "sandboxd-admin"
    audit_limit: int | None = None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], uid: int, said: Mapping[str, Any] | None = None) -> "Settings":
        """Read the environment; raises UsageError for a value that cannot be meant. said: values of a config file."""
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
        socket = environ.get("SANDBOXD_SOCKET")
        given: dict[str, Any] = {"listen": [DEFAULT_LISTEN], **(said or {})}
        given.update((name, of_environ(environ, name)) for name in KINDS if variable(name) in environ)
        return cls(
            control=absolute(socket, "SANDBOXD_SOCKET") if socket else f"{runtime}/control.sock",
            runtime=runtime,
            state=state,
            **given,
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


def absolute(text: str, name: str) -> str:
    """A path that means the same wherever the process stands."""
    if not text.startswith("/"):
        named = f"{name}={text!r}" if name else repr(text)
        raise UsageError(f"{named} is not an absolute path", hint="a path that starts with /")
    return "/" + "/".join(part for part in text.split("/") if part not in ("", "."))


def config_file(environ: Mapping[str, str], uid: int) -> str:
    """Where the config file is, if there is one."""
    if named := environ.get("SANDBOXD_CONFIG"):
        return absolute(named, "SANDBOXD_CONFIG")
    if own := environ.get("SANDBOXD_DIR"):
        return f"{absolute(own, 'SANDBOXD_DIR')}/config.toml"
    if uid == 0:
        return "/etc/sandboxd/config.toml"
    home = environ.get("HOME") or f"/tmp/sandboxd-{uid}-home"
    return absolute(f"{environ.get('XDG_CONFIG_HOME') or f'{home}/.config'}/sandboxd/config.toml", "XDG_CONFIG_HOME")


# -- what can be set ---------------------------------------------------------------------------------------------------------


class Kind(Protocol):
    """How a value is read, from a text of the environment or a value of TOML, and written for people."""

    def read(self, value: object) -> Any:
        """The value; raises UsageError."""

    def write(self, value: Any) -> str:
        """It in words."""


class Whole(NamedTuple):
    """A whole number."""

    low: int
    high: int

    def read(self, value: object) -> int:
        """Digits, or a number."""
        number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
        if type(number) is not int or not self.low <= number <= self.high:
            raise UsageError(
                f"{shown(value)} is no whole number from {self.low} to {self.high}", hint="leave it out for the usual"
            )
        return number

    def write(self, value: int) -> str:
        """As it is."""
        return str(value)


class Seconds(NamedTuple):
    """A duration."""

    low: float
    high: float

    def read(self, value: object) -> float:
        """A number of seconds, or as "1m30s"."""
        found = parse_duration(value)
        if not self.low <= found <= self.high:
            bounds = f"{format_duration(self.low)} to {format_duration(self.high)}"
            raise UsageError(f"{shown(value)} is no duration from {bounds}", hint="leave it out for the usual")
        return found

    def write(self, value: float) -> str:
        """As "1m30s"."""
        return format_duration(value)


class Bytes(NamedTuple):
    """A size."""

    low: int = 0
    high: int = 1 << 62

    def read(self, value: object) -> int:
        """Bytes, or as "512m"."""
        found = parse_size(value)
        if not self.low <= found <= self.high:
            raise UsageError(f"{shown(value)} is no size from {format_size(self.low)} to {format_size(self.high)}")
        return found

    def write(self, value: int | None) -> str:
        """As "512MiB"."""
        return "" if value is None else format_size(value)


class Flag(NamedTuple):
    """Yes or no."""

    def read(self, value: object) -> bool:
        """true or false; 1 or 0 in the environment."""
        if value in ("0", "1") or isinstance(value, bool):
            return value in ("1", True)
        raise UsageError(f"{shown(value)} is neither yes nor no", hint="true or false in the file, 1 or 0 in the environment")

    def write(self, value: bool) -> str:
        """As TOML has it."""
        return "true" if value else "false"


class Place(NamedTuple):
    """An absolute path; none: nothing is said."""

    def read(self, value: object) -> str:
        """The path in its one spelling."""
        if not isinstance(value, str):
            raise UsageError(f"{shown(value)} is no path", hint="a text that starts with /")
        return absolute(value, "") if value else ""

    def write(self, value: str) -> str:
        """As it is."""
        return value


class Domain(NamedTuple):
    """A DNS name in lower case."""

    def read(self, value: object) -> str:
        """Without a dot at its end."""
        found = value.removesuffix(".").lower() if isinstance(value, str) else ""
        parts = found.split(".")
        if len(found) > 128 or not all(part.isascii() and part.replace("-", "x").isalnum() for part in parts):
            raise UsageError(f"{shown(value)} is no domain", hint="as box.example.com; *.box.example.com has to lead here")
        return found

    def write(self, value: str) -> str:
        """As it is."""
        return value


class Word(NamedTuple):
    """A word, or none."""

    def read(self, value: object) -> str:
        """As it is."""
        if not isinstance(value, str) or not value.isprintable():
            raise UsageError(f"{shown(value)} is no word", hint='as "name"')
        return value

    def write(self, value: str) -> str:
        """As it is."""
        return value


class Words(NamedTuple):
    """Several words, by commas or as a list, each as `check` has it."""

    check: Callable[[str], object]
    kind: type = tuple
    least: int = 0

    def read(self, value: object) -> Any:
        """Each without the blanks around it."""
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise UsageError(f"{shown(value)} is no list of texts", hint='as ["one", "two"]')
        found = [part.strip() for part in parts if part.strip()]
        if len(found) < self.least:
            raise UsageError(f"{shown(value)} names nothing", hint="leave it out for the usual")
        for part in found:
            self.check(part)
        return self.kind(found)

    def write(self, value: Any) -> str:
        """By commas."""
        return ", ".join(value)


def check_listen(part: str) -> None:
    """Any word: the router's own reading of addresses says what it can listen on."""


def check_network(part: str) -> None:
    """An address or a network, as 10.0.0.0/8 or ::1."""
    import ipaddress  # noqa: PLC0415 - of all settings of all commands only this one needs it

    try:
        ipaddress.ip_network(part, strict=False)
    except ValueError:
        raise UsageError(f"{shown(part)} is neither an address nor a network", hint="as 10.0.0.0/8 or ::1") from None


def check_server(part: str) -> None:
    """ADDRESS:PORT of a name server, as 127.0.0.1:53 or [::1]:53."""
    address, _, port = part.rpartition(":")
    if not address or not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise UsageError(f"{shown(part)} is not ADDRESS:PORT", hint="as 127.0.0.1:53")


KINDS: dict[str, Kind] = {
    "listen": Words(check_listen, list, 1),
    "base_domain": Domain(),
    "pool": Whole(0, 256),
    "pool_memory": Bytes(),
    "max_envs": Whole(1, 100_000),
    "max_starting": Whole(1, 100_000),
    "max_memory": Bytes(),
    "queue": Whole(0, 100_000),
    "queue_wait": Seconds(1, 86400),
    "memory_reserve": Bytes(),
    "memory_critical": Bytes(),
    "log_limit": Bytes(4096, 1 << 40),
    "cgroup": Place(),
    "hold": Seconds(0, 3600),
    "router_workers": Whole(0, 64),
    "trusted_proxies": Words(check_network),
    "resolvers": Words(check_server),
    "max_per_source": Whole(0, 1 << 20),
    "head_timeout": Seconds(1, 3600),
    "client_timeout": Seconds(1, 86400),
    "connect_timeout": Seconds(1, 3600),
    "drain_timeout": Seconds(0, 3600),
    "connection_queue": Whole(0, 100_000),
    "connection_timeout": Seconds(1, 3600),
    "access_log": Place(),
    "access_log_limit": Bytes(1 << 16, 1 << 40),
    "janitor": Seconds(1, 86400),
    "metrics": Flag(),
    "shared": Flag(),
    "admin_group": Word(),
    "audit_limit": Bytes(0, 1 << 40),
}


def variable(name: str) -> str:
    """The variable of a setting."""
    return f"SANDBOXD_{name.upper()}"


def of_environ(environ: Mapping[str, str], name: str) -> Any:
    """A setting's value from the environment, where it is; raises UsageError with the variable's name."""
    try:
        return KINDS[name].read(environ[variable(name)])
    except UsageError as error:
        raise UsageError(f"{variable(name)}: {error.message}", hint=error.hint) from error
