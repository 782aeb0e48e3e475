"""What becomes of an env while it runs: services start, turn ready, end, start again. Pure; entries of the machine's table."""

from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.ending import end_failed, end_of_services
from sandboxd.lifecycle.order import blocked_by
from sandboxd.lifecycle.restart import delay, failures_after, parse_policy, wants_restart
from sandboxd.lifecycle.states import OVER, ServiceState, State
from sandboxd.lifecycle.turn import Turn, start_next, time_left, ttl_over


def service_started(turn: Turn, event: ev.Event, *, probe: bool = True) -> None:
    """Executed. Without a check and without a port to wait for it counts as ready at once; its port is still looked for."""
    assert isinstance(event, ev.ServiceStarted)
    if turn.record.services[event.service].state is not ServiceState.STARTING:
        return  # its exit was told first
    turn.service(event.service, state=ServiceState.RUNNING, pid=event.pid, started=turn.now, exit_code=None)
    if not probe:
        return
    turn.do(ev.Announce(event="started", detail={"service": event.service}))
    spec = turn.record.spec.services[event.service]
    if spec.ready is None and spec.port is None:
        become_ready(turn, event.service)
    turn.do(ev.Probe(service=event.service))


def note_ready(turn: Turn, event: ev.Event) -> None:
    """Its check holds."""
    assert isinstance(event, ev.ServiceReady)
    if event.port is not None:
        turn.service(event.service, port=event.port)
    if turn.record.services[event.service].state is ServiceState.RUNNING:
        become_ready(turn, event.service)


def become_ready(turn: Turn, name: str) -> None:
    """One service is ready; its dependents start, and with the last one the env is ready."""
    turn.service(name, state=ServiceState.READY, unready="")
    start_next(turn)
    settle_readiness(turn)


def all_ready(turn: Turn) -> bool:
    """Whether every service is ready or has ended, and one at least is there to be ready."""
    states = [service.state for service in turn.record.services.values()]
    return ServiceState.READY in states and all(state in OVER or state is ServiceState.READY for state in states)


def settle_readiness(turn: Turn) -> None:
    """Ready, or not any more."""
    is_ready = all_ready(turn)
    if is_ready and turn.record.state is State.STARTING:
        turn.set(state=State.READY, ready=turn.now, reason="")
        turn.do(ev.Announce(event="ready"))
    elif not is_ready and turn.record.state is State.READY:
        turn.set(state=State.STARTING)


def note_unready(turn: Turn, event: ev.Event) -> None:
    """Not ready in time: said, not punished; it may yet become ready."""
    assert isinstance(event, ev.ServiceUnready)
    turn.service(event.service, unready=event.reason)
    turn.set(reason=event.reason)
    turn.do(ev.Announce(event="unhealthy", detail={"service": event.service, "reason": event.reason}))


def note_port(turn: Turn, event: ev.Event) -> None:
    """The port of a service that declared none."""
    assert isinstance(event, ev.PortFound)
    turn.service(event.service, port=event.port)
    turn.do(ev.Announce(event="port", detail={"service": event.service, "port": str(event.port)}))


def service_exited(turn: Turn, event: ev.Event) -> None:
    """Its main process ended by itself: start it again if its policy says so, else see what is left of the env."""
    assert isinstance(event, ev.ServiceExited)
    name = event.service
    if not turn.is_news(name, event.pid):
        return
    if turn.record.services[name].state is ServiceState.STARTING:
        service_started(turn, ev.ServiceStarted(service=name, pid=event.pid))  # its end overtook the word of its start
    before = turn.record.services[name]
    uptime = turn.now - before.started if before.started is not None else 0.0
    turn.do(ev.EndProbes(service=name))
    turn.note_exit(name, event.pid, event.exit_code)
    turn.do(ev.Announce(event="exited", detail={"service": name, "exit_code": str(event.exit_code)}))
    policy = parse_policy(turn.record.spec.services[name].restart or turn.record.spec.lifecycle.restart)
    if wants_restart(policy, event.exit_code, before.failures):
        failures = failures_after(before.failures, uptime)
        turn.service(name, state=ServiceState.WAITING, failures=failures)
        pause = delay(failures - 1)
        turn.do(ev.Arm(timer=f"restart:{name}", after=pause, event=ev.RestartDue(service=name)))
        turn.do(ev.Announce(event="restarting", detail={"service": name, "after": f"{pause:g}s"}))
        settle_readiness(turn)
    else:
        go_on_without(turn)


def go_on_without(turn: Turn) -> None:
    """A service has ended for good: dependents may start (a job done), be hopeless, or none is left at all."""
    blocked = blocked_by(turn.record.spec.services, turn.record.services)
    if blocked is not None:
        waiting, ended = blocked
        code = turn.record.services[ended].exit_code
        end_failed(turn, f"{waiting} needs {ended}, which exited ({code})", code)
        return
    start_next(turn)
    if all(service.state in OVER for service in turn.record.services.values()):
        end_of_services(turn)
    else:
        settle_readiness(turn)


def service_refused(turn: Turn, event: ev.Event) -> None:
    """It could not be executed: no restart would change that, so the env ends with that error."""
    assert isinstance(event, ev.ServiceRefused)
    code = {"CommandNotFound": 127, "CommandNotExecutable": 126}.get(event.error[0], 125)
    turn.service(event.service, state=ServiceState.FAILED, exit_code=code, pid=None)
    turn.set(error=event.error)
    end_failed(turn, event.error[1], code)


def arm_ttl(turn: Turn) -> None:
    """The rest of its time to live, counted from its start."""
    left = time_left(turn)
    if left is not None:
        over = ev.StopAsked(cause="ttl", reason=ttl_over(turn.record))
        turn.do(ev.Arm(timer="ttl", after=max(0.0, left), event=over))


def claimed(turn: Turn, event: ev.Event) -> None:
    """What was started ahead of its key has one now; a second one comes too late."""
    assert isinstance(event, ev.Claimed)
    if turn.record.key:
        return
    turn.set(key=event.key, source=event.source, claimed=turn.now)
    arm_ttl(turn)
    turn.do(ev.Announce(event="claimed", detail={"key": event.key}))


def resume_running(turn: Turn, event: ev.Event) -> None:
    """Another daemon's timers and probes are gone: arm and begin them again, and start what was about to start."""
    assert isinstance(event, ev.Adopted)
    arm_ttl(turn)
    if turn.record.woken:
        turn.do(ev.Resume())
    if turn.record.overrides:
        turn.do(ev.ApplyLimits())  # the daemon may have died between their record and their effect
    for name, service in turn.record.services.items():
        if service.state is ServiceState.WAITING and service.failures:
            turn.do(ev.Arm(timer=f"restart:{name}", after=delay(service.failures - 1), event=ev.RestartDue(service=name)))
        elif service.state is ServiceState.STARTING:
            if name not in event.begun:
                turn.do(ev.StartService(service=name))
        elif service.state is ServiceState.RUNNING or (service.state is ServiceState.READY and service.port is None):
            turn.do(ev.Probe(service=name))
    start_next(turn)


def restart_service(turn: Turn, event: ev.Event) -> None:
    """The delay is over."""
    assert isinstance(event, ev.RestartDue)
    service = turn.record.services.get(event.service)
    if service is not None and service.state is ServiceState.WAITING:
        turn.service(event.service, state=ServiceState.STARTING, restarts=service.restarts + 1)
        turn.do(ev.StartService(service=event.service))


def change_limits(turn: Turn, event: ev.Event) -> None:
    """`update`, `net --allow`: kept for every later start."""
    assert isinstance(event, ev.LimitsChanged)
    turn.set(overrides=event.overrides, allowed=event.allowed)


def change_limits_now(turn: Turn, event: ev.Event) -> None:
    """`update` of what runs."""
    assert isinstance(event, ev.LimitsChanged)
    turn.set(overrides=event.overrides, enforced=event.enforced, allowed=event.allowed)
    changed = {name: "none" if value is None else str(value) for name, value in event.overrides.items()}
    turn.do(ev.ApplyLimits(), ev.Announce(event="updated", detail=changed))


def change_scale(turn: Turn, event: ev.Event) -> None:
    """`scale`: kept; who starts and ends the replicas looks at the record."""
    assert isinstance(event, ev.ScaleAsked)
    turn.set(replicas=event.replicas)
    turn.do(ev.Announce(event="scaled", detail={"replicas": "auto" if event.replicas is None else str(event.replicas)}))


def change_drain(turn: Turn, event: ev.Event) -> None:
    """The router hears of it by the table."""
    assert isinstance(event, ev.DrainAsked)
    turn.set(draining=turn.now if event.draining else None)
    turn.do(ev.Announce(event="draining" if event.draining else "kept"))
