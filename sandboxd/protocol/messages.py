"""Every message of `io.sandboxd.Control`: the one definition, from which the varlink interface text is generated.

Pure. `METHODS` maps a method's name to its parameters, its reply, and whether it may stream (`more`). Times are RFC 3339
UTC strings, durations seconds, sizes bytes. Replies may grow keys; requests refuse keys they do not know.
Over 400 lines on purpose: every message of the interface and nothing else, so that a reader looks in one place.
"""

from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from sandboxd.spec import EnvSpec

INTERFACE = "io.sandboxd.Control"
VERSION = 1

Signal = Annotated[str, Meta(description="name or number: TERM, SIGTERM, 15")]
Size = Annotated[int, Meta(ge=0)]


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of a method."""


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a method answers; keys may follow in later versions."""


class Empty(Reply, frozen=True, kw_only=True):
    """No answer but success."""


# -- nouns ---------------------------------------------------------------------------------------------------------------


class ServiceInfo(Reply, frozen=True, kw_only=True):
    """One service of an env. state: waiting | starting | running | ready | exited | failed. port: where it is reached."""

    name: str
    state: str
    command: list[str] | str = []
    pid: int | None = None
    port: int | None = None
    exit_code: int | None = None
    restarts: int = 0
    url: str | None = None


class PortInfo(Reply, frozen=True, kw_only=True):
    """A port of an env, reached by `url` (HTTP), a published host `address`, or `routes` (rules of the env)."""

    service: str
    port: int
    expose: str
    url: str | None = None
    address: str | None = None
    routes: list[str] = []


class WallInfo(Reply, frozen=True, kw_only=True):
    """One wall's three answers; `reason` says why where they differ."""

    offered: bool
    demanded: bool
    enforced: bool
    reason: str = ""


class Usage(Reply, frozen=True, kw_only=True):
    """What an env uses now: bytes, tasks, percent of one CPU."""

    cpu_percent: float = 0.0
    memory_bytes: int = 0
    memory_peak_bytes: int = 0
    pids: int = 0


class ScaleInfo(Reply, frozen=True, kw_only=True):
    """The replicas of an env, itself counted. fixed: somebody said how many, so the load does not. busy: connections in use.
    reason: why there are not as many as wanted."""

    wanted: int
    ready: int
    min: int
    max: int
    fixed: bool
    busy: int = 0
    names: list[str] = []
    reason: str = ""


class EnvInfo(Reply, frozen=True, kw_only=True):
    """One env as `ps` and `inspect` show it. `ps` leaves `spec` out. accepted: by `up --accept`. egress: in words."""

    id: str
    name: str
    state: str
    created: str
    wanted: str = "running"
    key: str | None = None
    template: str | None = None
    health: str | None = None
    reason: str = ""
    exit_code: int | None = None
    command: str = ""
    services: list[ServiceInfo] = []
    url: str | None = None
    ports: list[PortInfo] = []
    workspace: str | None = None
    owner: int = 0
    started: str | None = None
    ready: str | None = None
    finished: str | None = None
    restarts: int = 0
    pid: int | None = None
    labels: dict[str, str] = {}
    limits: dict[str, int | float | None] = {}
    limits_enforced: dict[str, str] = {}
    egress: str = ""
    cgroup: str | None = None
    walls: dict[str, WallInfo] = {}
    accepted: list[str] = []
    usage: Usage | None = None
    scale: ScaleInfo | None = None
    replica_of: str | None = None
    spec: EnvSpec | None = None


class TemplateInfo(Reply, frozen=True, kw_only=True):
    """A template: `on_demand` of its spec, envs that have a key, how many `warm` ones and places for a `burst` are ready."""

    name: str
    owner: int | None = None
    keys: list[str]
    create: bool
    max: int
    per_user: int | None = None
    rate: int = 0
    warm: int = 0
    envs: int = 0
    warm_ready: int = 0
    burst: int = 0
    burst_ready: int = 0
    url: str | None = None
    workspace: str | None = None
    created: str = ""
    spec: EnvSpec | None = None


class Event(Reply, frozen=True, kw_only=True):
    """Something that happened. event: created, starting, started, ready, exited, restarting, stopping, stopped, failed,
    suspended, resumed, removed, oom, ttl, exec, renamed …; detail: plain words or `key=value` data. owner: whose env it is."""

    time: str
    event: str
    id: str
    name: str
    detail: dict[str, str] = {}
    owner: int | None = None


class LogLine(Reply, frozen=True, kw_only=True):
    """One record of a service's output. `partial`: the line goes on in the next record of that stream (no newline here)."""

    time: str
    service: str
    stream: str
    text: str
    partial: bool = False


class StatsRow(Reply, frozen=True, kw_only=True):
    """One sample of one env. net_connections: open through the router."""

    id: str
    name: str
    cpu_percent: float
    memory_bytes: int
    memory_limit: int | None
    pids: int
    io_read: int
    io_write: int
    net_connections: int


class Answer(Reply, frozen=True, kw_only=True):
    """One answer to a why. topic: what it is about (ended, start, queued, restart, ready, url, connections, wall, guard).
    hint: next."""

    topic: str
    text: str
    hint: str = ""


class Denial(Reply, frozen=True, kw_only=True):
    """What a wall refused. time: of the last; program: who tried; count: how often in all; option: what would allow it."""

    time: str
    wall: str
    what: str
    program: str = ""
    count: int = 1
    option: str = ""


class LimitHit(Reply, frozen=True, kw_only=True):
    """A limit that was met. value: what is allowed, peak: what was seen (bytes, tasks …); advice: what to raise, and how."""

    time: str
    limit: str
    value: int | float | None = None
    peak: int | float | None = None
    advice: str = ""


class Receipt(Reply, frozen=True, kw_only=True):
    """What was counted before and after a removal; `leaked` is what stayed and should not have."""

    before: dict[str, int]
    after: dict[str, int]
    leaked: dict[str, int] = {}


# -- methods -------------------------------------------------------------------------------------------------------------


class Run(Params, frozen=True, kw_only=True):
    """Create an env and start it.

    environ: the caller's environment that may be handed on (PATH, LANG, TERM, …; the daemon keeps an allow-list).
    exists: what to do when an env of this name is there: "error", "reuse" (start it if it is stopped; error
    if the spec differs), "replace" (recreate it if the spec differs, else as reuse).
    directory: where the caller stands; with no workspace in the spec it is only recorded.
    wait: "created" answers at once, "started" when every service that can start was executed (its command was found),
    "ready" when the env is ready. timeout: of that wait, seconds. With `more`, a reply comes for each change
    of state, the env's or a service's, until then (the last one has `done`).
    accept: a workspace's spec that opens more than the one last seen for it (less isolation, more egress, mounts, forwards) is
    refused with NotAccepted unless true; null: do not look.
    attach: also open a session on the first service's stdio before it starts (the reply has `session`, and the
    descriptors go along when the client asked for them with `fds`).
    again: the same Run was cut short by a daemon that made way for this one (DaemonUnreachable with `leaving` and `env`); go on
    waiting for that env, which it made; with `attach`, for its end.
    """

    spec: EnvSpec
    environ: dict[str, str] = {}
    directory: str | None = None
    exists: Literal["error", "reuse", "replace"] = "error"
    accept: bool | None = None
    wait: Literal["created", "started", "ready"] = "started"
    timeout: float | None = None
    attach: bool = False
    fds: bool = False
    rows: int = 24
    cols: int = 80
    again: str | None = None


class RunReply(Reply, frozen=True, kw_only=True):
    """The env. changed: false when an env was reused as it was.

    With `attach` the first reply has `session` (and descriptors, named in order in `fds`), the last comes when the env has
    ended, and `env.exit_code` and `env.reason` tell how. In-band, `data` (base64) of `stream` comes in between.
    """

    env: EnvInfo
    done: bool = True
    changed: bool = True
    session: str | None = None
    fds: list[str] = []
    stream: str = ""
    data: str = ""


class List(Params, frozen=True, kw_only=True):
    """Envs, newest first. all: also those that ended. filters: "status=ready", "label=k=v", "name=x", "id=…" (same key: or,
    different keys: and)."""

    all: bool = False
    filters: list[str] = []


class ListReply(Reply, frozen=True, kw_only=True):
    """The envs."""

    envs: list[EnvInfo]


class Inspect(Params, frozen=True, kw_only=True):
    """One env, whole. target: id, unique id prefix, or name; or `directory`: the env whose workspace that is."""

    target: str = ""
    directory: str | None = None


class InspectReply(Reply, frozen=True, kw_only=True):
    """The env."""

    env: EnvInfo


class Logs(Params, frozen=True, kw_only=True):
    """Output of an env's services (with `more`: many replies). since: RFC 3339 or seconds ago as "5m". tail: last N lines."""

    target: str
    service: str | None = None
    follow: bool = False
    tail: int | None = None
    since: str | None = None


class LogsReply(Reply, frozen=True, kw_only=True):
    """A batch of records, in time order."""

    lines: list[LogLine]


class Exec(Params, frozen=True, kw_only=True):
    """Run a command in an env (`more`). fds: pass pipes (or the pty's master) as descriptors with the first reply; else
    output comes in replies, and input goes through SessionInput."""

    target: str
    argv: list[str]
    service: str | None = None
    env: dict[str, str] = {}
    workdir: str | None = None
    tty: bool = False
    stdin: bool = False
    rows: int = 24
    cols: int = 80
    fds: bool = False


class Attach(Params, frozen=True, kw_only=True):
    """Join a running service's stdio (`more`). stdin: also write to it, where it has one. `slow`: what happens to a reader
    that lags: "drop" ends its session, "wait" makes the service wait."""

    target: str
    service: str | None = None
    stdin: bool = False
    slow: Literal["drop", "wait"] = "drop"
    rows: int = 24
    cols: int = 80
    fds: bool = False


class SessionReply(Reply, frozen=True, kw_only=True):
    """First: `session` (and descriptors, named in order in `fds`: "pty", or "stdin", "stdout", "stderr", or "stdio").
    Then, in-band only, `data` (base64) of `stream`. Last: `exit_code` (128+n for a signal), with `reason` if a limit did it."""

    session: str
    fds: list[str] = []
    stream: str = ""
    data: str = ""
    exit_code: int | None = None
    reason: str = ""


class SessionInput(Params, frozen=True, kw_only=True):
    """Bytes (base64) for an in-band session's stdin; eof closes it. The session dies with the connection that opened it."""

    session: str
    data: str = ""
    eof: bool = False


class SessionResize(Params, frozen=True, kw_only=True):
    """A session's new window."""

    session: str
    rows: Annotated[int, Meta(ge=1, le=65535)]
    cols: Annotated[int, Meta(ge=1, le=65535)]


class SessionSignal(Params, frozen=True, kw_only=True):
    """Signal a session's foreground process group."""

    session: str
    signal: Signal


class Stop(Params, frozen=True, kw_only=True):
    """SIGTERM (or the service's own signal), grace, then kill the whole tree. Answers when it has ended."""

    target: str
    timeout: float | None = None


class Start(Params, frozen=True, kw_only=True):
    """Start a stopped env again, same id, same name. wait and timeout as in Run."""

    target: str
    wait: Literal["created", "started", "ready"] = "started"
    timeout: float | None = None


class Restart(Params, frozen=True, kw_only=True):
    """Stop, then start."""

    target: str
    timeout: float | None = None


class Suspend(Params, frozen=True, kw_only=True):
    """Have nothing of an env run, and keep it as it is: by its freezer, else by SIGSTOP. A request for it wakes it."""

    target: str


class Resume(Params, frozen=True, kw_only=True):
    """Have a suspended env run on."""

    target: str


class Update(Params, frozen=True, kw_only=True):
    """Other limits for an env, now and for every later start; what is not named stays. The names and units are those of
    `limits` in the spec; null takes a limit away. What cannot be enforced, or is below what is in use, is refused and nothing
    is changed."""

    target: str
    limits: dict[str, int | float | None]


class Scale(Params, frozen=True, kw_only=True):
    """Have so many replicas of an env, whatever the load: 0 stops it, null leaves the number to its [scale]. With wait it is
    answered when they are there and ready; timeout: seconds to wait for that."""

    target: str
    replicas: Annotated[int, Meta(ge=0, le=256)] | None = None
    wait: bool = True
    timeout: float | None = None


class Kill(Params, frozen=True, kw_only=True):
    """Signal every service's main process (KILL: the whole tree)."""

    target: str
    signal: Signal = "KILL"
    service: str | None = None


class Remove(Params, frozen=True, kw_only=True):
    """Remove an env and all it left. force: also a running one."""

    target: str
    force: bool = False


class RemoveReply(Reply, frozen=True, kw_only=True):
    """The receipt."""

    id: str
    name: str
    receipt: Receipt


class Wait(Params, frozen=True, kw_only=True):
    """Answer when the env reached that state. until: ready, healthy, stopped, removed. timeout: seconds."""

    target: str
    until: Literal["ready", "healthy", "stopped", "removed"] = "stopped"
    timeout: float | None = None


class WaitReply(Reply, frozen=True, kw_only=True):
    """The env then; `exit_code` of it where it ended."""

    env: EnvInfo
    exit_code: int | None = None


class Events(Params, frozen=True, kw_only=True):
    """Events, oldest first: those since (RFC 3339 or an age as "5m"), and with follow (`more`) those to come."""

    follow: bool = False
    since: str | None = None
    filters: list[str] = []


class EventsReply(Reply, frozen=True, kw_only=True):
    """A batch of events."""

    events: list[Event]


class Why(Params, frozen=True, kw_only=True):
    """Why an env is as it is. target, directory: as in Inspect. since: only denials and limit hits since then (RFC 3339, or an
    age as "5m")."""

    target: str = ""
    directory: str | None = None
    since: str | None = None


class WhyReply(Reply, frozen=True, kw_only=True):
    """Why it ended, cannot start, is not ready, has no URL; what its walls refused and which limits it met, the last ones last.

    awake: what keeps it from being suspended. rules: what holds for it, in words. unknown: what nobody can know here.
    """

    env: EnvInfo
    answers: list[Answer] = []
    denials: list[Denial] = []
    limits: list[LimitHit] = []
    awake: list[str] = []
    rules: list[str] = []
    unknown: list[str] = []


class Stats(Params, frozen=True, kw_only=True):
    """Samples of the envs (none named: all that run). With `more` and follow: one batch per interval (seconds)."""

    targets: list[str] = []
    follow: bool = False
    interval: float = 1.0


class StatsReply(Reply, frozen=True, kw_only=True):
    """A batch of samples."""

    stats: list[StatsRow]


class Passage(Reply, frozen=True, kw_only=True):
    """A connection out of an env, a name that it asked for and was denied (port 0), or (direction `in`) a connection to it.
    state: open, closed, failed or denied; reason: why it failed. rule: what gave it, or denied it; in: http, tunnel, tls, tcp.
    allow: the rule that would give it. sent, received: bytes, as the env sees it. in: address is of who asks for `name`."""

    number: int
    name: str
    address: str
    port: int
    state: str
    reason: str = ""
    rule: str = ""
    allow: str = ""
    sent: int = 0
    received: int = 0
    began: str | None = None
    direction: str = "out"


class Net(Params, frozen=True, kw_only=True):
    """What goes out of an env and comes in. allow: rules of `egress` to give it first, now and for every later start.
    With `more` and follow: again whenever `interval` seconds have passed. target, directory: as in Inspect."""

    target: str = ""
    directory: str | None = None
    allow: list[str] = []
    follow: bool = False
    interval: float = 1.0


class NetReply(Reply, frozen=True, kw_only=True):
    """rules: in force. passages: open ones, and the latest that ended. Sums: since it started. incoming: the router's, now."""

    env: EnvInfo
    rules: list[str]
    passages: list[Passage]
    total: int = 0
    denied: int = 0
    sent: int = 0
    received: int = 0
    incoming: int = 0


class Forward(Params, frozen=True, kw_only=True):
    """A port of an env at one of this host's loopback (0: any) while the call stands (`more`); `ports` say where."""

    target: str = ""
    directory: str | None = None
    port: int
    host_port: int = 0


class Prune(Params, frozen=True, kw_only=True):
    """Remove every env that ended. filters as in List."""

    filters: list[str] = []


class PruneReply(Reply, frozen=True, kw_only=True):
    """The ids removed."""

    removed: list[str]


class Register(Params, frozen=True, kw_only=True):
    """Make a spec with `on_demand` a template, or that of this name what the spec says now: envs that have a key stay as they
    are, those that are kept warm are made anew. environ, directory, accept: as in Run."""

    spec: EnvSpec
    environ: dict[str, str] = {}
    directory: str | None = None
    accept: bool | None = None


class RegisterReply(Reply, frozen=True, kw_only=True):
    """The template. changed: false when it was that already."""

    template: TemplateInfo
    changed: bool = True


class Templates(Params, frozen=True, kw_only=True):
    """The templates, by name; or one, whole."""

    name: str | None = None


class TemplatesReply(Reply, frozen=True, kw_only=True):
    """The templates."""

    templates: list[TemplateInfo]


class Unregister(Params, frozen=True, kw_only=True):
    """Forget a template, and remove what it kept warm. force: also the envs that have a key."""

    name: str
    force: bool = False


class UnregisterReply(Reply, frozen=True, kw_only=True):
    """The ids of the envs that were removed."""

    removed: list[str]


class Ensure(Params, frozen=True, kw_only=True):
    """The env of a template for a key, as a request with that key would have it: made where there is none, woken if it sleeps.

    key: the value for the first kind of the template's keys, or `kind:value`. wait, timeout: as in Run."""

    template: str
    key: str
    wait: Literal["created", "started", "ready"] = "ready"
    timeout: float | None = None


class EnsureReply(Reply, frozen=True, kw_only=True):
    """The env. created: it was made for this. cookie: where the key is one, what a request must have as its Cookie."""

    env: EnvInfo
    created: bool = False
    cookie: str | None = None


class Status(Params, frozen=True, kw_only=True):
    """The daemon itself."""


class StatusReply(Reply, frozen=True, kw_only=True):
    """pid, version, paths, addresses; uptime in seconds; started: seconds since the epoch; envs by state.

    controllers: those by which the kernel holds whole envs to their limits; without any, `uncontrolled` says why, and
    `control` what to do about it.
    """

    pid: int
    version: str
    socket: str
    listen: list[str]
    dir: str
    uptime: float
    envs: dict[str, int]
    started: float = 0.0
    launcher_pid: int | None = None
    router_pid: int | None = None
    pool: int = 0
    controllers: list[str] = []
    uncontrolled: str = ""
    control: str = ""


class Metrics(Params, frozen=True, kw_only=True):
    """The daemon and its envs as numbers."""


class MetricsReply(Reply, frozen=True, kw_only=True):
    """text: Prometheus's text format, version 0.0.4."""

    text: str


class Config(Params, frozen=True, kw_only=True):
    """The settings in force. reload: read the config file again first, and take on what can change while the daemon runs."""

    reload: bool = False


class SettingInfo(Reply, frozen=True, kw_only=True):
    """A setting in words. source: FILE:LINE, the name of a variable, or "usual"."""

    name: str
    value: str
    source: str


class SettingChange(Reply, frozen=True, kw_only=True):
    """A setting that the file has otherwise now. holds: "now", or after what."""

    name: str
    before: str
    after: str
    holds: str


class ConfigReply(Reply, frozen=True, kw_only=True):
    """file: where the config file is, or would be. changes: of a reload."""

    file: str
    settings: list[SettingInfo]
    changes: list[SettingChange] = []


class Audit(Params, frozen=True, kw_only=True):
    """Who did what: the newest lines of the audit log. For root, admins and whose daemon it is."""

    tail: Annotated[int, Meta(ge=1, le=5000)] = 100


class AuditEntry(Reply, frozen=True, kw_only=True):
    """One call. uid, user, pid: whose. id, name, owner: of the env it was about, as far as there is one. outcome: "ok", the
    name of an error (`reason` has its words), "begun" of what lasts, "left" where its client did. seconds: it took."""

    time: str
    uid: int
    user: str
    pid: int
    method: str
    id: str = ""
    name: str = ""
    owner: int | None = None
    outcome: str
    reason: str = ""
    seconds: float | None = None


class AuditReply(Reply, frozen=True, kw_only=True):
    """file: where it is; "" where none is kept. entries: oldest first."""

    file: str
    entries: list[AuditEntry]


class Shutdown(Params, frozen=True, kw_only=True):
    """End the daemon. all: end every env and the router too; else they run on. again: the program that is installed now takes
    over in the same process, with the same listeners, once it has said that it can."""

    all: bool = False
    again: bool = False


class Method(NamedTuple):
    """What a method takes and gives; streams: it may be called with `more`."""

    params: type[Params]
    reply: type[Reply]
    streams: bool = False


METHODS: dict[str, Method] = {
    "Run": Method(Run, RunReply, streams=True),
    "List": Method(List, ListReply),
    "Inspect": Method(Inspect, InspectReply),
    "Logs": Method(Logs, LogsReply, streams=True),
    "Exec": Method(Exec, SessionReply, streams=True),
    "Attach": Method(Attach, SessionReply, streams=True),
    "SessionInput": Method(SessionInput, Empty),
    "SessionResize": Method(SessionResize, Empty),
    "SessionSignal": Method(SessionSignal, Empty),
    "Stop": Method(Stop, InspectReply),
    "Start": Method(Start, RunReply, streams=True),
    "Restart": Method(Restart, RunReply, streams=True),
    "Suspend": Method(Suspend, InspectReply),
    "Resume": Method(Resume, InspectReply),
    "Kill": Method(Kill, InspectReply),
    "Scale": Method(Scale, InspectReply),
    "Update": Method(Update, InspectReply),
    "Remove": Method(Remove, RemoveReply),
    "Wait": Method(Wait, WaitReply),
    "Events": Method(Events, EventsReply, streams=True),
    "Why": Method(Why, WhyReply),
    "Stats": Method(Stats, StatsReply, streams=True),
    "Net": Method(Net, NetReply, streams=True),
    "Forward": Method(Forward, InspectReply, streams=True),
    "Prune": Method(Prune, PruneReply),
    "Register": Method(Register, RegisterReply),
    "Templates": Method(Templates, TemplatesReply),
    "Unregister": Method(Unregister, UnregisterReply),
    "Ensure": Method(Ensure, EnsureReply),
    "Status": Method(Status, StatusReply),
    "Metrics": Method(Metrics, MetricsReply),
    "Config": Method(Config, ConfigReply),
    "Audit": Method(Audit, AuditReply),
    "Shutdown": Method(Shutdown, Empty),
}
