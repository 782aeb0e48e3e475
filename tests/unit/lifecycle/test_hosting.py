"""A host that ends: envs are stopped in order, what is wanted of them stays, and the next daemon goes by that.

So of sandboxd.lifecycle.hosting."""

import pytest
from msgspec.structs import replace

from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.machine import step
from sandboxd.lifecycle.recovery import Ended, lost
from sandboxd.lifecycle.states import State, Wanted
from sandboxd.spec import Lifecycle
from tests.unit.lifecycle.test_machine import LAUNCHED, TWO, WEB, exited, fresh, of_kind, run, started

ENDS = ev.HostEnds(reason="the host was shut down", grace=20.0)
GONE = ev.InitGone()


def running(services=WEB, **lifecycle):
    record = fresh(services, lifecycle=Lifecycle(**lifecycle))
    return run(record, ev.Admitted(), LAUNCHED, started("web"), ev.ServiceReady(service="web"))[0]


def shut_down(record, code=0):
    """Told, and ended in time."""
    return run(record, ENDS, exited("web", code), GONE)[0]


def again(effects):
    """Whether it is started again."""
    return [arm.event for arm in of_kind(effects, ev.Arm)] == [ev.StartAsked()]


@pytest.mark.parametrize("code", [0, 143, 1])
@pytest.mark.parametrize(
    ("policy", "comes_back"), [("no", False), ("on-failure", True), ("always", True), ("unless-stopped", True)]
)
def test_a_policy_is_for_after_the_host(policy, comes_back, code):
    told, effects = run(running(restart=policy), ENDS)
    assert (told.state, of_kind(effects, ev.SignalService)) == (State.STOPPING, [ev.SignalService(service="web")])
    record, effects = run(told, exited("web", code), GONE)
    assert (record.state, record.exit_code, record.cause, record.reason) == (State.STOPPED, code, "host", ENDS.reason)
    assert record.wanted is Wanted.RUNNING
    assert not of_kind(effects, ev.Arm), "nothing is started on a host that ends"
    record, effects = run(record, ev.Adopted())
    assert again(effects) == comes_back
    if comes_back:
        record, effects = run(record, ev.StartAsked())
        assert (record.state, record.cause, effects) == (State.QUEUED, "", [ev.Enqueue()])


def test_dependents_stop_first_and_nobody_has_more_time_than_is_left():
    record = run(fresh(TWO), ev.Admitted(), LAUNCHED, started("db", 2), ev.ServiceReady(service="db"), started("web", 3))[0]
    record, effects = run(record, ev.HostEnds(reason="", grace=3.0))
    assert of_kind(effects, ev.SignalService) == [ev.SignalService(service="web")]
    assert [arm.after for arm in of_kind(effects, ev.Arm)] == [3.0]
    _, effects = run(record, ev.GraceOver())
    assert of_kind(effects, ev.KillInit)


def test_what_its_owner_stopped_or_what_waits_hears_nothing_of_it():
    for record in (
        fresh(WEB, lifecycle=Lifecycle(restart="always")),
        run(running(restart="always"), ev.StopAsked())[0],
        run(running(restart="always"), ev.StopAsked(), exited("web", 0), GONE)[0],
    ):
        assert run(record, ENDS) == (record, [])
    assert not again(run(record, ev.Adopted())[1])


def test_a_stop_is_meant_after_it_too():
    """The owner stops what is to come back, before it has."""
    record = run(shut_down(running(restart="always")), ev.StopAsked())[0]
    assert not of_kind(run(record, ev.Adopted())[1], ev.Arm)


def test_time_to_live_goes_on():
    record = shut_down(running(restart="always", ttl=3600.0))
    assert again(step(record, ev.Adopted(), 200.0)[1])
    over, effects = step(record, ev.Adopted(), 4000.0)
    assert (over.state, over.cause, of_kind(effects, ev.Arm)) == (State.FAILED, "ttl", [])


def test_what_slept_for_being_idle_and_what_was_made_for_a_key_sleep_on():
    idle = run(running(), ev.SuspendAsked(by="idle", since=50.0))[0]
    told, effects = run(idle, ENDS)
    assert of_kind(effects, ev.Resume), "or it could not end in order"
    keyed = step(running(), ev.Claimed(key="k", source=""), 90.0)[0]
    keyed = replace(keyed, template="t")
    for stopping, since in ((told, 50.0), (run(keyed, ENDS)[0], 100.0)):
        record = run(stopping, exited("web", 143), GONE)[0]
        assert (record.state, record.cause, record.idle_since) == (State.STOPPED, "idle", since)
        assert not of_kind(run(record, ev.Adopted())[1], ev.Arm)
        assert run(record, ev.StartAsked(woken=True))[0].state is State.QUEUED
    # and if nobody could tell them
    record = run(keyed, *lost(keyed, [], "another boot"))[0]
    assert (record.state, record.cause, record.reason) == (State.STOPPED, "idle", "the host was restarted")


def test_what_a_user_suspended_is_lost_with_the_host_as_any_other():
    record = run(running(restart="always"), ev.SuspendAsked(by="user"), ENDS, exited("web", 143), GONE)[0]
    assert (record.state, record.cause) == (State.STOPPED, "host")
    assert again(run(record, ev.Adopted())[1])


def test_a_reset_amid_it_changes_nothing():
    told = run(running(restart="always"), ENDS)[0]
    record, effects = run(told, *lost(told, [Ended("web", 2, 0)], "another boot"))
    assert (record.state, record.cause, record.reason) == (State.STOPPED, "host", ENDS.reason)
    assert again(effects)


def test_rm_is_meant_too():
    record = shut_down(running(remove=True))
    assert record.state is State.REMOVED
