"""Envs live by a clock that nobody can set.

So of sandboxd.lifecycle.clock, sandboxd.daemon.clock and sandboxd.daemon.timers.
"""

import asyncio
import contextlib

import pytest

from sandboxd.daemon.clock import FACT, Clock, boottime
from sandboxd.daemon.timers import Timers
from sandboxd.kernel.pidfd import boot_id
from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.clock import STEP, ahead, offset_of, words
from sandboxd.lifecycle.machine import step
from sandboxd.lifecycle.recovery import lost
from sandboxd.lifecycle.states import State
from sandboxd.spec import Lifecycle
from sandboxd.store.journal import Journal
from tests.unit.lifecycle.test_machine import INIT, WEB, fresh

HOUR = 3600.0


def test_within_a_boot_the_offset_is_that_of_its_first_daemon():
    kept = words("b", offset_of("", "b", 1000.0, 10.0))
    assert offset_of(kept, "b", 1000.0 + HOUR, 20.0) == 990.0


def test_after_a_reboot_the_wall_clock_decides():
    assert offset_of(words("a", 990.0), "b", 5000.0, 10.0) == 4990.0


@pytest.mark.parametrize("kept", ["", "b", "b x", "b nan", "b inf", "x 1", "b 1e99", "\0"])
def test_what_cannot_be_read_is_no_offset(kept):
    assert offset_of(kept, "b", 1000.0, 10.0) == 990.0


def test_for_people_moments_are_as_far_from_now_as_they_are():
    assert ahead(1000.0 + HOUR, 1000.0) == HOUR
    assert ahead(1000.0, 1000.0 + HOUR) == -HOUR
    assert ahead(1000.0, 1000.0 + STEP / 2) == 0.0


@pytest.mark.parametrize("by", [HOUR, -HOUR])
def test_a_clock_that_was_set_between_two_daemons_moves_no_time(tmp_path, by):
    with contextlib.closing(Journal(tmp_path / "state.db")) as journal:
        first = Clock(journal)
        # as if the wall clock had been set by so much since
        journal.put_fact(FACT, words(boot_id(), first.now() - boottime() - by))
        second = Clock(journal)
        assert abs(second.now() - (first.now() - by)) < 1
        assert abs(second.ahead() - by) < 1
        assert second.slept() == 0.0


def test_a_boot_of_another_id_starts_anew(tmp_path):
    with contextlib.closing(Journal(tmp_path / "state.db")) as journal:
        journal.put_fact(FACT, words("0" * 36, 12345.0))
        assert Clock(journal).ahead() == 0.0
        assert journal.fact(FACT).startswith(boot_id())


@pytest.mark.parametrize(("rebooted_at", "comes_back"), [(100.0 + HOUR / 2, True), (100.0 + 2 * HOUR, False)])
def test_a_reboot_does_not_give_time_to_what_had_none_left(rebooted_at, comes_back):
    record = fresh(WEB, lifecycle=Lifecycle(ttl=HOUR, restart="always"))
    record, _ = step(record, ev.Admitted(), 100.0)
    record, _ = step(record, ev.Launched(init=INIT, walls={}), 100.0)
    (event,) = lost(record, [], "another boot")
    record, effects = step(record, event, rebooted_at)
    assert record.state is State.FAILED
    assert any(isinstance(effect, ev.Arm) for effect in effects) == comes_back
    assert record.cause == ("host" if comes_back else "ttl")


def test_a_timer_is_hastened_by_what_went_by_unseen():
    """Armed for an hour; the machine slept for that long."""

    async def scenario():
        got: asyncio.Queue[ev.Event] = asyncio.Queue()
        timers = Timers(got.put_nowait)
        timers.arm("ttl", HOUR, ev.GraceOver())
        timers.arm("grace", HOUR, ev.StartAsked())
        timers.hasten("none", HOUR)
        timers.hasten("ttl", HOUR)
        assert await asyncio.wait_for(got.get(), 30) == ev.GraceOver()
        timers.disarm()
        return got.empty()

    assert asyncio.run(scenario())


def test_a_timer_that_is_armed_again_replaces_itself():
    async def scenario():
        got: asyncio.Queue[ev.Event] = asyncio.Queue()
        timers = Timers(got.put_nowait)
        timers.arm("one", 0.0, ev.GraceOver())
        timers.arm("one", 0.0, ev.StartAsked())
        timers.arm("two", 0.0, ev.Adopted())
        timers.disarm("two")
        assert await asyncio.wait_for(got.get(), 30) == ev.StartAsked()
        return got.empty()

    assert asyncio.run(scenario())
