"""The life of an env as one total table: `step(record, event, now) -> (record, effects)`.

Theory. The record is what is true, the effects are what to do about it; the daemon journals the record *before* it runs the
effects, so a crash between the two leaves a record whose effects are run again, or whose world is looked at, by the next
daemon. Every (state, event) pair has an entry; pairs that mean nothing say `ignored`. Late events are normal: an exit that
arrives after the kill, a timer that fires after its reason went away, a second stop.

What does not work: letting `stopped` follow from the last service's exit. Only `InitGone` proves that no process of the env
is left, so every end goes through `stopping`: kill init, wait for it to be gone, then `stopped`, `failed`, `removed`, or
`starting` again. `cause` (ttl, memory, …) is set by whoever began the end and survives until the next start.
"""

from collections.abc import Callable

from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.ending import begin_end, graceful_stop, kill_now, settle, what_next
from sandboxd.lifecycle.hosting import come_back, gone, gone_while_stopping, host_ends
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.running import (
    arm_ttl,
    change_drain,
    change_limits,
    change_limits_now,
    change_scale,
    claimed,
    note_port,
    note_ready,
    note_unready,
    restart_service,
    resume_running,
    service_exited,
    service_refused,
    service_started,
)
from sandboxd.lifecycle.sleeping import (
    adopted,
    resume_asked,
    started_suspended,
    suspend,
    suspend_again,
    suspend_failed,
    suspended,
    unless_stopped,
    waking,
)
from sandboxd.lifecycle.states import ENDED, State, Wanted
from sandboxd.lifecycle.turn import Turn, fresh_services

Handler = Callable[[Turn, ev.Event], None]


def step(record: EnvRecord, event: ev.Event, now: float) -> tuple[EnvRecord, list[ev.Effect]]:
    """One event. now: seconds since the epoch. Never raises for any pair of state and event.

    Of a service that the spec does not have (any more) nothing is heard: init's word for a name is that of the env itself.
    """
    service = getattr(event, "service", None)
    if service is not None and service not in record.services and not isinstance(event, ev.RestartDue):
        return record, []
    turn = Turn(record, now)
    TABLE[record.state, type(event)](turn, event)
    return turn.record, turn.effects


def ignored(turn: Turn, event: ev.Event) -> None:
    """Means nothing in this state."""


def enqueue(turn: Turn, event: ev.Event) -> None:
    """From an end: wait for the turn, with nothing left of the life before."""
    begin(turn, State.QUEUED)
    turn.set(queued=turn.now)
    turn.do(ev.Enqueue())


def enqueue_again(turn: Turn, event: ev.Event) -> None:
    """Another daemon's queue is gone."""
    turn.do(ev.Enqueue())


def launch(turn: Turn, event: ev.Event) -> None:
    """From queued: build the env."""
    begin(turn, State.STARTING)
    turn.do(ev.Announce(event="starting"))
    turn.do(ev.Launch(start=turn.mark_startable()))


def begin(turn: Turn, state: State) -> None:
    """A new life."""
    turn.set(
        state=state,
        wanted=Wanted.RUNNING,
        services=fresh_services(turn.record),
        started=None,
        ready=None,
        finished=None,
        reason="",
        cause="",
        error=None,
        exit_code=None,
        init=None,
        again=False,
        idle_since=None,
        woken=False,
    )


def launched(turn: Turn, event: ev.Event) -> None:
    """Init is there: from here on the env is a process tree with an identity."""
    assert isinstance(event, ev.Launched)
    turn.set(init=event.init, walls=event.walls, started=turn.now)
    turn.set(enforced=event.enforced, cpus=event.cpus, cgroup=event.cgroup, no_way=event.no_way)
    arm_ttl(turn)


def launched_late(turn: Turn, event: ev.Event) -> None:
    """A stop overtook the launch: init is there now, and must go."""
    assert isinstance(event, ev.Launched)
    turn.set(init=event.init, walls=event.walls, started=turn.now, cgroup=event.cgroup)
    turn.do(ev.KillInit())


def launch_failed(turn: Turn, event: ev.Event) -> None:
    """Nothing was left by the launcher; the env failed with its error."""
    assert isinstance(event, ev.LaunchFailed)
    turn.set(error=event.error, reason=event.error[1], exit_code=125)
    settle(turn)


def unless_awake(handler: Handler) -> Handler:
    """An entry that is passed over when it is for an idle env and this one is not idle (any more)."""

    def handle(turn: Turn, event: ev.Event) -> None:
        sleeps = turn.record.suspended_by == "idle" or (turn.record.state in ENDED and turn.record.cause == "idle")
        if getattr(event, "cause", "") != "idle" or sleeps:
            handler(turn, event)

    return handle


def launch_deferred(turn: Turn, event: ev.Event) -> None:
    """Back into the queue, where it stands as long as it does altogether."""
    if turn.record.init is None:
        begin(turn, State.QUEUED)
        turn.do(ev.Disarm(), ev.EndProbes(), ev.Enqueue())


def deferred_while_stopping(turn: Turn, event: ev.Event) -> None:
    """There is nothing to stop any more."""
    if turn.record.init is None:
        settle(turn)


def stop_queued(turn: Turn, event: ev.Event) -> None:
    """Nothing runs yet; a restart of what waits for its start is that start."""
    if isinstance(event, ev.StopAsked) and event.again:
        return
    turn.set(wanted=Wanted.STOPPED)
    settle(turn)


def remove_ended(turn: Turn, event: ev.Event) -> None:
    """Nothing runs: discard it."""
    turn.set(state=State.REMOVED, wanted=Wanted.REMOVED)
    turn.do(ev.Disarm(), ev.Settle(), ev.Discard())


def remove_alive(turn: Turn, event: ev.Event) -> None:
    """Kill, and discard when it is gone."""
    turn.set(wanted=Wanted.REMOVED, again=False)
    kill_now(turn)


def stop_again(turn: Turn, event: ev.Event) -> None:
    """A second stop may only shorten the grace, or take back the start that was to follow."""
    assert isinstance(event, ev.StopAsked)
    if turn.record.wanted is not Wanted.REMOVED:
        turn.set(again=event.again, wanted=Wanted.RUNNING if event.again else Wanted.STOPPED)
    if turn.record.cause == "idle" and not event.cause:
        turn.set(cause="", reason="", idle_since=None)  # from here on no request wakes it
    if not turn.up():
        kill_now(turn)  # only somebody who reads slowly, or not at all, kept it
    elif event.grace is not None:
        turn.do(ev.Arm(timer="grace", after=event.grace, event=ev.GraceOver()))


def restart_ended(turn: Turn, event: ev.Event) -> None:
    """`restart` of what does not run is a start; a plain stop is already true, but ends a wait for a restart."""
    assert isinstance(event, ev.StopAsked)
    if event.again:
        enqueue(turn, event)
    else:
        if turn.record.cause == "idle":
            turn.set(cause="", reason="", idle_since=None)  # from here on no request wakes it
        turn.set(wanted=Wanted.STOPPED, again=False)
        turn.do(ev.Disarm(timer="restart:"))


def change_spec(turn: Turn, event: ev.Event) -> None:
    """`up` with an edited file: the same env, its home and its id, from here on as the new spec says."""
    assert isinstance(event, ev.SpecChanged)
    turn.set(spec=event.spec, environ=event.environ, overrides={}, accepted=event.accepted)
    turn.set(services=fresh_services(turn.record))


def relaunch_due(turn: Turn, event: ev.Event) -> None:
    """The delay before the whole env is started again is over."""
    if turn.record.wanted is Wanted.RUNNING:
        restarts = turn.record.restarts + 1
        enqueue(turn, event)
        turn.set(restarts=restarts)


def kill_stopping(turn: Turn, event: ev.Event) -> None:
    """No more grace. An init that cannot be spoken with is no cause of its own: its end is what was asked for."""
    assert isinstance(event, ev.KillAsked)
    if event.cause not in ("", "lost") and not turn.record.cause:
        turn.set(cause=event.cause, reason=event.reason)
    kill_now(turn)


def killed(turn: Turn, event: ev.Event) -> None:
    """A limit or the user ended it at once."""
    assert isinstance(event, ev.KillAsked)
    if event.cause:
        turn.set(cause=event.cause, reason=event.reason)
        turn.do(ev.Announce(event="oom" if event.cause == "memory" else event.cause, detail={"reason": event.reason}))
    else:
        turn.set(wanted=Wanted.STOPPED)
    kill_now(turn)


def start_while_stopping(turn: Turn, event: ev.Event) -> None:
    """Started again once it has ended, unless it is being removed."""
    if turn.record.wanted is not Wanted.REMOVED:
        turn.set(again=True, wanted=Wanted.RUNNING)


def exited_while_stopping(turn: Turn, event: ev.Event) -> None:
    """One less; the next ones are told to stop, or the tree is killed once none is left."""
    assert isinstance(event, ev.ServiceExited)
    if turn.is_news(event.service, event.pid):
        turn.note_exit(event.service, event.pid, event.exit_code)
        begin_end(turn)


def started_while_stopping(turn: Turn, event: ev.Event) -> None:
    """It was executed while the stop was asked: it is told too."""
    assert isinstance(event, ev.ServiceStarted)
    service_started(turn, event, probe=False)
    begin_end(turn)


def refused_while_stopping(turn: Turn, event: ev.Event) -> None:
    """One less."""
    assert isinstance(event, ev.ServiceRefused)
    turn.service(event.service, state="failed", exit_code=127)
    begin_end(turn)


def resume_stopping(turn: Turn, event: ev.Event) -> None:
    """The stop goes on, with its whole grace."""
    if turn.record.woken:
        turn.do(ev.Resume())
    grace = max(spec.stop_timeout for spec in turn.record.spec.services.values())
    turn.do(ev.Arm(timer="grace", after=grace, event=ev.GraceOver()))
    begin_end(turn)


def resume_ended(turn: Turn, event: ev.Event) -> None:
    """It was to be removed or started again, or its host ended under it."""
    what_next(turn)
    come_back(turn)


def _alive() -> dict[type[ev.Event], Handler]:
    """What holds in starting and ready alike."""
    return {
        ev.Admitted: ignored,
        ev.Launched: launched,
        ev.LaunchFailed: launch_failed,
        ev.LaunchDeferred: launch_deferred,
        ev.ServiceStarted: service_started,
        ev.ServiceRefused: service_refused,
        ev.ServiceReady: note_ready,
        ev.ServiceUnready: note_unready,
        ev.PortFound: note_port,
        ev.ServiceExited: service_exited,
        ev.RestartDue: restart_service,
        ev.StopAsked: unless_awake(graceful_stop),
        ev.KillAsked: killed,
        ev.StartAsked: ignored,
        ev.SpecChanged: ignored,
        ev.LimitsChanged: change_limits_now,
        ev.Claimed: claimed,
        ev.ScaleAsked: change_scale,
        ev.DrainAsked: change_drain,
        ev.RemoveAsked: unless_awake(remove_alive),
        ev.SuspendAsked: suspend,
        ev.Suspended: ignored,
        ev.SuspendFailed: ignored,
        ev.ResumeAsked: ignored,
        ev.GraceOver: ignored,
        ev.Adopted: resume_running,
        ev.HostEnds: host_ends,
        ev.InitGone: gone,
    }


def _suspended() -> dict[type[ev.Event], Handler]:
    """What holds while nothing of it runs."""
    return NOTHING | {
        ev.LaunchFailed: launch_failed,
        ev.ServiceStarted: started_suspended,
        ev.ServiceRefused: waking(service_refused),
        ev.ServiceReady: note_ready,
        ev.PortFound: note_port,
        ev.ServiceExited: waking(service_exited),
        ev.StopAsked: unless_awake(waking(graceful_stop)),
        ev.KillAsked: waking(killed),
        ev.StartAsked: resume_asked,
        ev.LimitsChanged: change_limits_now,
        ev.Claimed: claimed,
        ev.RemoveAsked: unless_awake(waking(remove_alive)),
        ev.SuspendAsked: suspend_again,
        ev.Suspended: suspended,
        ev.SuspendFailed: suspend_failed,
        ev.ResumeAsked: resume_asked,
        ev.Adopted: adopted,
        ev.HostEnds: waking(host_ends),
        ev.InitGone: gone,
    }


NOTHING: dict[type[ev.Event], Handler] = dict.fromkeys(ev.EVENTS, ignored)
NOTHING[ev.ScaleAsked], NOTHING[ev.DrainAsked] = change_scale, change_drain


def _ended() -> dict[type[ev.Event], Handler]:
    """What holds in stopped and failed alike."""
    return NOTHING | {
        ev.RestartDue: relaunch_due,
        ev.StopAsked: unless_awake(restart_ended),
        ev.StartAsked: unless_stopped(enqueue),
        ev.SpecChanged: change_spec,
        ev.LimitsChanged: change_limits,
        ev.RemoveAsked: unless_awake(remove_ended),
        ev.Adopted: resume_ended,
    }


_ROWS: dict[State, dict[type[ev.Event], Handler]] = {
    State.QUEUED: NOTHING
    | {
        ev.Admitted: launch,
        ev.LaunchFailed: launch_failed,
        ev.StopAsked: unless_awake(stop_queued),
        ev.KillAsked: stop_queued,
        ev.LimitsChanged: change_limits,
        ev.Claimed: claimed,
        ev.RemoveAsked: unless_awake(remove_ended),
        ev.Adopted: enqueue_again,
    },
    State.STARTING: _alive(),
    State.READY: _alive(),
    State.SUSPENDED: _suspended(),
    State.STOPPING: NOTHING
    | {
        ev.Launched: launched_late,
        ev.LaunchFailed: launch_failed,
        ev.LaunchDeferred: deferred_while_stopping,
        ev.ServiceStarted: started_while_stopping,
        ev.ServiceRefused: refused_while_stopping,
        ev.ServiceExited: exited_while_stopping,
        ev.StopAsked: unless_awake(stop_again),
        ev.KillAsked: kill_stopping,
        ev.StartAsked: unless_stopped(start_while_stopping),
        ev.LimitsChanged: change_limits,
        ev.RemoveAsked: unless_awake(remove_alive),
        ev.GraceOver: lambda turn, event: kill_now(turn),
        ev.Adopted: resume_stopping,
        ev.InitGone: gone_while_stopping,
    },
    State.STOPPED: _ended(),
    State.FAILED: _ended(),
    State.REMOVED: dict.fromkeys(ev.EVENTS, ignored),
}

TABLE: dict[tuple[State, type[ev.Event]], Handler] = {
    (state, event): handler for state, row in _ROWS.items() for event, handler in row.items()
}
