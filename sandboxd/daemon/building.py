"""Making one env: its directory, sockets and log files, its published ports, the plan, and the launch. Called by `body`.

Everything init will need is opened here and handed over as descriptors: init has no path of the host. Nothing is kept open
on this side, and on any failure nothing half-made stays but the directory, which the env's removal takes.
"""

import errno
import logging
import os
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from sandboxd.daemon.berths import APPEND, LOGS, Berth, log_name, unnamed
from sandboxd.errors import Internal, LaunchFailed, SandboxdError
from sandboxd.isolation.facts import LimitFacts
from sandboxd.isolation.plan import LaunchPlan, plan
from sandboxd.isolation.steps import Affinity
from sandboxd.kernel.identity import acting_as
from sandboxd.launch.doorway import bind_sockets
from sandboxd.launch.guards import unguarded
from sandboxd.launch.initlink import InitLink, InitStatus
from sandboxd.launch.parcel import InitFds
from sandboxd.launch.probes import look_at
from sandboxd.launch.repository import repository_of
from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.records import EnvRecord, Identity, Wall
from sandboxd.lifecycle.states import ENDED
from sandboxd.lifecycle.view import main_service
from sandboxd.limits.cpus import rank
from sandboxd.routing.orders import Published
from sandboxd.spec import EnvSpec
from sandboxd.store.rundir import SCARCE, failed

if TYPE_CHECKING:
    from sandboxd.daemon.actor import Actor
    from sandboxd.daemon.supervisor import Supervisor
    from sandboxd.router.handle import RouterHandle


log = logging.getLogger(__name__)
STARTED_ANEW = ("launcher", "router")
FULL = (errno.ENOSPC, errno.EDQUOT)


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """A launched env; pidfd and diag (-1: none) are the caller's."""

    pid: int
    pidfd: int
    diag: int
    start_time: int
    boot_id: str
    netns_cookie: int
    walls: frozenset[str]
    status: InitStatus | None = None
    group: str
    plan: LaunchPlan


async def build(actor: "Actor", start: list[str], attach: dict[str, dict[str, int]]) -> Built:
    """Build the env and have init execute the services of `start`; raises what the plan, a port or the launcher refuses."""
    supervisor, record = actor.supervisor, actor.record
    env_dir = supervisor.rundir.env_dir(record.id)
    opened: list[int] = []
    try:
        first, ahead = first_fds(supervisor, record.id, env_dir, opened)
        if record.spec.isolation.level != "full":
            make_scratch(env_dir)
        made = with_session(make_plan(supervisor, record, env_dir, start), attach, actor.body.prepared_window)
        router = supervisor.router
        await publish(router, record)

        def given(cookie: int) -> InitFds:
            supervisor.is_coming(record.id, cookie)
            return replace(first, logs=open_logs(env_dir, list(record.services), opened, ahead), attach=attach)

        launched = await supervisor.launcher.launch(
            made, given, lambda group: supervisor.control.limit(record.limits, group, made.limits)
        )
    except BaseException:
        supervisor.coming.pop(record.id, None)
        raise
    finally:
        for fd in opened:
            os.close(fd)
    supervisor.pooling.learn(record.template, launched.shape)
    if supervisor.router is not router:  # it has died meanwhile; to the next one this env was none to be reached as yet
        await republish(supervisor.router, record)
    return Built(
        pid=launched.pid,
        pidfd=launched.pidfd,
        diag=launched.diag,
        start_time=launched.start_time,
        boot_id=launched.boot_id,
        netns_cookie=launched.netns_cookie,
        walls=launched.walls,
        status=launched.status,
        group=launched.group,
        plan=made,
    )


def make_scratch(env_dir: Path) -> None:
    """Where temporary files go below level full. What the env left there stays as it is: no link is followed."""
    home = os.open(env_dir / "home", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.mkdir("tmp", 0o700, dir_fd=home)
    except FileExistsError:
        return
    finally:
        os.close(home)


async def publish(router: "RouterHandle", record: EnvRecord) -> None:
    """Have the router listen on the env's published host addresses; raises PortTaken, LaunchFailed where it has died."""
    for published in record.spec.network.publish:
        held = Published(
            address=published.address,
            host_port=published.host_port,
            env_id=record.id,
            service=service_of_port(record, published.port),
            port=published.port,
            proxy=published.proxy_protocol,
            owner=record.owner if published.address.startswith("unix:") else -1,
        )
        try:
            await router.publish(held)
        except Internal as error:
            raise LaunchFailed(error.message, hint=error.hint, step="router", errno=0) from error


async def republish(router: "RouterHandle", record: EnvRecord) -> None:
    """At a new router, of an env that runs: who took its port meanwhile has it, and it runs on."""
    try:
        await publish(router, record)
    except SandboxdError as error:
        log.error("env %s: its published port is lost: %s", record.name, error)


def make_plan(
    supervisor: "Supervisor", record: EnvRecord, env_dir: Path, start: list[str], facts: LimitFacts | None = None
) -> LaunchPlan:
    """Look at the host and the spec's paths, and decide every step. facts: of limits, where they are not the host's."""
    spec = replace(with_given_port(record), limits=record.limits)
    with acting_as(*files_of(record)):
        place = look_at(spec, environ=record.environ, env_dir=env_dir, uid=record.owner)
    made = plan(
        spec,
        id=record.id,
        name=record.name,
        host=supervisor.host if facts is None else replace(supervisor.host, limits=facts),
        place=place,
        environ=record.environ,
        uid=record.owner,
        gid=record.group,
        url=f"http://{record.host}.{supervisor.base}",
        cpus=cpus_for(supervisor, record),
    )
    init = replace(made.init, start=start, log_limit=log_limit(supervisor, record))
    return replace(made, init=init)


def files_of(record: EnvRecord) -> tuple[int, int]:
    """As whom the paths of its spec are looked at: its owner where it has a name, else ourselves."""
    return (record.owner, record.group) if record.user else (os.geteuid(), os.getegid())


def cpus_for(supervisor: "Supervisor", record: EnvRecord) -> list[int]:
    """The CPUs it has, or those it is to have where their number is limited."""
    if record.init:
        return record.cpus
    if record.limits.cpus is None:
        return []
    held = [actor.record.cpus for actor in supervisor.actors.values() if actor.record.state not in ENDED]
    return rank(supervisor.host.limits.cpus, held, supervisor.load.busy())  # the least loaded first


def told(launched: Built) -> ev.Launched:
    """What the env's record is to know of a launch."""
    return ev.Launched(
        init=Identity(
            pid=launched.pid,
            start_time=launched.start_time,
            boot_id=launched.boot_id,
            netns_cookie=launched.netns_cookie,
        ),
        walls=walls_of(launched),
        enforced=launched.plan.limits,
        cpus=cpus_of(launched.plan),
        cgroup=launched.group,
        no_way=launched.plan.no_way,
    )


def log_limit(supervisor: "Supervisor", record: EnvRecord) -> int:
    """Bytes of each of a service's two log files: all of them together take no more than half of what may be on disk."""
    most = supervisor.settings.log_limit
    if record.limits.disk is None:
        return most
    return max(4096, min(most, record.limits.disk // (4 * len(record.services))))


def cpus_of(made: LaunchPlan) -> list[int]:
    """The CPUs that a plan gives the env, where their number is limited that way."""
    return next((step.cpus for step in made.steps if isinstance(step, Affinity)), [])


def with_given_port(record: EnvRecord) -> EnvSpec:
    """The spec, with PORT saying the port that is this env's on the host's network."""
    if record.given_port is None:
        return record.spec
    port = {"PORT": str(record.given_port)}
    services = {name: replace(service, env=port | service.env) for name, service in record.spec.services.items()}
    return replace(record.spec, services=services)


def with_session(made: LaunchPlan, attach: dict[str, dict[str, int]], window: tuple[int, int]) -> LaunchPlan:
    """The plan, with somebody attached from the start: their window, and a service that waits for them as for any pipe."""
    if not attach:
        return made
    services = {
        name: replace(service, rows=window[0], cols=window[1]) if name in attach else service
        for name, service in made.init.services.items()
    }
    return replace(made, init=replace(made.init, services=services, slow=dict.fromkeys(attach, "wait")))


def service_of_port(record: EnvRecord, port: int) -> str:
    """The service that declared that port, else the main one."""
    return next((name for name, service in record.services.items() if service.port == port), main_service(record))


def first_fds(supervisor: "Supervisor", env_id: str, env_dir: Path, opened: list[int]) -> tuple[InitFds, tuple[int, ...]]:
    """The sockets and the exits file, from a place made ahead or made now, and log files without a name, if there are any; each
    is also put into `opened`, to be closed."""
    berth = supervisor.berths.claim(env_id)
    if berth is None:
        if not env_dir.is_dir():
            supervisor.rundir.create_env_dir(env_id)
        berth = Berth(bind_sockets(env_dir), os.open(env_dir / "exits", APPEND, 0o600))
    control, dial = berth.sockets.control.detach(), berth.sockets.dial.detach()
    opened += [control, dial, berth.exits, *berth.logs]
    return InitFds(control=control, dial=dial, exits=berth.exits), berth.logs


def open_logs(env_dir: Path, services: list[str], opened: list[int], ahead: tuple[int, ...] = ()) -> dict[str, tuple[int, int]]:
    """Every service's two log files; each descriptor is also put into `opened`. ahead: two without a name, for the first."""
    directory = os.open(env_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    opened.append(directory)
    found: dict[str, tuple[int, int]] = {}
    for name in services:
        if ahead and not found:
            for which in LOGS:
                os.rename(unnamed(which), log_name(name, which), src_dir_fd=directory, dst_dir_fd=directory)
            found[name] = ahead[0], ahead[1]
            continue
        for which in LOGS:
            opened.append(open_log(directory, name, which))
        found[name] = opened[-2], opened[-1]
    return found


def open_log(directory: int, service: str, which: int) -> int:
    """One of a service's two log files."""
    return os.open(log_name(service, which), APPEND, 0o600, dir_fd=directory)


def service_plans(made: LaunchPlan) -> dict[str, dict[str, object]]:
    """The plan's services as init takes them."""
    return {name: msgspec.to_builtins(service) | {"name": name} for name, service in made.init.services.items()}


def service_plan(actor: "Actor", name: str) -> dict[str, object]:
    """One service as init takes it; made anew where another daemon launched the env."""
    if name not in actor.body.config:
        supervisor, record = actor.supervisor, actor.record
        actor.body.config = service_plans(make_plan(supervisor, record, supervisor.rundir.env_dir(record.id), []))
    return actor.body.config[name]


def exec_plan(actor: "Actor", argv: list[str], service: str | None = None, **changes: object) -> dict[str, object]:
    """A command as init takes it: in the surroundings of a service, with neither terminal nor input unless changed."""
    surroundings = service_plan(actor, service or next(iter(actor.record.services)))
    return surroundings | {"argv": argv, "tty": False, "stdin": False} | changes


async def start_service(actor: "Actor", link: InitLink, name: str) -> int:
    """Have init execute one service now; its pid as seen inside. Raises why it could not be."""
    directory = os.open(actor.supervisor.rundir.env_dir(actor.record.id), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    logs: list[int] = []
    try:
        logs.extend(open_log(directory, name, which) for which in (0, 1))
        return await link.start(service_plan(actor, name), logs=(logs[0], logs[1]))
    finally:
        for fd in (*logs, directory):
            os.close(fd)


def unguarded_of(record: EnvRecord) -> list[str]:
    """What somebody outside obeys and the env can write now; nothing where no mounts of its own guard it. Raises OSError."""
    wall = record.walls.get("mount")
    if record.init is None or wall is None or not wall.enforced:
        return []
    with acting_as(*files_of(record)):
        return unguarded(record.init.pid, writable_trees(record))


def writable_trees(record: EnvRecord) -> list[tuple[str, str]]:
    """What of the host it can write: where that is, and where it is shown."""
    workspace = os.path.realpath(record.spec.workspace.path) if record.spec.workspace.path else None
    trees = [(workspace, workspace)] if workspace else []
    repository = repository_of(workspace, record.owner) if workspace else None
    trees += [(repository.mine, repository.mine)] if repository else []
    trees += [
        (os.path.realpath(mount.source), os.path.normpath(mount.target))
        for mount in record.spec.mounts
        if not mount.readonly and os.path.isdir(mount.source)
    ]
    return trees


def walls_of(built: Built) -> dict[str, Wall]:
    """The plan's walls as the record keeps them: enforced is what the env itself found to hold."""
    return {
        name: Wall(offered=wall.offered, demanded=wall.demanded, enforced=name in built.walls, reason=wall.reason)
        for name, wall in built.plan.walls.items()
    }


def close_all(attach: dict[str, dict[str, int]]) -> None:
    """Close the inner ends that were handed over, or were to be."""
    for ends in attach.values():
        for fd in ends.values():
            os.close(fd)
    attach.clear()


def comes_back(error: Exception, missing: Container[str]) -> bool:
    """Whether what was missing comes back by itself: namespaces (the quota is used up for a moment after an env's end), or
    launcher or router, which are started anew when they die. missing: what could not be started anew the last time."""
    if not isinstance(error, SandboxdError):
        return False
    no_namespace = error.details.get("errno") == errno.ENOSPC and "clone3" in error.message
    return no_namespace or (error.details.get("step") in STARTED_ANEW and error.details["step"] not in missing)


def in_words(actor: "Actor", error: Exception) -> SandboxdError:
    """What kept an env from being built, or a service of it from being started, as an error of ours."""
    supervisor, record = actor.supervisor, actor.record
    if isinstance(error, SandboxdError):
        why = supervisor.missing.get(str(error.details.get("step")), "")
        if why:
            return LaunchFailed(f"{error.message}, and no other can be started: {why}", hint=error.hint)
        if error.details.get("errno") in FULL and not error.hint:  # of what is made in its home, as the places that things go
            what = OSError(error.details["errno"], error.message)
            return LaunchFailed(error.message, hint=failed(what, supervisor.rundir.env_dir(record.id)).hint, **error.details)
        return error
    if isinstance(error, OSError) and error.errno in SCARCE:
        return failed(error, supervisor.rundir.env_dir(record.id))
    log.error("env %s could not be built", record.name, exc_info=error)
    return Internal(f"building the env failed: {error}", hint="the daemon's log tells more")
