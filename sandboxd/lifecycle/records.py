"""What the daemon remembers of an env: one frozen record, journalled before every effect and enough to adopt it again.

Times are seconds since the epoch, for people; deadlines that must hold are timers armed from the machine's `now`.
"""

from typing import Literal

import msgspec
from msgspec.structs import replace

from sandboxd.egress import given
from sandboxd.lifecycle.states import ServiceState, State, Wanted
from sandboxd.spec import EnvSpec, Limits

RECORD_VERSION = 1


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Which process is the env's pid 1. A pid alone is reused; with boot id and start time (stat field 22) it is not."""

    pid: int
    start_time: int
    boot_id: str
    netns_cookie: int = 0


class Wall(msgspec.Struct, frozen=True, kw_only=True):
    """One wall's three answers."""

    offered: bool
    demanded: bool
    enforced: bool
    reason: str = ""


class Versioned(msgspec.Struct, frozen=True, kw_only=True):
    """As much of any record as every version can read."""

    version: int = 1


class ServiceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One service. pid: as seen inside; ended: that of its last end; failures: ends in a row, for the next delay."""

    name: str
    state: ServiceState = ServiceState.WAITING
    pid: int | None = None
    ended: int | None = None
    port: int | None = None
    exit_code: int | None = None
    restarts: int = 0
    failures: int = 0
    started: float | None = None
    unready: str = ""


class EnvRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One env.

    replica_of: the id of the env that it is a replica of, whose number `replica` it is. replicas: how many somebody asked for
    by hand; None: as [scale] says. draining: since when it gets no new request, as it is to go.

    given_port: what PORT says on the host's network, where no two envs may have the same. error: code, message and hint of
    what ended it, where sandboxd itself can tell. suspended, suspended_by: since when, and by "user" or "idle"; woken:
    since then it was to run again, which the next daemon sees to if this one died. idle_since:
    of what was put to sleep for being idle. template, key: what it was made from, and for; no key: it is kept warm for one to
    come, and `claimed` is when that came. source: the address that asked for it. queued: since when it waits for its turn, or
    did last. overrides: limits changed since, by `update`; the spec stays what was asked
    for. enforced: how each limit is, since the last launch; cpus: those it was given; cgroup: the path of its control group.
    user: what stands for its owner in its URL; empty where all envs are one user's.
    token: what its link shows, where it is shared by one.
    accepted: what its owner let it open when asked (`up --accept`). allowed: rules of egress given since, by `net --allow`.
    no_way: why nothing of it can go out although nobody asked for that, since the last launch.
    """

    version: int = RECORD_VERSION
    id: str
    name: str
    owner: int
    group: int
    user: str = ""
    token: str = ""
    spec: EnvSpec
    template: str = ""
    key: str = ""
    source: str = ""
    claimed: float | None = None
    given_port: int | None = None
    environ: dict[str, str] = {}
    directory: str | None = None
    state: State = State.QUEUED
    wanted: Wanted = Wanted.RUNNING
    services: dict[str, ServiceRecord]
    created: float
    started: float | None = None
    ready: float | None = None
    finished: float | None = None
    restarts: int = 0
    reason: str = ""
    cause: str = ""
    error: tuple[str, str, str] | None = None
    exit_code: int | None = None
    init: Identity | None = None
    walls: dict[str, Wall] = {}
    again: bool = False
    suspended: float | None = None
    suspended_by: str = ""
    idle_since: float | None = None
    woken: bool = False
    queued: float | None = None
    overrides: dict[str, int | float | None] = {}
    enforced: dict[str, str] = {}
    cpus: list[int] = []
    cgroup: str = ""
    accepted: list[str] = []
    allowed: list[str] = []
    no_way: str = ""
    replica_of: str = ""
    replica: int = 1
    replicas: int | None = None
    draining: float | None = None

    @property
    def host(self) -> str:
        """What stands before the base domain in its URL."""
        return f"{self.name}.{self.user}" if self.user else self.name

    @property
    def share(self) -> Literal["", "private", "box", "link"]:
        """Who may reach it by name; "": nothing was said, and its daemon is one user's."""
        return self.spec.network.share or ("private" if self.user else "")

    @property
    def egress(self) -> list[str]:
        """The rules in force."""
        return [*given(self.spec.network.egress), *self.allowed]

    @property
    def reaches_out(self) -> bool:
        """Whether anything of it can go out, where rules give it."""
        return self.spec.network.mode == "private" and self.spec.network.egress != "none" and not self.no_way

    @property
    def limits(self) -> Limits:
        """Those in force: the spec's, with what was changed since."""
        return replace(self.spec.limits, **self.overrides) if self.overrides else self.spec.limits


def exit_code_of(wait_status: int) -> int:
    """A wait status as shells tell it: the exit code, or 128 + the signal (wait(2))."""
    signal = wait_status & 0x7F
    return 128 + signal if signal else wait_status >> 8 & 0xFF


def is_coming(record: EnvRecord) -> bool:
    """Whether it waits for its launch, or is being launched."""
    return record.init is None and record.state in (State.QUEUED, State.STARTING)
