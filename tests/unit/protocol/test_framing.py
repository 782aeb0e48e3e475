"""Frames: the same whole, byte by byte and with more behind; capped before anyone decodes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.errors import ProtocolViolation
from sandboxd.protocol.framing import FRAME_CAP, FrameReader, check_nesting, nesting


def drain(reader: FrameReader) -> list[bytes]:
    frames = []
    while (frame := reader.next_frame()) is not None:
        frames.append(frame)
    return frames


def fed(pieces: list[bytes], cap: int = FRAME_CAP) -> list[bytes]:
    """Frames out of these pieces, taken after each one; a violation ends the list with its message."""
    reader, frames = FrameReader(cap), []
    for piece in pieces:
        reader.feed(piece)
        try:
            while (frame := reader.next_frame()) is not None:
                frames.append(frame)
        except ProtocolViolation as error:
            return [*frames, b"!" + error.message.encode()]
    return frames


def three_ways(data: bytes, cap: int = FRAME_CAP) -> list[bytes]:
    whole = fed([data], cap)
    assert fed([bytes([byte]) for byte in data], cap) == whole
    assert fed([data, b"trailing"], cap)[: len(whole)] == whole
    return whole


def test_frames_come_in_order() -> None:
    assert three_ways(b'{"a":1}\0{"b":2}\0{"c"') == [b'{"a":1}', b'{"b":2}']


def test_an_empty_frame_is_a_frame() -> None:
    assert three_ways(b"\0\0x\0") == [b"", b"", b"x"]


def test_the_cap_is_of_the_frame_without_its_nul() -> None:
    assert three_ways(b"12345678\0", cap=8) == [b"12345678"]
    assert three_ways(b"ok\x00123456789\0", cap=8)[0] == b"ok"
    assert three_ways(b"ok\x00123456789\0", cap=8)[1].startswith(b"!a message is longer than 8 bytes")


def test_an_unended_frame_is_refused_once_it_is_over_the_cap() -> None:
    reader = FrameReader(8)
    reader.feed(b"12345678")
    assert reader.next_frame() is None
    reader.feed(b"9")
    with pytest.raises(ProtocolViolation):
        reader.next_frame()


def test_what_was_handed_out_is_not_held() -> None:
    reader = FrameReader()
    reader.feed(b"a" * 1000 + b"\0rest")
    assert drain(reader) == [b"a" * 1000]
    assert len(reader) == 4


@given(st.lists(st.binary(max_size=40)), st.integers(1, 30))
def test_any_bytes_in_any_pieces_make_the_same_frames(pieces: list[bytes], cap: int) -> None:
    whole = fed([b"".join(pieces)], cap)
    assert fed(pieces, cap) == whole
    for frame in whole:
        assert b"\0" not in frame
        assert len(frame) <= cap or frame.startswith(b"!")


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max((depth_of(item) for item in value.values()), default=0)
    if isinstance(value, list):
        return 1 + max((depth_of(item) for item in value), default=0)
    return 0


texts = st.text(alphabet=st.sampled_from('[]{}"\\x,:\n\u20ac'), max_size=8)
trees = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=30,
)


@given(trees)
def test_nesting_is_what_a_parser_finds(tree: object) -> None:
    assert nesting(json.dumps(tree).encode()) == min(depth_of(tree), 33)
    assert nesting(json.dumps(tree, ensure_ascii=False, indent=1).encode()) == min(depth_of(tree), 33)


@given(st.binary(max_size=200))
def test_nesting_of_anything_is_a_number_or_our_error(frame: bytes) -> None:
    assert 0 <= nesting(frame, 5) <= 6
    try:
        check_nesting(frame, 5)
    except ProtocolViolation:
        assert nesting(frame, 5) > 5


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_deep_nesting_is_refused_before_it_is_decoded(opening: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="nests deeper"):
        check_nesting(opening * 100_000)


def test_the_deepest_that_is_allowed() -> None:
    check_nesting(b"[" * 32 + b"]" * 32)
    with pytest.raises(ProtocolViolation):
        check_nesting(b"[" * 33 + b"]" * 33)


def test_brackets_in_strings_do_not_nest() -> None:
    check_nesting(json.dumps({"a": "[{" * 5000, 'q"': '\\"[' * 5000}).encode())
