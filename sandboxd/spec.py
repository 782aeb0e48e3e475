"""What a user asks for: one tree of frozen structs, the same for `sandbox.toml`, flags, SDK and wire.

Pure. Sizes are bytes, durations are seconds. Files and flags may write "512m" or "30s": `specfile` turns those into
numbers by the `unit` marks below before anything else sees them. Rules that need more than one field stand in `check()`.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Size = Annotated[int, Meta(ge=1, extra={"unit": "size"}, description="bytes")]
Duration = Annotated[float, Meta(gt=0, extra={"unit": "duration"}, description="seconds")]
Port = Annotated[int, Meta(ge=1, le=65535)]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", description="a DNS label")]
EnvName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$",
        max_length=63,  # it is also a host name inside, of which the kernel takes 64 (sethostname(2))
        description="a DNS label, or BRANCH.PROJECT",
    ),
]


class Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=False):
    """What every part of a spec shares: immutable, by keyword, unknown keys are errors."""


class Ready(Struct, frozen=True, kw_only=True):
    """When a service counts as ready. None of http and command: when it listens on its port (no port: when it runs)."""

    http: Annotated[str, Meta(pattern=r"^/", description="path; any 2xx or 3xx answer")] | None = None
    command: str | list[str] | None = None
    timeout: Duration = 30.0
    interval: Duration = 0.1


class Service(Struct, frozen=True, kw_only=True):
    """One command in an env. A string is run by `sh -c`, a list is executed as it is."""

    command: str | list[str]
    port: Port | None = None
    expose: Literal["http", "tcp", "none"] = "http"
    depends_on: list[Name] = []
    ready: Ready | None = None
    env: dict[str, str] = {}
    workdir: str | None = None
    restart: str | None = None
    stop_signal: str = "TERM"
    stop_timeout: Duration = 10.0
    tty: bool = False
    stdin: bool = False


class Workspace(Struct, frozen=True, kw_only=True):
    """The directory an env works in, writable inside at its own host path. None: a private empty one."""

    path: str | None = None
    mode: Literal["bind"] = "bind"


class Limits(Struct, frozen=True, kw_only=True):
    """Ceilings of a whole env; None: no limit of ours. `nofile` and `pids` default to what a laptop can bear.

    memory_high: above it the env is slowed down and its memory taken back, but nothing is killed. cpu_weight: its share of busy
    CPUs, 100 is everybody's. disk: what it may write to its home, logs and /tmp, and the size of any one file. nofile: open
    files of each process. io_read, io_write: bytes a second. max_connections: of the router to all its services at once;
    requests beyond that wait in line.
    """

    memory: Size | None = None
    memory_high: Size | None = None
    cpus: Annotated[float, Meta(gt=0)] | None = None
    cpu_weight: Annotated[int, Meta(ge=1, le=10000)] | None = None
    pids: Annotated[int, Meta(ge=1)] | None = 1024
    disk: Size | None = None
    nofile: Annotated[int, Meta(ge=16)] | None = 4096
    io_read: Size | None = None
    io_write: Size | None = None
    max_connections: Annotated[int, Meta(ge=1)] | None = None


class Quota(Struct, frozen=True, kw_only=True):
    """What the envs of a user, or of all members of a group, may add up to; None: as much as they like.

    envs: that are there, in whatever state. memory, cpus, pids: limits of those alive. disk: limits of all. rate: starts a
    minute.
    """

    envs: Annotated[int, Meta(ge=0)] | None = None
    memory: Size | None = None
    cpus: Annotated[float, Meta(gt=0)] | None = None
    pids: Annotated[int, Meta(ge=1)] | None = None
    disk: Size | None = None
    rate: Annotated[int, Meta(ge=1)] | None = None


class Quotas(Quota, frozen=True, kw_only=True):
    """Its own keys are of every user but root. user: instead of those, by name. group: all members of it together, by name."""

    user: dict[str, Quota] = {}
    group: dict[str, Quota] = {}


class Isolation(Struct, frozen=True, kw_only=True):
    """The least isolation to start with. `home`: "private" is an empty one, "readonly" the real one with secrets masked.
    `nested`: programs may make namespaces and mounts of their own inside, as browsers' and containers' sandboxes do."""

    level: Literal["full", "landlock", "none"] = "full"
    home: Literal["private", "readonly"] = "private"
    user: Literal["self", "root"] = "self"
    nested: bool = False


class Publish(Struct, frozen=True, kw_only=True):
    """A host address that reaches a port inside as raw TCP, or a Unix socket of the host: address "unix:/PATH", no host_port.

    proxy_protocol: each connection begins with a PROXY protocol v2 header that tells the service where it came from.
    """

    port: Port
    host_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    address: str = "127.0.0.1"
    proxy_protocol: bool = False

    @property
    def where(self) -> str:
        """The host address in a word."""
        if self.address.startswith("unix:"):
            return self.address
        return f"[{self.address}]:{self.host_port}" if ":" in self.address else f"{self.address}:{self.host_port}"


class Network(Struct, frozen=True, kw_only=True):
    """private: own loopback, reached by name through the router. host: the host's. none: own loopback, no way in.

    egress None: `open` where this host can give that (it takes nf_tables), else `none`, and the env says so. proxy: by proxy
    variables, for programs that obey them; alone it is `open`, in a list it goes with the other rules.
    share: who may reach it by name: private: its owner, from this machine; box: every user of this machine; link: besides its
    owner whoever has its URL. Nothing said: private where many are served, else its owner and other machines, if they can.
    """

    mode: Literal["private", "host", "none"] = "private"
    egress: Literal["open", "none", "proxy"] | list[str] | None = None
    forward: list[int | str] = []
    publish: list[Publish] = []
    share: Literal["private", "box", "link"] | None = None


class Idle(Struct, frozen=True, kw_only=True):
    """What becomes of an env that nobody uses, each counted from when that began; a request wakes it, unless it is removed.

    Unused: no request under way, no exec or attach open, no more than `traffic` bytes a minute through its open tunnels
    (WebSockets and raw TCP: enough for keep-alives), no more than `cpu` percent of one CPU.
    """

    suspend: Duration | None = None
    stop: Duration | None = None
    remove: Duration | None = None
    requests: bool = True
    sessions: bool = True
    traffic: Annotated[int, Meta(ge=0, extra={"unit": "size"}, description="bytes a minute")] = 1024
    cpu: Annotated[float, Meta(ge=0, description="percent of one CPU")] = 5.0


class Lifecycle(Struct, frozen=True, kw_only=True):
    """How long an env lives. restart: no | on-failure[:N] | always | unless-stopped. remove: `rm` by itself once it ended."""

    ttl: Duration | None = None
    idle: Idle | None = None
    restart: Annotated[str, Meta(pattern=r"^(no|on-failure(:[0-9]{1,4})?|always|unless-stopped)$")] = "no"
    remove: bool = False


class Replicas(Struct, frozen=True, kw_only=True):
    """Replicas of an env, each a sandbox of its own behind the env's one name; a request goes to the one that is least in use.

    min: 0 lets the env stop when nobody uses it, until the next request. target_connections: requests under way and tunnels
    (WebSockets) that one is meant to bear. sticky: a browser stays with the replica that answered it first, by a cookie.
    down_after: for how long fewer must do before there are fewer; drain_timeout: how long one that goes may end its requests.
    """

    min: Annotated[int, Meta(ge=0, le=256)] = 1
    max: Annotated[int, Meta(ge=1, le=256)] = 4
    target_connections: Annotated[int, Meta(ge=1)] = 20
    sticky: bool = False
    down_after: Duration = 30.0
    drain_timeout: Duration = 30.0


class Mount(Struct, frozen=True, kw_only=True):
    """A host path shown inside at `target`."""

    source: str
    target: str
    readonly: bool = False


class RouteRule(Struct, frozen=True, kw_only=True):
    """Requests that go to one service by more than the env's name. The longest path wins, then the most conditions; among rules
    that are alike each gets a share by its weight, the place a name has of itself counting 100.

    host: None is the env's own name; another name than that, or that of another env of the same owner. path: a prefix by whole
    segments; strip: the service does not see it. header, cookie: values that must be there, "*" is any. service: None is the
    one that the env's name reaches.
    """

    host: Annotated[str, Meta(description="a host name")] | None = None
    path: Annotated[str, Meta(pattern=r"^/", description="a path")] = "/"
    strip: bool = False
    header: dict[str, str] = {}
    cookie: dict[str, str] = {}
    weight: Annotated[int, Meta(ge=0, le=10000)] = 100
    service: Name | None = None


class OnDemand(Struct, frozen=True, kw_only=True):
    """Makes the spec a template: an env for each key that requests have, made when the first one comes.

    key: where a request's key is found; of several, the first that it has. "cookie": one that the router hands out and signs,
    so that nobody can choose it. "ip": the address it comes from. "token": a bearer token, kept only as a hash. "host": KEY in
    KEY.NAME.localhost. "sni": the same in a TLS hello. "path": the first segment of the path (strip: the env does not see it).
    "header:NAME": a header.
    create: whether a request may make an env for a key of its own choosing (a cookie is none); else only `sandbox ensure` does.
    max: envs at once; per_user: those made for one address; rate: new ones a minute for one address (0: no bound).
    warm: envs kept started for keys to come. burst: places for so many keys at once are kept ready, in which nothing of the env
    runs as yet. waiting_page: browsers see a page while their env starts.
    """

    key: Annotated[str | list[str], Meta(description="cookie, ip, token, host, sni, path or header:NAME")]
    create: bool = False
    max: Annotated[int, Meta(ge=1)] = 50
    per_user: Annotated[int, Meta(ge=1)] | None = None
    rate: Annotated[int, Meta(ge=0, description="new envs a minute")] = 60
    warm: Annotated[int, Meta(ge=0)] = 0
    burst: Annotated[int, Meta(ge=0, description="new keys expected at once")] = 0
    strip: bool = False
    waiting_page: bool = False

    @property
    def keys(self) -> list[str]:
        """Where a request's key is looked for, in turn."""
        return [self.key] if isinstance(self.key, str) else self.key


class EnvSpec(Struct, frozen=True, kw_only=True):
    """One environment as asked for; with `on_demand`, a template for many."""

    services: dict[Name, Service]
    name: EnvName | None = None
    workspace: Workspace = Workspace()
    env: dict[str, str] = {}
    limits: Limits = Limits()
    isolation: Isolation = Isolation()
    network: Network = Network()
    lifecycle: Lifecycle = Lifecycle()
    mounts: list[Mount] = []
    labels: dict[str, str] = {}
    routes: list[RouteRule] = []
    on_demand: OnDemand | None = None
    scale: Replicas | None = None
