"""Dependency order, forwards and backwards."""

from sandboxd.lifecycle.order import blocked_by, is_hopeless, startable, stoppable
from sandboxd.lifecycle.records import ServiceRecord
from sandboxd.lifecycle.states import ServiceState
from sandboxd.spec import Service

SPECS = {
    "a": Service(command="a"),
    "b": Service(command="b", depends_on=["a"]),
    "c": Service(command="c", depends_on=["a", "b"]),
}


def records(**states):
    return {name: ServiceRecord(name=name, state=state, exit_code=code) for name, (state, code) in states.items()}


WAITING, READY, EXITED, RUNNING = ServiceState.WAITING, ServiceState.READY, ServiceState.EXITED, ServiceState.RUNNING


def test_what_needs_nothing_starts_first_and_the_rest_as_it_becomes_true():
    assert startable(SPECS, records(a=(WAITING, None), b=(WAITING, None), c=(WAITING, None))) == ["a"]
    assert startable(SPECS, records(a=(READY, None), b=(WAITING, None), c=(WAITING, None))) == ["b"]
    assert startable(SPECS, records(a=(RUNNING, None), b=(WAITING, None), c=(WAITING, None))) == []
    assert startable(SPECS, records(a=(EXITED, 0), b=(READY, None), c=(WAITING, None))) == ["c"]


def test_a_service_between_two_tries_waits_for_its_delay():
    waiting = records(a=(WAITING, None))
    waiting["a"] = ServiceRecord(name="a", failures=1)
    assert startable({"a": SPECS["a"]}, waiting) == []


def test_a_bad_end_blocks_what_waits_for_it():
    ended = records(a=(EXITED, 2), b=(WAITING, None), c=(WAITING, None))
    assert is_hopeless(ended["a"])
    assert blocked_by(SPECS, ended) == ("b", "a")
    assert blocked_by(SPECS, records(a=(EXITED, 0), b=(WAITING, None), c=(WAITING, None))) is None


def test_dependents_stop_before_what_they_need():
    assert stoppable(SPECS, records(a=(READY, None), b=(READY, None), c=(READY, None))) == ["c"]
    assert stoppable(SPECS, records(a=(READY, None), b=(READY, None), c=(EXITED, 0))) == ["b"]
