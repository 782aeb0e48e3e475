"""What a new daemon makes of an env whose init is gone: a start is taken up again, an end is told once and for what it was."""

from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.machine import step
from sandboxd.lifecycle.records import EnvRecord, Identity, ServiceRecord
from sandboxd.lifecycle.recovery import Ended, lost, told
from sandboxd.lifecycle.states import State
from sandboxd.spec import EnvSpec, Lifecycle, Service

INIT = Identity(pid=77, start_time=5, boot_id="b")


def starting(**lifecycle):
    services = {"web": Service(command="serve")}
    record = EnvRecord(
        id="0" * 32,
        name="shop",
        owner=1000,
        group=1000,
        spec=EnvSpec(services=services, lifecycle=Lifecycle(**lifecycle)),
        services={"web": ServiceRecord(name="web")},
        created=1.0,
    )
    return step(record, ev.Admitted(), 2.0)[0]


def running(**lifecycle):
    record = step(starting(**lifecycle), ev.Launched(init=INIT, walls={}), 3.0)[0]
    return step(record, ev.ServiceStarted(service="web", pid=2), 4.0)[0]


def after(record, events):
    effects = []
    for event in events:
        record, more = step(record, event, 9.0)
        effects += more
    return record, effects


def test_a_start_that_came_to_no_init_is_taken_up_again():
    record, effects = after(starting(), lost(starting(), [], "b"))
    assert (record.state, record.services["web"].restarts) == (State.QUEUED, 0)
    assert ev.Enqueue() in effects


def test_an_init_that_lived_and_ended_unrecorded_has_ended():
    record, _ = after(starting(), lost(starting(), [Ended("web", 2, 9)], "b"))
    assert (record.state, record.exit_code, record.services["web"].exit_code) == (State.FAILED, 9, 9)
    record, _ = after(running(), lost(running(), [], "b"))
    assert (record.state, record.exit_code) == (State.FAILED, 137)
    assert "while no daemon ran" in record.reason


def test_an_end_that_was_written_down_is_told_once():
    record, _ = after(running(), lost(running(), [Ended("web", 2, 9)], "b"))
    assert record.services["web"].exit_code == 9
    again = step(running(restart="always"), ev.ServiceExited(service="web", pid=2, exit_code=9), 5.0)[0]
    again = step(again, ev.RestartDue(service="web"), 6.0)[0]
    assert told(again, "web", 2, 9) == [], "that of the run before"
    assert told(again, "web", 3, 4) == [
        ev.ServiceStarted(service="web", pid=3),
        ev.ServiceExited(service="web", pid=3, exit_code=4),
    ]


def test_of_what_runs_only_its_start_is_news():
    assert told(starting(), "web", 2, None) == [ev.ServiceStarted(service="web", pid=2)]
    assert told(running(), "web", 2, None) == []
    assert told(running(), "no-such", 2, None) == []


def test_after_a_reboot_what_is_always_to_run_comes_back():
    record, effects = after(running(restart="always"), lost(running(restart="always"), [], "another boot"))
    assert record.reason == "the host was restarted"
    assert [effect.event for effect in effects if isinstance(effect, ev.Arm)] == [ev.StartAsked()]
    record, effects = after(running(), lost(running(), [], "another boot"))
    assert (record.state, [e for e in effects if isinstance(e, ev.Arm)]) == (State.FAILED, [])


def test_a_stop_that_overtook_the_launch_is_over():
    record = step(starting(), ev.StopAsked(), 3.0)[0]
    assert record.state is State.STOPPING
    assert after(record, lost(record, [], "b"))[0].state is State.STOPPED
