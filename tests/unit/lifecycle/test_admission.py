"""Who starts, who waits, whose turn it is; and which env is the runaway."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.lifecycle.admission import Ceilings, Host, Load, Queue, Ticket, Use, is_critical, obstacle, runaway

M = 1 << 20
G = 1 << 30
HOST = Host(total=8 * G, available=4 * G)
CEILINGS = Ceilings(envs=10, starting=3, memory=4 * G, namespaces=20, reserve=400 * M, critical=160 * M)


@pytest.mark.parametrize(
    ("load", "host", "memory", "limit"),
    [
        (Load(), HOST, None, None),
        (Load(alive=9, starting=2, memory=3 * G), HOST, G, None),
        (Load(alive=10), HOST, None, "envs"),
        (Load(starting=3), HOST, None, "starting"),
        (Load(memory=3 * G), HOST, 2 * G, "memory"),
        (Load(memory=9 * G), HOST, None, None),
        (Load(alive=8, parked=12), HOST, None, "namespaces"),
        (Load(exhausted=True), HOST, None, "namespaces"),
        (Load(), Host(total=8 * G, available=399 * M), None, "host memory"),
        (Load(), Host(total=8 * G, available=4 * G, pressure=25.0), None, "host memory"),
        (Load(), Host(total=8 * G, available=4 * G, pressure=5.0), None, None),
    ],
)
def test_ceilings(load, host, memory, limit):
    found = obstacle(CEILINGS, load, host, memory)
    assert (found and found.limit) == limit
    if found:
        assert found.text
        assert found.hint


def test_turns_go_round_the_owners_and_then_by_time():
    waiting = [Ticket("a1", 1, 1.0), Ticket("a2", 1, 2.0), Ticket("b1", 2, 3.0), Ticket("a3", 1, 0.5), Ticket("c1", 3, 9.0)]
    order, last = [], None
    queue = queue_of(waiting)
    while ticket := queue.next(last, {}):
        order.append(ticket.env_id)
        last = ticket.owner
        queue.remove(ticket.env_id)
    assert order == ["a3", "b1", "c1", "a1", "a2"]


def queue_of(tickets):
    queue = Queue()
    for ticket in tickets:
        queue.add(ticket)
    return queue


def test_a_burst_of_one_address_keeps_no_other_of_the_same_owner_waiting():
    burst = [Ticket(f"a{number}", 1, float(number), "shop 10.0.0.1") for number in range(5)]
    waiting = [*burst, Ticket("b", 1, 9.0, "shop 10.0.0.2"), Ticket("c", 1, 9.5), Ticket("d", 2, 9.9)]
    order, last, groups = [], None, {}
    queue = queue_of(waiting)
    while ticket := queue.next(last, groups):
        order.append(ticket.env_id)
        last = ticket.owner
        groups[ticket.owner] = ticket.group
        queue.remove(ticket.env_id)
    assert order == ["c", "d", "a0", "b", "a1", "a2", "a3", "a4"]


@given(st.lists(st.tuples(st.integers(1, 4), st.floats(0, 100)), min_size=1, max_size=30))
def test_everybody_has_a_turn_and_no_owner_two_while_another_waits(given_):
    waiting = [Ticket(str(number), owner, since) for number, (owner, since) in enumerate(given_)]
    queue, last = queue_of(waiting), None
    while ticket := queue.next(last, {}):
        assert ticket in waiting
        if last is not None and any(other.owner != last for other in waiting):
            assert ticket.owner != last
        last = ticket.owner
        waiting.remove(ticket)
        queue.remove(ticket.env_id)
    assert not waiting


def test_who_left_the_queue_has_no_turn_and_who_comes_again_has_one():
    queue = queue_of([Ticket("a", 1, 1.0), Ticket("b", 1, 2.0)])
    queue.remove("a")
    assert queue.next(None, {}).env_id == "b"
    queue.add(Ticket("a", 1, 1.0))
    queue.add(Ticket("b", 1, 0.5))
    assert queue.next(None, {}).since == 0.5
    queue.remove("b")
    assert queue.next(1, {1: ""}).env_id == "a"
    assert list(queue.tickets) == ["a"]
    queue.remove("a")
    assert queue.next(1, {1: ""}) is None


CRITICAL = Host(total=8 * G, available=100 * M)


def test_the_runaway_is_the_env_most_over_its_share():
    uses = [Use("small", 300 * M, None), Use("hog", 4 * G, None), Use("big", 2 * G, 4 * G)]
    found, share = runaway(uses, CEILINGS, CRITICAL)
    assert (found.env_id, share) == ("hog", (300 * M + 6 * G) // 4)


@pytest.mark.parametrize(
    "uses",
    [[], [Use("a", 50 * M, None)], [Use(str(number), 200 * M, None) for number in range(5)]],
    ids=["none", "one small", "many small"],
)
def test_what_is_small_is_no_runaway_even_if_the_host_starves(uses):
    assert runaway(uses, CEILINGS, CRITICAL) is None


def test_a_lone_env_can_be_the_runaway():
    assert runaway([Use("only", 6 * G, None)], CEILINGS, CRITICAL)[0].env_id == "only"


@given(st.lists(st.integers(0, 8 * G), max_size=8), st.integers(0, G))
def test_a_runaway_is_large_and_over_its_share(sizes, available):
    host = Host(total=8 * G, available=available)
    found = runaway([Use(str(n), size, None) for n, size in enumerate(sizes)], CEILINGS, host)
    if found is not None:
        use, share = found
        assert use.memory >= max(256 * M, CEILINGS.critical - available)
        assert use.memory > share
        assert use.memory == max(sizes)


def test_what_is_critical():
    assert is_critical(CEILINGS, CRITICAL)
    assert not is_critical(CEILINGS, HOST)
    assert is_critical(CEILINGS, Host(total=8 * G, available=4 * G, pressure=70.0))


def test_what_is_put_back_waits_once_and_where_it_did():
    queue = Queue()
    first, second = Ticket("a", 1, 1.0), Ticket("b", 1, 2.0)
    queue.add(first)
    queue.add(second)
    for _ in range(5):
        queue.remove("a")
        assert queue.next(None, {}) is second
        queue.put_back(first)
        queue.remove("a")
        queue.put_back(first)  # nobody met it meanwhile
        assert queue.next(None, {}) is first
    queue.remove("a")
    queue.remove("b")
    assert queue.next(None, {}) is None
    assert not queue.tickets
