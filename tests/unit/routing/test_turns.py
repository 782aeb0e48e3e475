"""Who may have a connection, and who waits: sandboxd.routing.turns."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from sandboxd.routing.turns import Answer, Claim, Turns

A, B, C, D = (Claim(number % 2, number) for number in range(4))


def granted(answers: list[Answer]) -> list[Claim]:
    """Whose turn it is, where nobody was refused."""
    assert all(answer.granted for answer in answers)
    return [answer.claim for answer in answers]


def bounded(most: int, *, longest: int = 10) -> Turns:
    """Turns of one env with a bound."""
    turns = Turns(longest)
    turns.replace({"env": most})
    return turns


def test_one_at_a_time_in_the_order_in_which_they_came_whatever_their_worker() -> None:
    turns = bounded(1)
    assert granted(turns.seek("env", A)) == [A]
    assert [turns.seek("env", claim) for claim in (B, C, D)] == [[], [], []]
    assert granted(turns.leave("env", A)) == [B]
    assert turns.leave("env", C) == []  # it waits no longer
    assert granted(turns.leave("env", B)) == [D]
    assert turns.leave("env", B) == []  # said twice, given back once
    assert turns.leave("env", D) == []
    assert granted(turns.seek("env", A)) == [A]


def test_past_the_end_of_the_queue_is_refused_at_once() -> None:
    turns = bounded(1, longest=1)
    assert granted(turns.seek("env", A)) == [A]
    assert turns.seek("env", B) == []
    assert turns.seek("env", C) == [Answer(C, granted=False)]
    assert granted(turns.leave("env", A)) == [B]
    none = bounded(1, longest=0)
    assert granted(none.seek("env", A)) == [A]
    assert none.seek("env", B) == [Answer(B, granted=False)]
    assert none.leave("env", A) == []
    assert granted(none.seek("env", C)) == [C]


def test_a_worker_that_ends_gives_back_what_it_had_and_leaves_the_queue() -> None:
    turns = bounded(2)
    assert granted([*turns.seek("env", A), *turns.seek("env", C)]) == [A, C]
    later = [Claim(0, 10), Claim(1, 11), Claim(1, 13), Claim(1, 15)]
    assert all(turns.seek("env", claim) == [] for claim in later)
    assert granted(turns.end(0)) == [Claim(1, 11), Claim(1, 13)]
    assert A.worker == C.worker == 0


def test_a_bound_that_changes_counts_from_then_on() -> None:
    turns = bounded(1)
    assert granted(turns.seek("env", A)) == [A]
    assert [turns.seek("env", claim) for claim in (B, C, D)] == [[], [], []]
    assert granted(turns.change({"env": 2, "other": 1})) == [B]
    assert turns.change({"env": 1}) == []
    assert turns.leave("env", A) == []  # B alone is as many as there may be now
    assert granted(turns.change({"env": 0})) == [C, D]
    assert granted(turns.seek("env", A)) == [A]
    assert granted(turns.seek("other", A)) == [A]
    assert turns.seek("other", B) == []
    assert granted(turns.change({}, ["other"])) == [B]  # nobody waits for what is gone: it is told so where it asks
    assert granted(turns.replace({})) == []


ENVS = ("one", "two")
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("seek"), st.sampled_from(ENVS), st.integers(0, 2)),
        st.tuples(st.just("leave"), st.sampled_from(ENVS), st.integers(0, 20)),
        st.tuples(st.just("end"), st.just(""), st.integers(0, 2)),
    ),
    max_size=60,
)


@given(MOVES, st.integers(1, 3), st.integers(0, 4))
def test_never_more_than_the_bound_and_never_one_before_who_came_first(
    moves: list[tuple[str, str, int]], most: int, longest: int
) -> None:
    turns = Turns(longest)
    turns.replace(dict.fromkeys(ENVS, most))
    held: set[tuple[str, Claim]] = set()
    waiting: list[tuple[str, Claim]] = []
    of: dict[Claim, str] = {}
    for number, (move, env, value) in enumerate(moves):
        if move == "seek":
            claim = Claim(value, number)
            of[claim] = env
            waiting.append((env, claim))
            answers = turns.seek(env, claim)
        elif move == "leave":
            claims = [claim for claim in of if of[claim] == env]
            if not claims:
                continue
            claim = claims[value % len(claims)]
            held.discard((env, claim))
            waiting = [one for one in waiting if one != (env, claim)]
            answers = turns.leave(env, claim)
        else:
            held = {one for one in held if one[1].worker != value}
            waiting = [one for one in waiting if one[1].worker != value]
            answers = turns.end(value)
        for answer in answers:
            one = (of[answer.claim], answer.claim)
            if answer.granted:
                assert one == next(other for other in waiting if other[0] == one[0])
                held.add(one)
            waiting.remove(one)
        counts = Counter(env for env, _ in held)
        queues = Counter(env for env, _ in waiting)
        assert all(counts[env] <= most and queues[env] <= longest for env in ENVS)
        assert all(counts[env] == most for env in queues)  # nobody waits for nothing


def test_another_program_goes_on_with_who_has_one_and_who_waits() -> None:
    before = bounded(1)
    for claim in (A, B, C):
        before.seek("env", claim)
    after = Turns(10)
    after.take_up(before.standing(), {0: 70, 1: 71})
    a, b, c = (Claim(70 + claim.worker, claim.number) for claim in (A, B, C))
    assert after.seek("env", D) == []
    assert [granted(after.leave("env", claim)) for claim in (a, b, c)] == [[b], [c], [D]]
