"""The life of an env: the table is total, ends are truthful, and no order of events breaks an invariant.

So of sandboxd.lifecycle.running, sandboxd.lifecycle.ending, sandboxd.lifecycle.sleeping and sandboxd.lifecycle.turn, whose
entries the table has.
"""

import itertools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.machine import TABLE, step
from sandboxd.lifecycle.records import EnvRecord, Identity, ServiceRecord
from sandboxd.lifecycle.states import ENDED, OVER, UP, ServiceState, State, Wanted
from sandboxd.spec import EnvSpec, Lifecycle, Ready, Service

INIT = Identity(pid=77, start_time=5, boot_id="b")
WEB = {"web": Service(command="serve", port=3000)}
TWO = {"web": Service(command="serve", port=3000, depends_on=["db"]), "db": Service(command="db", port=5432)}
JOB = {"job": Service(command=["true"])}


def fresh(services, **spec):
    return EnvRecord(
        id="0" * 32,
        name="shop",
        owner=1000,
        group=1000,
        spec=EnvSpec(services=services, **spec),
        services={name: ServiceRecord(name=name, port=s.port) for name, s in services.items()},
        created=1.0,
    )


def run(record, *events, now=100.0):
    """Feed events; -> the record, and the effects of the last one."""
    effects = []
    for event in events:
        record, effects = step(record, event, now)
    return record, effects


LAUNCHED = ev.Launched(init=INIT, walls={})


def started(name, pid=2):
    return ev.ServiceStarted(service=name, pid=pid)


def exited(name, code, pid=2):
    return ev.ServiceExited(service=name, pid=pid, exit_code=code)


def of_kind(effects, kind):
    return [effect for effect in effects if isinstance(effect, kind)]


def events_told(effects):
    return [effect.event for effect in of_kind(effects, ev.Announce)]


def test_every_state_and_event_has_an_entry():
    assert set(TABLE) == set(itertools.product(State, ev.EVENTS))


def test_events_and_effects_are_all_listed():
    assert set(ev.EVENTS) == set(ev.Event.__subclasses__())
    assert set(ev.EFFECTS) == set(ev.Effect.__subclasses__())


def test_it_turns_ready_when_its_service_listens():
    record, effects = run(fresh(WEB), ev.Admitted())
    assert record.state is State.STARTING
    assert of_kind(effects, ev.Launch) == [ev.Launch(start=["web"])]
    record, effects = run(record, LAUNCHED, started("web"))
    assert (record.state, record.services["web"].state) == (State.STARTING, ServiceState.RUNNING)
    assert of_kind(effects, ev.Probe) == [ev.Probe(service="web")]
    record, effects = run(record, ev.ServiceReady(service="web", port=3000), now=101.5)
    assert (record.state, record.ready) == (State.READY, 101.5)
    assert events_told(effects) == ["ready"]


def test_a_dependent_starts_once_what_it_needs_is_ready():
    record, effects = run(fresh(TWO), ev.Admitted())
    assert of_kind(effects, ev.Launch) == [ev.Launch(start=["db"])]
    record, effects = run(record, LAUNCHED, started("db"))
    assert not of_kind(effects, ev.StartService)
    record, effects = run(record, ev.ServiceReady(service="db"))
    assert of_kind(effects, ev.StartService) == [ev.StartService(service="web")]
    assert record.state is State.STARTING


def test_a_job_that_ended_well_satisfies_its_dependents():
    services = {"migrate": Service(command="m"), "web": Service(command="w", port=80, depends_on=["migrate"])}
    services["migrate"] = Service(command="m", ready=Ready(command="false"))
    _, effects = run(fresh(services), ev.Admitted(), LAUNCHED, started("migrate"), exited("migrate", 0))
    assert of_kind(effects, ev.StartService) == [ev.StartService(service="web")]


def test_a_dependency_that_ended_badly_ends_the_env_with_the_reason():
    record, effects = run(fresh(TWO), ev.Admitted(), LAUNCHED, started("db"), exited("db", 3))
    assert record.state is State.STOPPING
    assert of_kind(effects, ev.EndInit)
    record, _ = run(record, ev.InitGone())
    assert (record.state, record.exit_code) == (State.FAILED, 3)
    assert record.reason == "web needs db, which exited (3)"


@pytest.mark.parametrize(("code", "state"), [(0, State.STOPPED), (3, State.FAILED)])
def test_it_ends_with_its_last_service_and_its_code(code, state):
    record, effects = run(fresh(JOB), ev.Admitted(), LAUNCHED, started("job"), exited("job", code))
    assert record.state is State.STOPPING
    assert of_kind(effects, ev.EndInit)
    record, effects = run(record, ev.InitGone(), now=200.0)
    assert (record.state, record.exit_code, record.finished, record.init) == (state, code, 200.0, None)
    assert of_kind(effects, ev.Settle)


def test_rm_removes_it_once_it_ended():
    record = fresh(JOB, lifecycle=Lifecycle(remove=True))
    record, effects = run(record, ev.Admitted(), LAUNCHED, started("job"), exited("job", 0), ev.InitGone())
    assert record.state is State.REMOVED
    assert of_kind(effects, ev.Discard)


def test_stop_goes_dependents_first_and_kills_after_the_grace():
    record, _ = run(fresh(TWO), ev.Admitted(), LAUNCHED, started("db"), ev.ServiceReady(service="db"), started("web", 3))
    record, effects = run(record, ev.StopAsked(grace=4.0))
    assert of_kind(effects, ev.SignalService) == [ev.SignalService(service="web")]
    assert of_kind(effects, ev.Arm) == [ev.Arm(timer="grace", after=4.0, event=ev.GraceOver())]
    record, effects = run(record, exited("web", 143, pid=3))
    assert of_kind(effects, ev.SignalService) == [ev.SignalService(service="db")]
    killed, effects = run(record, ev.GraceOver())
    assert of_kind(effects, ev.KillInit)
    killed, _ = run(killed, ev.InitGone())
    assert (killed.state, killed.wanted, killed.exit_code) == (State.STOPPED, Wanted.STOPPED, 143)


def test_a_slow_reader_keeps_only_what_nobody_wants_to_stop():
    record, _ = run(fresh(JOB), ev.Admitted(), LAUNCHED, started("job"), exited("job", 0))
    record, effects = run(record, ev.StopAsked())
    assert of_kind(effects, ev.KillInit)


def test_a_stop_that_overtakes_the_launch_kills_what_the_launch_brings():
    record, effects = run(fresh(WEB), ev.Admitted(), ev.RemoveAsked())
    assert not of_kind(effects, ev.KillInit)
    record, effects = run(record, LAUNCHED)
    assert of_kind(effects, ev.KillInit)
    record, effects = run(record, ev.InitGone())
    assert record.state is State.REMOVED


def test_a_service_that_cannot_be_executed_ends_the_env_with_that_error():
    error = ("CommandNotFound", "no such command: nope", "install it")
    record, _ = run(fresh(WEB), ev.Admitted(), LAUNCHED, ev.ServiceRefused(service="web", error=error), ev.InitGone())
    assert (record.state, record.error, record.exit_code) == (State.FAILED, error, 127)


def test_a_restart_policy_brings_a_service_back_after_a_growing_delay():
    record = fresh(WEB, lifecycle=Lifecycle(restart="on-failure:2"))
    record, _ = run(record, ev.Admitted(), LAUNCHED, started("web"), ev.ServiceReady(service="web"))
    delays = []
    for pid in (2, 3):
        record, effects = run(record, exited("web", 1, pid=pid))
        assert record.state is State.STARTING
        delays += [arm.after for arm in of_kind(effects, ev.Arm)]
        record, effects = run(record, ev.RestartDue(service="web"))
        assert of_kind(effects, ev.StartService)
        record, _ = run(record, started("web", pid + 1))
    assert delays == [0.1, 0.2]
    record, effects = run(record, exited("web", 1, pid=4))
    assert record.state is State.STOPPING


def test_an_exit_told_twice_counts_once():
    record = fresh(WEB, lifecycle=Lifecycle(restart="always"))
    record, _ = run(record, ev.Admitted(), LAUNCHED, started("web"), exited("web", 1))
    again, effects = run(record, exited("web", 1))
    assert (again, effects) == (record, [])


def test_an_end_that_is_told_before_its_start_counts():
    record, effects = run(fresh(JOB), ev.Admitted(), LAUNCHED, exited("job", 0, pid=2))
    assert record.state is State.STOPPING
    assert events_told(effects) == ["started", "ready", "exited"]
    record, effects = run(record, started("job", 2))
    assert not of_kind(effects, ev.Probe)
    assert record.services["job"].state is ServiceState.EXITED


def test_an_old_end_told_again_is_not_the_end_of_the_new_start():
    record = fresh(WEB, lifecycle=Lifecycle(restart="always"))
    record, _ = run(record, ev.Admitted(), LAUNCHED, started("web"), exited("web", 1), ev.RestartDue(service="web"))
    again, effects = run(record, exited("web", 1))
    assert (again, effects) == (record, [])
    assert run(record, exited("web", 1, pid=3))[0].services["web"].ended == 3


def test_a_limit_names_its_cause_and_exits_137():
    record, _ = run(fresh(WEB), ev.Admitted(), LAUNCHED, started("web"))
    record, effects = run(record, ev.KillAsked(cause="memory", reason="used 70 MiB of 64 MiB"))
    assert "oom" in events_told(effects)
    record, _ = run(record, ev.InitGone())
    assert (record.state, record.exit_code, record.cause) == (State.FAILED, 137, "memory")


def test_ttl_stops_it_and_says_so():
    record, effects = run(fresh(WEB, lifecycle=Lifecycle(ttl=60.0)), ev.Admitted(), LAUNCHED)
    (armed,) = of_kind(effects, ev.Arm)
    assert armed.after == 60.0
    record, _ = run(record, started("web"), armed.event, exited("web", 143), ev.InitGone())
    assert (record.cause, record.exit_code, record.state) == ("ttl", 137, State.FAILED)


def test_a_kill_from_outside_is_a_failure_and_restarts_by_policy():
    record, _ = run(fresh(WEB, lifecycle=Lifecycle(restart="always")), ev.Admitted(), LAUNCHED, started("web"))
    record, effects = run(record, ev.InitGone())
    assert (record.state, record.cause) == (State.FAILED, "killed")
    (armed,) = of_kind(effects, ev.Arm)
    record, effects = run(record, armed.event)
    assert of_kind(effects, ev.Enqueue)
    record, effects = run(record, ev.Admitted())
    assert record.state is State.STARTING
    assert of_kind(effects, ev.Launch)
    assert record.restarts == 1


def test_an_init_that_is_lost_while_it_is_killed_was_killed():
    record, _ = run(fresh(WEB), ev.Admitted(), LAUNCHED, ev.KillAsked(), ev.KillAsked(cause="lost", reason="it did not greet"))
    record, _ = run(record, ev.InitGone())
    assert (record.state, record.cause) == (State.STOPPED, "")


def test_unready_in_time_is_said_and_not_punished():
    record, _ = run(fresh(WEB), ev.Admitted(), LAUNCHED, started("web"))
    record, effects = run(record, ev.ServiceUnready(service="web", reason="nothing listens"))
    assert record.state is State.STARTING
    assert events_told(effects) == ["unhealthy"]
    record, _ = run(record, ev.ServiceReady(service="web", port=3000))
    assert (record.state, record.services["web"].unready, record.reason) == (State.READY, "", "")


def test_restart_starts_it_again_once_it_has_ended():
    record, _ = run(fresh(WEB), ev.Admitted(), LAUNCHED, started("web"), ev.StopAsked(again=True))
    record, effects = run(record, exited("web", 143), ev.InitGone())
    assert record.state is State.STOPPED
    assert of_kind(effects, ev.Arm) == [ev.Arm(timer="restart:", after=0.0, event=ev.StartAsked())]


def test_only_an_ended_env_takes_another_spec():
    other = EnvSpec(services={"api": Service(command="api")})
    change = ev.SpecChanged(spec=other, environ={})
    running, _ = run(fresh(WEB), ev.Admitted(), LAUNCHED)
    assert run(running, change)[0] == running
    ended, _ = run(running, ev.KillAsked(), ev.InitGone())
    assert list(run(ended, change)[0].services) == ["api"]


# -- the queue -----------------------------------------------------------------------------------------------------------


def test_a_start_waits_for_its_turn_as_if_it_were_new():
    record, _ = run(fresh(WEB), ev.Admitted(), LAUNCHED, started("web"), exited("web", 3), ev.InitGone())
    record, effects = run(record, ev.StartAsked(), now=300.0)
    assert (record.state, record.queued, record.exit_code, record.finished) == (State.QUEUED, 300.0, None, None)
    assert record.services["web"].state is ServiceState.WAITING
    assert effects == [ev.Enqueue()]
    assert run(record, ev.Adopted())[1] == [ev.Enqueue()]
    record, effects = run(record, ev.Admitted())
    assert (record.state, record.queued) == (State.STARTING, 300.0)
    assert of_kind(effects, ev.Launch) == [ev.Launch(start=["web"])]


def test_a_launch_for_which_there_are_no_namespaces_yet_waits_again():
    record, effects = run(fresh(WEB), ev.Admitted(), ev.LaunchDeferred())
    assert record.state is State.QUEUED
    assert of_kind(effects, ev.Enqueue)
    assert record.services["web"].state is ServiceState.WAITING
    stopped, _ = run(fresh(WEB), ev.Admitted(), ev.StopAsked(), ev.LaunchDeferred())
    assert stopped.state is State.STOPPED


def test_a_restart_of_what_waits_for_its_start_is_that_start():
    """A daemon died as the restart had it queued, and the next one is asked again; or two ask at once."""
    queued, _ = run(fresh(WEB), ev.Admitted(), LAUNCHED, ev.KillAsked(), ev.InitGone(), ev.StopAsked(again=True))
    assert queued.state is State.QUEUED
    assert run(queued, ev.StopAsked(again=True)) == (queued, [])
    assert run(queued, ev.StopAsked())[0].state is State.STOPPED


def test_what_waits_for_its_turn_can_be_stopped_and_removed():
    stopped, _ = run(fresh(WEB), ev.StopAsked())
    assert (stopped.state, stopped.wanted) == (State.STOPPED, Wanted.STOPPED)
    assert run(fresh(WEB), ev.RemoveAsked())[0].state is State.REMOVED
    refused, _ = run(fresh(WEB), ev.LaunchFailed(error=("QueueFull", "m", "h")))
    assert (refused.state, refused.exit_code) == (State.FAILED, 125)


# -- suspended ---------------------------------------------------------------------------------------------------------------

UP_AND_READY = (ev.Admitted(), LAUNCHED, started("web"), ev.ServiceReady(service="web"))


def test_a_suspended_env_comes_back_as_it_was():
    record, effects = run(fresh(WEB), *UP_AND_READY, ev.SuspendAsked(), now=150.0)
    assert (record.state, record.suspended, record.suspended_by) == (State.SUSPENDED, 150.0, "user")
    assert of_kind(effects, ev.Suspend) == [ev.Suspend()]
    assert of_kind(effects, ev.EndProbes)
    record, effects = run(record, ev.Suspended())
    assert events_told(effects) == ["suspended"]
    record, effects = run(record, ev.ResumeAsked())
    assert (record.state, record.suspended, record.suspended_by) == (State.READY, None, "")
    assert of_kind(effects, ev.Resume)
    assert events_told(effects) == ["resumed"]


def test_what_is_not_there_yet_cannot_be_suspended():
    record, _ = run(fresh(WEB), ev.Admitted())
    assert run(record, ev.SuspendAsked()) == (record, [])


def test_a_suspend_that_fails_leaves_it_running():
    record, effects = run(fresh(WEB), *UP_AND_READY, ev.SuspendAsked(), ev.SuspendFailed(reason="D"))
    assert record.state is State.READY
    assert of_kind(effects, ev.Resume)


def test_time_to_live_runs_on_and_restart_delays_wait():
    record = fresh(TWO, lifecycle=Lifecycle(ttl=60.0, restart="always"))
    record, _ = run(record, ev.Admitted(), LAUNCHED, started("db"), exited("db", 1))
    record, effects = run(record, ev.SuspendAsked())
    assert of_kind(effects, ev.Disarm) == [ev.Disarm(timer="restart:db")]
    assert run(record, ev.RestartDue(service="db")) == (record, [])
    _, effects = run(record, ev.ResumeAsked())
    assert of_kind(effects, ev.Arm) == [ev.Arm(timer="restart:db", after=0.1, event=ev.RestartDue(service="db"))]
    record, effects = run(record, ev.StopAsked(cause="ttl", reason="over"))
    assert (record.state, record.cause) == (State.STOPPING, "ttl")


def test_nothing_is_started_in_a_suspended_env():
    record, effects = run(fresh(TWO), ev.Admitted(), LAUNCHED, started("db"), ev.SuspendAsked(), ev.ServiceReady(service="db"))
    assert record.services["db"].state is ServiceState.READY
    assert not of_kind(effects, ev.StartService)
    record, effects = run(record, ev.ResumeAsked())
    assert of_kind(effects, ev.StartService) == [ev.StartService(service="web")]
    assert record.state is State.STARTING


def test_an_exec_that_was_under_way_is_probed_after_the_resume():
    record, _ = run(fresh(WEB), ev.Admitted(), LAUNCHED, ev.SuspendAsked())
    record, effects = run(record, started("web"))
    assert record.services["web"].state is ServiceState.RUNNING
    assert not of_kind(effects, ev.Probe)
    _, effects = run(record, ev.ResumeAsked())
    assert of_kind(effects, ev.Probe) == [ev.Probe(service="web")]


def test_a_graceful_stop_lets_a_suspended_env_run_and_a_kill_does_not():
    suspended, _ = run(fresh(WEB), *UP_AND_READY, ev.SuspendAsked())
    record, effects = run(suspended, ev.StopAsked())
    assert [type(e) for e in effects if isinstance(e, ev.SignalService | ev.Resume)] == [ev.SignalService, ev.Resume]
    assert record.suspended is None
    for event in (ev.KillAsked(), ev.RemoveAsked(), ev.KillAsked(cause="memory")):
        _, effects = run(suspended, event)
        assert of_kind(effects, ev.KillInit)
        assert not of_kind(effects, ev.Resume)


def test_its_last_service_may_end_while_it_is_suspended():
    record, effects = run(fresh(JOB), ev.Admitted(), LAUNCHED, started("job"), ev.SuspendAsked(), exited("job", 137))
    assert record.state is State.STOPPING
    assert of_kind(effects, ev.Resume)


def test_another_daemon_keeps_it_suspended():
    record, _ = run(fresh(WEB, lifecycle=Lifecycle(ttl=60.0)), *UP_AND_READY, ev.SuspendAsked())
    again, effects = run(record, ev.Adopted(), now=130.0)
    assert again == record
    assert of_kind(effects, ev.Suspend) == [ev.Suspend(again=True)]
    assert [arm.after for arm in of_kind(effects, ev.Arm)] == [30.0]


def test_idle_ends_only_what_sleeps_for_being_idle():
    ready, _ = run(fresh(WEB), *UP_AND_READY)
    by_user, _ = run(ready, ev.SuspendAsked())
    asked = [ev.StopAsked(cause="idle"), ev.RemoveAsked(cause="idle")]
    for record, event in itertools.product((ready, by_user), asked):
        assert run(record, event) == (record, [])
    idle, _ = run(ready, ev.SuspendAsked(by="idle", since=90.0))
    assert run(idle, ev.RemoveAsked(cause="idle"), ev.InitGone())[0].state is State.REMOVED
    stopped, _ = run(idle, ev.StopAsked(cause="idle", reason="nobody"), exited("web", 143), ev.InitGone())
    assert (stopped.state, stopped.cause, stopped.exit_code, stopped.idle_since) == (State.STOPPED, "idle", 143, 90.0)
    assert run(stopped, ev.RemoveAsked(cause="idle"))[0].state is State.REMOVED
    awake, _ = run(stopped, ev.StartAsked(), ev.Admitted())
    assert (awake.state, awake.cause, awake.idle_since) == (State.STARTING, "", None)
    by_user, _ = run(stopped, ev.StopAsked())
    assert (by_user.state, by_user.cause, by_user.idle_since) == (State.STOPPED, "", None)


def test_a_request_starts_nothing_that_its_owner_has_just_stopped():
    idle, _ = run(
        fresh(WEB), *UP_AND_READY, ev.SuspendAsked(by="idle", since=90.0), ev.StopAsked(cause="idle", reason="nobody")
    )
    gone = (exited("web", 143), ev.InitGone())
    woken, _ = run(idle, *gone, ev.StartAsked(woken=True))
    assert woken.state is State.QUEUED
    while_stopping, _ = run(idle, ev.StopAsked(), ev.StartAsked(woken=True), *gone)
    after, _ = run(idle, *gone, ev.StopAsked(), ev.StartAsked(woken=True))
    for record in (while_stopping, after):
        assert (record.state, record.cause, record.reason, record.wanted) == (State.STOPPED, "", "", Wanted.STOPPED)
    assert run(after, ev.StartAsked())[0].state is State.QUEUED


def test_a_user_may_keep_asleep_what_was_idle():
    record, _ = run(fresh(WEB), *UP_AND_READY, ev.SuspendAsked(by="idle", since=90.0), ev.SuspendAsked())
    assert (record.suspended_by, record.idle_since) == ("user", None)


# -- any order at all ------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["web", "db"])
EVENT = st.one_of(
    st.builds(ev.Admitted),
    st.just(LAUNCHED),
    st.just(ev.LaunchFailed(error=("LaunchFailed", "m", "h"))),
    st.just(ev.LaunchDeferred()),
    st.builds(ev.ServiceStarted, service=NAMES, pid=st.integers(2, 4)),
    st.builds(ev.ServiceRefused, service=NAMES, error=st.just(("CommandNotFound", "m", "h"))),
    st.builds(ev.ServiceReady, service=NAMES),
    st.builds(ev.ServiceUnready, service=NAMES, reason=st.just("why")),
    st.builds(ev.PortFound, service=NAMES, port=st.just(80)),
    st.builds(ev.ServiceExited, service=NAMES, pid=st.integers(2, 4), exit_code=st.sampled_from([0, 1, 137])),
    st.builds(ev.RestartDue, service=st.sampled_from(["", "web", "db"])),
    st.builds(ev.StopAsked, again=st.booleans(), cause=st.sampled_from(["", "ttl", "idle"])),
    st.builds(ev.KillAsked, cause=st.sampled_from(["", "memory"])),
    st.builds(ev.StartAsked),
    st.builds(ev.RemoveAsked, cause=st.sampled_from(["", "", "idle"])),
    st.builds(ev.SuspendAsked, by=st.sampled_from(["user", "idle"])),
    st.builds(ev.Suspended),
    st.builds(ev.SuspendFailed, reason=st.just("why")),
    st.builds(ev.ResumeAsked),
    st.builds(ev.GraceOver),
    st.builds(ev.Adopted),
    st.builds(ev.InitGone),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(EVENT, max_size=40), st.sampled_from(["no", "always", "on-failure:1"]), st.booleans())
def test_no_order_of_events_breaks_an_invariant(events, restart, remove):
    record = fresh(TWO, lifecycle=Lifecycle(restart=restart, remove=remove))
    for number, event in enumerate(events):
        before = record
        record, effects = step(record, event, 100.0 + number)
        assert msgspec.json.decode(msgspec.json.encode(record), type=EnvRecord) == record
        if before.state is State.REMOVED:
            assert (record, effects) == (before, [])
        if record.state in ENDED:
            assert record.init is None or before.state in ENDED
            assert not [s for s in record.services.values() if s.state in UP]
        if of_kind(effects, ev.Launch):
            assert before.state is State.QUEUED
        if of_kind(effects, ev.Discard):
            assert record.state is State.REMOVED
        if record.state is State.READY:
            assert all(s.state in OVER or s.state is ServiceState.READY for s in record.services.values())
        if record.state is State.SUSPENDED:
            assert record.init is not None
            assert not [e for e in effects if isinstance(e, ev.StartService | ev.Probe | ev.Launch)]
        elif before.state is State.SUSPENDED:
            assert (record.suspended, record.suspended_by) == (None, "")
            # whoever posts LaunchFailed has killed what was there
            gone = isinstance(event, ev.InitGone | ev.LaunchFailed)
            assert gone or [e for e in effects if isinstance(e, ev.Resume | ev.KillInit)]
        for effect in of_kind(effects, ev.SignalService):
            assert record.services[effect.service].pid is not None


@settings(max_examples=200, deadline=None)
@given(st.lists(EVENT, max_size=30))
def test_from_anywhere_a_removal_ends_in_removed(events):
    record = fresh(TWO)
    for event in events:
        record, _ = step(record, event, 100.0)
    for event in (ev.RemoveAsked(), LAUNCHED, ev.InitGone()):
        record, _ = step(record, event, 101.0)
    assert record.state is State.REMOVED
