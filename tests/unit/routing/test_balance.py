"""Which replica a request goes to. So of sandboxd.routing.balance."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from sandboxd.routing.balance import COOKIE, Candidate, pick, set_cookie, wanted_of

CANDIDATES = st.lists(
    st.builds(
        Candidate,
        number=st.integers(1, 9),
        ready=st.booleans(),
        draining=st.booleans(),
        load=st.integers(0, 5),
        kept=st.booleans(),
    ),
    max_size=6,
)


@given(CANDIDATES, st.integers(0, 9), st.integers(0, 1000))
def test_it_is_ready_does_not_drain_if_there_is_another_and_is_the_wanted_or_the_least_used(
    candidates: list[Candidate], wanted: int, turn: int
) -> None:
    place = pick(candidates, wanted, turn)
    ready = [one for one in candidates if one.ready]
    assert (place is None) == (not ready)
    if place is None:
        return
    chosen = candidates[place]
    assert chosen.ready
    staying = [one for one in ready if not one.draining] or ready
    assert chosen in staying
    preferred = [one for one in staying if one.number == wanted] or staying
    assert chosen.load == min(one.load for one in preferred)


def test_equals_have_their_turns() -> None:
    three = [Candidate(number, True, False, 0) for number in (1, 2, 3)]
    assert set(Counter(pick(three, 0, turn) for turn in range(300)).values()) == {100}


def test_a_connection_that_is_open_is_kept_until_another_is_less_used() -> None:
    kept = Candidate(1, True, False, 3, kept=True)
    assert pick([Candidate(2, True, False, 3), kept], 0, 0) == 1
    assert pick([Candidate(2, True, False, 2), kept], 0, 0) == 0


def test_the_cookie_that_was_set_names_its_replica() -> None:
    line = set_cookie(12)
    assert line.startswith(b"Set-Cookie: " + COOKIE + b"=12; ")
    assert wanted_of(b"Host: x\r\nCookie: a=b; " + COOKIE + b"=12; c=d\r\n") == 12
    for other in (b"", b"0", b"-1", b"1000", b"x", b"1 2"):
        assert wanted_of(b"Cookie: " + COOKIE + b"=" + other + b"\r\n") == 0
    assert wanted_of(b"X-Cookie: " + COOKIE + b"=1\r\n") == 0
