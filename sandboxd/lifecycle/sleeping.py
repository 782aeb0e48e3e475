"""Suspend and resume: an env of which nothing runs, yet nothing is lost. Pure; entries of the machine's table.

While suspended its time to live runs on, as time does; what its own processes would have waited for (readiness checks, the
delay before a restart) waits with them and begins anew. Nothing is started: what became due is started at the resume. An end
that leaves time to the services lets them run again, or they could never use it; a kill reaches stopped processes as they are.
"""

from collections.abc import Callable

from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.restart import delay
from sandboxd.lifecycle.running import all_ready, arm_ttl, become_ready
from sandboxd.lifecycle.states import ServiceState, State
from sandboxd.lifecycle.turn import Turn, start_next


def suspend(turn: Turn, event: ev.Event) -> None:
    """Stop everything; before init is there, there is nothing to stop."""
    assert isinstance(event, ev.SuspendAsked)
    if turn.record.init is None:
        return
    turn.set(state=State.SUSPENDED, suspended=turn.now, suspended_by=event.by, idle_since=event.since, woken=False)
    turn.do(ev.EndProbes(), *(ev.Disarm(timer=f"restart:{name}") for name in waiting(turn)), ev.Suspend())


def suspend_again(turn: Turn, event: ev.Event) -> None:
    """A user may say of what was suspended for being idle that it is to stay so; the other way round nothing changes."""
    assert isinstance(event, ev.SuspendAsked)
    if event.by == "user":
        turn.set(suspended_by="user", idle_since=None)


def suspended(turn: Turn, event: ev.Event) -> None:
    """Nothing of it runs."""
    assert isinstance(event, ev.Suspended)
    turn.do(ev.Announce(event="suspended", detail={"by": turn.record.suspended_by, **event.detail}))


def suspend_failed(turn: Turn, event: ev.Event) -> None:
    """Half a suspended env is worse than none: let all of it run."""
    assert isinstance(event, ev.SuspendFailed)
    resume(turn, ev.ResumeAsked())
    turn.do(ev.Announce(event="resumed", detail={"reason": event.reason}))


def resume_asked(turn: Turn, event: ev.Event) -> None:
    """Run on."""
    by = event.by if isinstance(event, ev.ResumeAsked) else "user"
    resume(turn, event)
    turn.do(ev.Announce(event="resumed", detail={"by": by}))


def resume(turn: Turn, event: ev.Event) -> None:
    """As it was before; what came due meanwhile is due now."""
    turn.set(state=State.STARTING, suspended=None, suspended_by="", idle_since=None, woken=True)
    if all_ready(turn):
        turn.set(state=State.READY)
    turn.do(ev.Resume())
    for name, service in turn.record.services.items():
        spec = turn.record.spec.services[name]
        if service.state is ServiceState.RUNNING and spec.ready is None and spec.port is None:
            become_ready(turn, name)
        if service.state is ServiceState.RUNNING or (service.state is ServiceState.READY and service.port is None):
            turn.do(ev.Probe(service=name))
    for name in waiting(turn):
        failures = turn.record.services[name].failures
        turn.do(ev.Arm(timer=f"restart:{name}", after=delay(failures - 1), event=ev.RestartDue(service=name)))
    start_next(turn)


def adopted(turn: Turn, event: ev.Event) -> None:
    """Another daemon may have died before it had stopped everything."""
    arm_ttl(turn)
    turn.do(ev.Suspend(again=True))


def started_suspended(turn: Turn, event: ev.Event) -> None:
    """It was executed just before: its readiness is looked at when it runs again."""
    assert isinstance(event, ev.ServiceStarted)
    if turn.record.services[event.service].state is ServiceState.STARTING:
        turn.service(event.service, state=ServiceState.RUNNING, pid=event.pid, started=turn.now, exit_code=None)
        turn.do(ev.Announce(event="started", detail={"service": event.service}))


def waiting(turn: Turn) -> list[str]:
    """The services that wait for the delay before a restart."""
    return [name for name, s in turn.record.services.items() if s.state is ServiceState.WAITING and s.failures]


def unless_stopped(handler: Callable[[Turn, ev.Event], None]) -> Callable[[Turn, ev.Event], None]:
    """An entry that is passed over when it is for a request and the env's owner has stopped it (before that was seen)."""

    def handle(turn: Turn, event: ev.Event) -> None:
        assert isinstance(event, ev.StartAsked)
        if not event.woken or turn.record.cause == "idle":
            handler(turn, event)

    return handle


def waking(handler: Callable[[Turn, ev.Event], None]) -> Callable[[Turn, ev.Event], None]:
    """An entry by which a suspended env may come to its end: with some grace, and then it must run."""

    def handle(turn: Turn, event: ev.Event) -> None:
        handler(turn, event)
        if turn.record.state is State.STOPPING:
            idle_since = turn.record.idle_since if turn.record.cause == "idle" else None
            turn.set(suspended=None, suspended_by="", idle_since=idle_since, woken=True)
            if not any(isinstance(effect, ev.KillInit) for effect in turn.effects):
                turn.do(ev.Resume())

    return handle
