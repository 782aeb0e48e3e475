"""A record as the protocol shows it: `EnvInfo`, filters, URLs. Pure."""

from datetime import UTC, datetime

from sandboxd.errors import UsageError
from sandboxd.lifecycle.records import EnvRecord, ServiceRecord
from sandboxd.lifecycle.states import UP, ServiceState, State
from sandboxd.protocol.messages import EnvInfo, PortInfo, ServiceInfo, Usage, WallInfo
from sandboxd.spec import RouteRule, Service


def rfc3339(seconds: float | None, ahead: float = 0.0) -> str | None:
    """Seconds since the epoch as RFC 3339 UTC with milliseconds."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds + ahead, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def command_of(service: Service) -> str:
    """A service's command in one line."""
    return service.command if isinstance(service.command, str) else " ".join(service.command)


def main_service(record: EnvRecord) -> str:
    """The service that NAME.localhost reaches: the first that speaks HTTP on a known port, else the first."""
    for name, service in record.spec.services.items():
        if service.expose == "http" and record.services[name].port is not None:
            return name
    return next(iter(record.spec.services))


def url_of(record: EnvRecord, base: str) -> str | None:
    """Where the env is reached; base: "localhost:7070"."""
    if record.spec.network.mode == "none" or record.spec.services[main_service(record)].expose != "http":
        return None
    link = f"/?sandboxd-link={record.token}" if record.share == "link" else ""
    return f"http://{record.host}.{base}{link}" if record.services[main_service(record)].port is not None else None


def service_info(record: EnvRecord, service: ServiceRecord, base: str) -> ServiceInfo:
    """One service."""
    spec = record.spec.services[service.name]
    reached = service.port is not None and spec.expose == "http" and record.spec.network.mode != "none"
    return ServiceInfo(
        name=service.name,
        state=service.state.value,
        command=spec.command,
        pid=service.pid,
        port=service.port,
        exit_code=service.exit_code,
        restarts=service.restarts,
        url=f"http://{service.name}.{record.host}.{base}" if reached else None,
    )


def ports_of(record: EnvRecord, base: str) -> list[PortInfo]:
    """Every known port and how it is reached."""
    found = []
    for name, service in record.services.items():
        spec = record.spec.services[name]
        if service.port is None:
            continue
        published = [p for p in record.spec.network.publish if p.port == service.port]
        address = published[0].where if published else None
        url = service_info(record, service, base).url
        main = main_service(record)
        routes = [rule_in_words(rule) for rule in record.spec.routes if (rule.service or main) == name]
        found.append(PortInfo(service=name, port=service.port, expose=spec.expose, url=url, address=address, routes=routes))
    declared = {port.port for port in found}
    for publish in record.spec.network.publish:
        if publish.port not in declared:
            found.append(PortInfo(service=main_service(record), port=publish.port, expose="tcp", address=publish.where))
    return found


def rule_in_words(rule: RouteRule) -> str:
    """A rule in a line: `shop.example.com/api X-Canary=1 cookie:beta=1 10`."""
    words = [f"{rule.host or ''}{rule.path}"]
    words += [f"{name}={value}" for name, value in rule.header.items()]
    words += [f"cookie:{name}={value}" for name, value in rule.cookie.items()]
    return " ".join(words) + (f" weight {rule.weight}" if rule.weight != 100 else "")


def health_of(record: EnvRecord) -> str | None:
    """healthy, unhealthy or starting while it runs; None otherwise."""
    if record.state not in (State.STARTING, State.READY):
        return None
    if any(service.unready for service in record.services.values()):
        return "unhealthy"
    if record.state is State.STARTING:
        return "starting"
    return "unhealthy" if any(s.state is ServiceState.FAILED for s in record.services.values()) else "healthy"


def env_info(record: EnvRecord, base: str, *, whole: bool = False, usage: Usage | None = None, ahead: float = 0.0) -> EnvInfo:
    """The env; whole: with its spec. ahead: see `clock`."""
    limits = record.limits
    return EnvInfo(
        id=record.id,
        name=record.name,
        state=record.state.value,
        wanted=record.wanted.value,
        key=record.key or None,
        template=record.template.partition(".")[0] or None,  # its owner's, whom `owner` names
        health=health_of(record),
        reason=reason_of(record),
        exit_code=record.exit_code,
        command=command_of(next(iter(record.spec.services.values()))),
        services=[service_info(record, service, base) for service in record.services.values()],
        url=url_of(record, base),
        ports=ports_of(record, base),
        workspace=record.spec.workspace.path,
        owner=record.owner,
        created=rfc3339(record.created, ahead) or "",
        started=rfc3339(record.started, ahead),
        ready=rfc3339(record.ready, ahead),
        finished=rfc3339(record.finished, ahead),
        restarts=record.restarts + sum(service.restarts for service in record.services.values()),
        pid=record.init.pid if record.init else None,
        labels=record.spec.labels,
        limits={name: getattr(limits, name) for name in limits.__struct_fields__},
        limits_enforced=record.enforced if record.init else {},
        egress=egress_of(record),
        cgroup=record.cgroup if record.init and record.cgroup else None,
        walls={
            name: WallInfo(offered=w.offered, demanded=w.demanded, enforced=w.enforced, reason=w.reason)
            for name, w in record.walls.items()
        },
        accepted=record.accepted,
        usage=usage,
        replica_of=record.replica_of or None,
        spec=record.spec if whole else None,
    )


def egress_of(record: EnvRecord) -> str:
    """What it reaches outside, in words."""
    if record.spec.network.mode == "host":
        return "as this host"
    if record.reaches_out:
        return ", ".join(record.egress) or "none"
    return f"none, because {record.no_way}" if record.no_way else "none"


def reason_of(record: EnvRecord) -> str:
    """`memory: …` where a cause is known, else the plain reason."""
    if record.cause and record.reason:
        return f"{record.cause}: {record.reason}"
    return record.cause or record.reason


def matches(record: EnvRecord, filters: list[str]) -> bool:
    """docker's rule: the same key several times is or, different keys are and. Raises UsageError."""
    wanted: dict[str, list[str]] = {}
    for text in filters:
        key, equals, value = text.partition("=")
        if not equals or key not in ("status", "state", "label", "name", "id", "health", "key", "template"):
            raise UsageError(
                f"filter {text!r} cannot be meant", hint="status=, health=, label=K[=V], name=, id=, template= or key="
            )
        wanted.setdefault("status" if key == "state" else key, []).append(value)
    return all(any(_matches_one(record, key, value) for value in values) for key, values in wanted.items())


def _matches_one(record: EnvRecord, key: str, value: str) -> bool:
    if key == "label":
        name, equals, text = value.partition("=")
        return name in record.spec.labels and (not equals or record.spec.labels[name] == text)
    if key == "status":
        if record.state is State.SUSPENDED:
            return value in ("suspended", "paused")
        running = value == "running" and any(service.state in UP for service in record.services.values())
        exited = value == "exited" and record.state in (State.STOPPED, State.FAILED)
        return running or exited or record.state.value == value
    if key == "template":
        return bool(value) and value in (record.template, record.template.partition(".")[0])
    if key == "key":
        return bool(value) and record.key == value
    if key == "health":
        return health_of(record) == value
    return value in record.name if key == "name" else record.id.startswith(value)
