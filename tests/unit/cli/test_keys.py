"""Detach keys: none lost, none passed on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.cli.keys import DEFAULT, DetachKeys, parse_keys
from sandboxd.errors import UsageError

P, Q = b"\x10", b"\x11"


@pytest.mark.parametrize(
    ("text", "keys"), [(DEFAULT, P + Q), ("ctrl-@", b"\0"), ("ctrl-],d", b"\x1dd"), ("a,b", b"ab"), ("", b"")]
)
def test_parse(text: str, keys: bytes) -> None:
    assert parse_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-pq", "ctrl-1", "alt-p", "ctrl-p,,ctrl-q", "é"])
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(UsageError):
        parse_keys(text)


@pytest.mark.parametrize(
    ("typed", "passed", "detached"),
    [
        ([b"ls\n"], b"ls\n", False),
        ([b"a" + P + Q + b"b"], b"a", True),
        ([P, Q], b"", True),
        ([P, b"x"], P + b"x", False),
        ([P, P, Q], P, True),
        ([P + P + b"x"], P + P + b"x", False),
        ([Q + P], Q, False),
    ],
)
def test_feed(typed: list[bytes], passed: bytes, detached: bool) -> None:
    watch = DetachKeys(parse_keys(DEFAULT))
    seen = [watch.feed(data) for data in typed]
    assert b"".join(data for data, _ in seen) == passed
    assert any(found for _, found in seen) == detached


def test_without_keys_all_passes() -> None:
    assert DetachKeys(b"").feed(P + Q) == (P + Q, False)


@given(st.lists(st.sampled_from([b"a", b"b", b"ab", b"aab"])))
def test_nothing_is_lost(typed: list[bytes]) -> None:
    """For any keys: what was passed on, what is held and the sequence itself are what was typed up to there."""
    watch = DetachKeys(b"aabaa")
    passed = b""
    for data in typed:
        got, detached = watch.feed(data)
        passed += got
        if detached:
            assert b"".join(typed).startswith(passed + b"aabaa")
            return
    rest = b"".join(typed)[len(passed) :]
    assert b"".join(typed).startswith(passed)
    assert b"aabaa".startswith(rest)
