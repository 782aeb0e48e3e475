"""How an env ends: asked to, by itself, by a limit, or lost. Pure; entries of the machine's table.

Every end but a lost init goes through `stopping` and is over only when init is gone.
"""

from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.order import stoppable
from sandboxd.lifecycle.restart import delay, parse_policy, wants_restart
from sandboxd.lifecycle.states import State, Wanted
from sandboxd.lifecycle.turn import Turn

HOST = "host"  # the cause of what ended with its host
CAUSES_FAIL = frozenset({"ttl", "memory", "pids", "disk", "killed", "lost"})


def graceful_stop(turn: Turn, event: ev.Event) -> None:
    """Tell the services to stop, dependents first; kill what is left when the grace is over."""
    assert isinstance(event, ev.StopAsked)
    turn.set(
        state=State.STOPPING,
        again=event.again,
        wanted=Wanted.RUNNING if event.again else Wanted.STOPPED,
        cause=event.cause,
        reason=event.reason,
    )
    turn.do(ev.Disarm(), ev.EndProbes(), ev.Announce(event="stopping", detail={"cause": event.cause} if event.cause else {}))
    grace = event.grace
    if grace is None:
        grace = max(spec.stop_timeout for spec in turn.record.spec.services.values())
    turn.do(ev.Arm(timer="grace", after=grace, event=ev.GraceOver()))
    begin_end(turn)


def begin_end(turn: Turn) -> None:
    """Signal the services whose turn it is to stop; with none up, end the tree."""
    if not turn.up():
        end_init(turn)
        return
    for name in stoppable(turn.record.spec.services, turn.record.services):
        if turn.record.services[name].pid is not None:
            turn.do(ev.SignalService(service=name))


def end_init(turn: Turn) -> None:
    """Nothing runs any more but init, which may still be passing on the last output."""
    turn.set(state=State.STOPPING)
    turn.do(ev.EndProbes())
    if turn.record.init is not None:
        turn.do(ev.EndInit())


def kill_now(turn: Turn) -> None:
    """Kill init; without one (its launch is under way) the launch's own end will say."""
    turn.set(state=State.STOPPING)
    turn.do(ev.Disarm(), ev.EndProbes())
    if turn.record.init is not None:
        turn.do(ev.KillInit())


def end_failed(turn: Turn, reason: str, exit_code: int | None) -> None:
    """It cannot go on: everything that still runs is stopped, and the reason kept."""
    turn.set(reason=reason, exit_code=exit_code, state=State.STOPPING)
    turn.do(ev.Disarm(), ev.EndProbes())
    grace = max(spec.stop_timeout for spec in turn.record.spec.services.values())
    turn.do(ev.Arm(timer="grace", after=grace, event=ev.GraceOver()))
    begin_end(turn)


def end_of_services(turn: Turn) -> None:
    """The last service ended by itself."""
    turn.set(exit_code=overall_exit_code(turn))
    turn.do(ev.Disarm())
    end_init(turn)


def overall_exit_code(turn: Turn) -> int | None:
    """The first service's code that is not 0 in the order of the spec, else 0; None when none ever ran."""
    codes = [service.exit_code for service in turn.record.services.values() if service.exit_code is not None]
    return next((code for code in codes if code), 0 if codes else None)


def settle(turn: Turn) -> None:
    """No process of the env is left: write down how it ended, and what comes next."""
    record = turn.record
    code = record.exit_code
    if record.cause not in ("", "idle", HOST):
        code = 137
    elif code is None:
        code = overall_exit_code(turn)
        if code is None and record.init is not None:
            code = 137
    for name in turn.up():
        turn.service(name, state="exited", exit_code=137, pid=None)
    in_order = record.wanted is not Wanted.RUNNING or (record.cause == HOST and record.state is State.STOPPING)
    asked = in_order and record.cause in ("", "idle", HOST) and record.error is None
    badly = record.cause in CAUSES_FAIL or record.error is not None or code not in (0, None)
    failed = badly and not asked and not record.again
    turn.set(state=State.FAILED if failed else State.STOPPED, finished=turn.now, exit_code=code, init=None)
    turn.set(suspended=None, suspended_by="")
    turn.do(ev.Disarm(), ev.EndProbes(), ev.Settle())
    detail = {"exit_code": str(code)} if code is not None else {}
    if turn.record.reason:
        detail["reason"] = turn.record.reason
    turn.do(ev.Announce(event="failed" if failed else "stopped", detail=detail))
    what_next(turn)


def what_next(turn: Turn) -> None:
    """After an end: remove it, start it again, or leave it."""
    record = turn.record
    if record.wanted is Wanted.REMOVED or (record.spec.lifecycle.remove and not record.again):
        turn.set(state=State.REMOVED, wanted=Wanted.REMOVED)
        turn.do(ev.Discard())
    elif record.again:  # until it starts: this daemon may die before its timer fires
        turn.do(ev.Arm(timer="restart:", after=0.0, event=ev.StartAsked()))
    elif record.wanted is Wanted.RUNNING and record.cause not in ("", "ttl", HOST) and record.error is None:
        # a limit or a kill took the whole tree: the env's own policy says whether it comes back
        policy = parse_policy(record.spec.lifecycle.restart)
        if wants_restart(policy, record.exit_code or 0, record.restarts):
            turn.do(ev.Arm(timer="restart:", after=delay(record.restarts), event=ev.RestartDue()))
