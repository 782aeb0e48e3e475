"""What is kept up of all envs is what a walk over them would find."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.roll import STARTING_FOR, Roll
from sandboxd.lifecycle.states import ALIVE, State
from sandboxd.spec import EnvSpec, Limits

NOW = 1000.0


def env(number, state=State.QUEUED, memory=None, started=None):
    spec = EnvSpec(services={}, limits=Limits(memory=memory))
    name = f"env-{number}"
    env_id = f"{number:032x}"
    return EnvRecord(
        id=env_id,
        name=name,
        owner=number % 2,
        group=1,
        spec=spec,
        services={},
        created=0.0,
        state=state,
        started=started,
    )


STEPS = st.lists(
    st.tuples(
        st.integers(0, 5),
        st.sampled_from([*State, "admit", "forget"]),
        st.sampled_from([None, 1 << 20, 1 << 30]),
        st.sampled_from([None, NOW - 1, NOW - STARTING_FOR - 1]),
    ),
    max_size=60,
)


@given(STEPS)
def test_it_says_what_a_walk_would(steps):
    roll, known, admitted = Roll(), {}, set()
    for number, what, memory, started in steps:
        record = known.get(number)
        if what == "forget":
            if record is not None:
                roll.forget(record)
                del known[number]
                admitted.discard(number)
        elif what == "admit":
            if record is not None and record.state is State.QUEUED:
                roll.admit(record)
                admitted.add(number)
        else:
            changed = env(number, what, memory, started)
            known[number] = changed
            roll.note(changed)
            if what is not State.QUEUED:
                admitted.discard(number)
    alive = [record for number, record in known.items() if record.state in ALIVE or number in admitted]
    fresh = [one for one in alive if one.started is None or NOW - one.started < STARTING_FOR]
    assert roll.alive == len(alive)
    assert roll.memory == sum(record.limits.memory or 0 for record in alive)
    assert roll.starting(NOW) == sum(1 for one in fresh if one.state in (State.QUEUED, State.STARTING))
    assert len(roll.coming) == sum(1 for one in known.values() if one.state in (State.QUEUED, State.STARTING))
    assert sorted(roll.names) == sorted(record.name for record in known.values())
    for number in range(6):
        expected = known[number].id if number in known else None
        assert roll.id_of(number % 2, f"env-{number}") == expected
        assert roll.id_of(2, f"env-{number}") is None


def test_forgotten_twice_counts_once():
    roll, record = Roll(), env(1, State.READY)
    roll.note(record)
    roll.forget(record)
    roll.forget(replace(record))
    assert (roll.alive, list(roll.names)) == (0, [])
