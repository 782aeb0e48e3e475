"""What can happen to an env (events), and what the daemon then does about it (effects). Data only.

Every event is something that was observed or asked; every effect is one call into launch, router, limits or store.
"""

import msgspec

from sandboxd.lifecycle.records import Identity, Wall
from sandboxd.spec import EnvSpec


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something happened."""


class Admitted(Event, frozen=True, kw_only=True):
    """Its turn has come."""


class Launched(Event, frozen=True, kw_only=True):
    """Init runs behind its walls."""

    init: Identity
    walls: dict[str, Wall]
    enforced: dict[str, str] = {}
    cpus: list[int] = []
    cgroup: str = ""
    no_way: str = ""


class LaunchFailed(Event, frozen=True, kw_only=True):
    """Nothing runs; nothing half-made stays."""

    error: tuple[str, str, str]


class LaunchDeferred(Event, frozen=True, kw_only=True):
    """As LaunchFailed, for want of something that comes back by itself: namespaces of envs that were just removed."""


class ServiceStarted(Event, frozen=True, kw_only=True):
    """The service was executed."""

    service: str
    pid: int


class ServiceRefused(Event, frozen=True, kw_only=True):
    """The service could not be executed."""

    service: str
    error: tuple[str, str, str]


class ServiceReady(Event, frozen=True, kw_only=True):
    """Its readiness check holds; port: where it listens, if that is known."""

    service: str
    port: int | None = None


class ServiceUnready(Event, frozen=True, kw_only=True):
    """Its readiness check did not hold in time; why in `reason`. It runs on and may yet become ready."""

    service: str
    reason: str


class PortFound(Event, frozen=True, kw_only=True):
    """A service without a declared port listens."""

    service: str
    port: int


class ServiceExited(Event, frozen=True, kw_only=True):
    """Its main process ended. pid: as in ServiceStarted, so that a report that comes twice counts once."""

    service: str
    pid: int
    exit_code: int


class RestartDue(Event, frozen=True, kw_only=True):
    """The delay before a restart is over; an empty service: of the whole env."""

    service: str = ""


class StopAsked(Event, frozen=True, kw_only=True):
    """Stop it; grace in seconds, None: the services' own. again: start it afterwards. cause: "ttl", a limit, or "idle", and
    then only what sleeps for being idle is stopped: a request may have woken it in between."""

    grace: float | None = None
    again: bool = False
    cause: str = ""
    reason: str = ""


class KillAsked(Event, frozen=True, kw_only=True):
    """End it at once. cause: a limit, or empty if a user asked."""

    cause: str = ""
    reason: str = ""


class StartAsked(Event, frozen=True, kw_only=True):
    """Start it (again). woken: by a request, and then only what was stopped for being idle: its owner may just have stopped
    it."""

    woken: bool = False


class SpecChanged(Event, frozen=True, kw_only=True):
    """The next start is to be with this spec; only an ended env takes it. accepted: what its owner let it open, by name."""

    spec: EnvSpec
    environ: dict[str, str]
    accepted: list[str] = []


class LimitsChanged(Event, frozen=True, kw_only=True):
    """Other limits, or rules of egress, from here on. overrides, allowed: all that the spec does not have. enforced: how each
    limit is, where it runs."""

    overrides: dict[str, int | float | None]
    enforced: dict[str, str] = {}
    allowed: list[str] = []


class Claimed(Event, frozen=True, kw_only=True):
    """It was made ahead of its key, which has come. source: the address that asked for it."""

    key: str
    source: str


class ScaleAsked(Event, frozen=True, kw_only=True):
    """Have so many replicas from now on; None: as many as its [scale] says."""

    replicas: int | None


class DrainAsked(Event, frozen=True, kw_only=True):
    """Have a replica get no new requests, or have it get them again."""

    draining: bool


class RemoveAsked(Event, frozen=True, kw_only=True):
    """Remove it, and all it left. cause: "idle", and then only what sleeps for being idle is removed."""

    cause: str = ""


class SuspendAsked(Event, frozen=True, kw_only=True):
    """Have nothing of it run, and keep it as it is. by: "user" or "idle"; since: how long it was idle then (epoch)."""

    by: str = "user"
    since: float | None = None


class Suspended(Event, frozen=True, kw_only=True):
    """Nothing of it runs any more. detail: how that was done."""

    detail: dict[str, str] = {}


class SuspendFailed(Event, frozen=True, kw_only=True):
    """Something of it could not be stopped."""

    reason: str


class ResumeAsked(Event, frozen=True, kw_only=True):
    """Have it run on. by: "user" or "request"."""

    by: str = "user"


class GraceOver(Event, frozen=True, kw_only=True):
    """The grace for a stop is over."""


class Adopted(Event, frozen=True, kw_only=True):
    """A new daemon has found it as its record says: what was waited for is waited for again. begun: services that init has
    executed, or tried to, as is told next."""

    begun: list[str] = []


class HostEnds(Event, frozen=True, kw_only=True):
    """The host is being shut down, or what runs us there. grace: seconds that are left for the services."""

    reason: str
    grace: float


class InitGone(Event, frozen=True, kw_only=True):
    """Init and so every process of the env has ended. reason: what is known of it, where it was not asked for. rebooted: with
    the whole machine."""

    reason: str = ""
    rebooted: bool = False


EVENTS: tuple[type[Event], ...] = (
    Admitted, Launched, LaunchFailed, LaunchDeferred, ServiceStarted, ServiceRefused, ServiceReady, ServiceUnready, PortFound,
    ServiceExited,
    RestartDue, StopAsked, KillAsked, StartAsked, SpecChanged, LimitsChanged, RemoveAsked, SuspendAsked, Suspended,
    Claimed, ScaleAsked, DrainAsked,
    SuspendFailed, ResumeAsked, GraceOver, Adopted, HostEnds, InitGone,
)  # fmt: skip


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """Something to do."""


class Enqueue(Effect, frozen=True, kw_only=True):
    """Have it wait for its turn, which may be now."""


class Launch(Effect, frozen=True, kw_only=True):
    """Make the env: directories, sockets, plan, init. `start`: the services it executes at once."""

    start: list[str]


class StartService(Effect, frozen=True, kw_only=True):
    """Have init execute a service."""

    service: str


class Probe(Effect, frozen=True, kw_only=True):
    """Watch for a service's readiness, and find its port."""

    service: str


class EndProbes(Effect, frozen=True, kw_only=True):
    """Stop watching; an empty service: all of them."""

    service: str = ""


class SignalService(Effect, frozen=True, kw_only=True):
    """Send a service its stop signal."""

    service: str


class Suspend(Effect, frozen=True, kw_only=True):
    """Stop every process but init, and tell how it went. again: they are stopped as far as is known."""

    again: bool = False


class Resume(Effect, frozen=True, kw_only=True):
    """Let run what `Suspend` stopped, and only that."""


class KillInit(Effect, frozen=True, kw_only=True):
    """Kill the env's pid 1, and with it the whole tree."""


class EndInit(Effect, frozen=True, kw_only=True):
    """No service is left: kill init, once those who are attached have read what was said."""


class Arm(Effect, frozen=True, kw_only=True):
    """Deliver an event after some seconds; a timer of that name replaces an earlier one."""

    timer: str
    after: float
    event: Event


class Disarm(Effect, frozen=True, kw_only=True):
    """Forget a timer; an empty name: all of them."""

    timer: str = ""


class ApplyLimits(Effect, frozen=True, kw_only=True):
    """Bring the record's limits to bear on what runs."""


class Settle(Effect, frozen=True, kw_only=True):
    """The env has ended: close its sockets, have the router let go of it."""


class Discard(Effect, frozen=True, kw_only=True):
    """Remove its directory, its record and its name, and write the receipt."""


class Announce(Effect, frozen=True, kw_only=True):
    """Tell those who listen."""

    event: str
    detail: dict[str, str] = {}


EFFECTS: tuple[type[Effect], ...] = (
    Enqueue, Launch, StartService, Probe, EndProbes, SignalService, Suspend, Resume, KillInit, EndInit, Arm, Disarm,
    ApplyLimits, Settle, Discard, Announce,
)  # fmt: skip
