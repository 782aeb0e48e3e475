"""An env whose host ends under it: told in time to stop, or found after it. Pure; entries of the machine's table.

Invariant: what is wanted of the env stays as it was, so that the first daemon after it starts again what its policy brings back
(to be interrupted is a failure, whatever its services made of SIGTERM). What a request wakes, because it slept for being idle
or was made for a key, sleeps from then on. Of a time to live nothing is given back.
"""

from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.ending import HOST, begin_end, settle
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.restart import parse_policy, wants_restart
from sandboxd.lifecycle.states import ENDED, State, Wanted
from sandboxd.lifecycle.turn import Turn, time_left, ttl_over

INTERRUPTED = 137


def host_ends(turn: Turn, event: ev.Event) -> None:
    """A stop like any other, dependents first, with no more grace than is left."""
    assert isinstance(event, ev.HostEnds)
    interrupt(turn, event.reason)
    turn.set(state=State.STOPPING, again=False)
    turn.do(ev.Disarm(), ev.EndProbes(), ev.Announce(event="stopping", detail={"cause": HOST}))
    grace = min(event.grace, max(spec.stop_timeout for spec in turn.record.spec.services.values()))
    turn.do(ev.Arm(timer="grace", after=grace, event=ev.GraceOver()))
    begin_end(turn)


def interrupt(turn: Turn, reason: str) -> None:
    """Why it ends, and what that means for later."""
    record = turn.record
    if is_woken(record):
        since = turn.now if record.idle_since is None else record.idle_since
        turn.set(cause="idle", wanted=Wanted.STOPPED, reason=reason, idle_since=since)
    else:
        turn.set(cause=HOST, reason=reason)


def is_woken(record: EnvRecord) -> bool:
    """Whether a request is to start it again."""
    return record.wanted is Wanted.RUNNING and (record.suspended_by == "idle" or bool(record.template and record.key))


def gone(turn: Turn, event: ev.Event) -> None:
    """Init ended although nobody asked: a kill from outside, the kernel's OOM killer, a reboot."""
    assert isinstance(event, ev.InitGone)
    if event.rebooted and not turn.record.cause:
        interrupt(turn, event.reason)
    reason = turn.record.reason or event.reason or "its init was killed from outside"
    turn.set(reason=reason, cause=turn.record.cause or "killed")
    settle(turn)
    if event.rebooted:
        come_back(turn)


def gone_while_stopping(turn: Turn, event: ev.Event) -> None:
    """The end that was worked towards."""
    assert isinstance(event, ev.InitGone)
    settle(turn)
    if event.rebooted:
        come_back(turn)


def come_back(turn: Turn) -> None:
    """A new daemon finds what ended with its host: it is started again, if it is one that is, and if it has time to live."""
    record = turn.record
    if record.cause != HOST or record.state not in ENDED or record.wanted is not Wanted.RUNNING or record.error is not None:
        return
    left = time_left(turn)
    if left is not None and left <= 0.0:
        turn.set(state=State.FAILED, exit_code=INTERRUPTED, cause="ttl", reason=ttl_over(record))
    elif wants_restart(parse_policy(record.spec.lifecycle.restart), INTERRUPTED, record.restarts):
        turn.do(ev.Arm(timer="restart:", after=0.0, event=ev.StartAsked()))
