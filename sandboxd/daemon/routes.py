"""Records as the router sees them: every name under which an env is reached, and where its services are. Pure.

NAME.localhost is the env's main service, SERVICE.NAME.localhost one service, ID.localhost the main one for as long as it lives.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from sandboxd.lifecycle.demand import is_over
from sandboxd.lifecycle.records import EnvRecord, ServiceRecord
from sandboxd.lifecycle.scaling import is_scaled
from sandboxd.lifecycle.states import OVER, UP, ServiceState, State, Wanted
from sandboxd.lifecycle.view import main_service
from sandboxd.routing.keys import Door, slot_of
from sandboxd.routing.rules import Rule
from sandboxd.routing.table import Endpoint, Route, RouteTable

Reach = Literal["ready", "starting", "asleep", "stopped", "failed"]


class Ground(NamedTuple):
    """What a table stands on besides the envs. hold: seconds a request waits for an env that is starting. own: what the daemon
    serves by itself. doors: the templates, by name. coming: of envs that are being launched, the cookie of the network that
    each gets: no copy, but as it is now."""

    base_domain: str
    envs_dir: str
    hold: float
    own: Sequence[Endpoint] = ()
    doors: Mapping[str, Door] = {}
    coming: Mapping[str, int] = {}


def route_table(records: Sequence[EnvRecord], ground: Ground, *, version: int) -> RouteTable:
    """The whole table."""
    base_domain, own = ground.base_domain, ground.own
    endpoints: list[Endpoint] = list(own)
    routes = [Route(host=f"{endpoint.name}.{base_domain}", endpoint=index) for index, endpoint in enumerate(endpoints)]
    for record in records:
        places, hosts = reached(record, ground)
        routes += [Route(host=host, endpoint=len(endpoints) + at) for host, at in hosts]
        endpoints += places
    rules = rules_of(records, endpoints, routes, base_domain, {f"{one.name}.{base_domain}" for one in own})
    doors = list(ground.doors.values())
    return RouteTable(
        version=version, endpoints=endpoints, routes=routes, hold=ground.hold, rules=rules, doors=doors, base=base_domain
    )


def reached(record: EnvRecord, ground: Ground) -> tuple[list[Endpoint], list[tuple[str, int]]]:
    """One env's endpoints, and the names that lead to each, by its place among them."""
    endpoints: list[Endpoint] = []
    hosts: list[tuple[str, int]] = []
    if record.state is State.REMOVED or record.spec.network.mode == "none":
        return endpoints, hosts
    main = main_service(record)
    for name, service in record.services.items():
        if record.spec.services[name].expose == "none":
            continue
        named = [f"{name}.{record.host}"]
        if name == main:
            named += [record.host, record.id]
        # a request to what speaks another protocol could be an attack on it
        if record.spec.services[name].expose == "http":
            hosts += [(f"{host}.{ground.base_domain}", len(endpoints)) for host in named]
            if name == main and record.key and record.template in ground.doors and not is_over(record):
                hosts.append((slot_host(ground.doors[record.template], record.key), len(endpoints)))
        endpoints.append(endpoint(record, service, f"{ground.envs_dir}/{record.id}/dial.sock", ground.coming.get(record.id, 0)))
    return endpoints, hosts


def slot_host(door: Door, key: str) -> str:
    """The name of a key's route, which no Host field can say."""
    return f"{slot(door.secret, key)}@{door.host}"


slot = lru_cache(1 << 16)(slot_of)


def rules_of(
    records: Sequence[EnvRecord], endpoints: Sequence[Endpoint], routes: Sequence[Route], base_domain: str, reserved: set[str]
) -> list[Rule]:
    """The rules of all envs. A name belongs to the owner of what has it, or of who claims it first; others cannot route it."""
    owners = {route.host: endpoints[route.endpoint].owner for route in routes}
    places = {(one.env_id, one.service): index for index, one in enumerate(endpoints)}
    found = []
    for record in records:
        for rule in record.spec.routes:
            place = places.get((record.id, rule.service or main_service(record)))
            if place is None:
                continue
            hosts = (
                [below(rule.host, base_domain)] if rule.host else [f"{record.host}.{base_domain}", f"{record.id}.{base_domain}"]
            )
            for host in hosts:
                if host not in reserved and owners.setdefault(host, record.owner) == record.owner:
                    found.append(
                        Rule(
                            host=host,
                            endpoint=place,
                            path=rule.path,
                            strip=rule.strip,
                            header=rule.header,
                            cookie=rule.cookie,
                            weight=rule.weight,
                        )
                    )
    return found


def below(host: str, base_domain: str) -> str:
    """A name that a spec gives, below the base domain where it is below `localhost`: to the router both are one."""
    name, dot, last = host.rpartition(".")
    return f"{name}.{base_domain}" if dot and last == "localhost" else host


def endpoint(record: EnvRecord, service: ServiceRecord, dial: str, coming: int = 0) -> Endpoint:
    """One service. dial: the path of the env's dial.sock; unused on the host's network. coming: see `Ground`."""
    state, reason = reachability(record, service)
    cookie = record.init.netns_cookie if record.init else coming
    return Endpoint(
        env_id=record.id,
        name=record.name,
        service=service.name,
        state=state,
        dial="" if record.spec.network.mode == "host" else dial,
        port=service.port,
        netns_cookie=cookie if record.spec.network.mode == "private" else 0,
        owner=record.owner,
        init_pid=record.init.pid if record.init and record.spec.network.mode == "host" else 0,
        reason=reason,
        group=record.replica_of or (record.id if is_scaled(record) else ""),
        replica=record.replica,
        draining=record.draining is not None,
        sticky=record.spec.scale is not None and record.spec.scale.sticky,
        max_connections=record.limits.max_connections or 0,
        share=record.share,
        token=record.token if record.share == "link" else "",
        early=state == "starting" and bool(cookie) and is_early(record, service),
    )


def is_early(record: EnvRecord, service: ServiceRecord) -> bool:
    """Whether a request may find out by itself that it listens: that is all its readiness asks for, and nobody counts who
    comes, or chooses among several."""
    spec = record.spec.services[service.name]
    no_check = spec.ready is None or (spec.ready.http is None and spec.ready.command is None)
    is_alone = not (record.replica_of or is_scaled(record) or record.limits.max_connections)
    return no_check and is_alone and spec.port is not None and record.spec.network.mode == "private" and service.state in UP


def reachability(record: EnvRecord, service: ServiceRecord) -> tuple[Reach, str]:
    """ready, starting or asleep (the router holds the client), stopped or failed; and what to tell the client."""
    if is_asleep(record):
        return "asleep", ""
    if record.state is State.FAILED or service.state is ServiceState.FAILED:
        return "failed", record.reason
    if record.state in (State.STOPPED, State.STOPPING, State.REMOVED):
        by_user = record.wanted is Wanted.STOPPED and not record.cause
        return "stopped", record.reason or ("Its owner stopped it." if by_user else "")
    if service.state in OVER:
        return "stopped", f"{service.name} exited ({service.exit_code})"
    if service.port is None:
        return "starting", f"{service.name} does not listen on any port yet" if service.state in UP else ""
    return ("ready", "") if service.state is ServiceState.READY and record.init is not None else ("starting", service.unready)


def is_asleep(record: EnvRecord) -> bool:
    """Whether a request wakes it: it is suspended, or was stopped for being idle; not what somebody stopped."""
    if record.state is State.SUSPENDED:
        return True
    return record.state in (State.STOPPED, State.STOPPING) and record.cause == "idle" and record.wanted is not Wanted.REMOVED
