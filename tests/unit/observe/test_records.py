"""CRI records: parsed, compared by time, counted as lines, put together again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.observe.records import Decoder, Record, last_lines, parse_records, stamp

T = b"2026-11-23T04:38:22.123456789Z"


def record(text: bytes, *, partial: bool = False, stream: str = "stdout", service: str = "web") -> Record:
    return Record(T, service, stream, partial, text)


def test_records_are_parsed():
    data = T + b" stdout F hello\n" + T + b" stderr P no newline \n" + T + b" stdout F \n"
    assert parse_records(data, "web") == [
        record(b"hello"),
        record(b"no newline ", partial=True, stream="stderr"),
        record(b""),
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello",
        T,
        T + b" stdout F",
        T + b" stdin F x",
        T + b" stdout X x",
        T[:-1] + b" stdout F x",
        b"\0" * 50,
        b" " + T + b" stdout F x",
    ],
)
def test_what_is_no_record_is_passed_over(line):
    good = T + b" stdout F good\n"
    assert parse_records(good + line + b"\n" + good, "web") == [record(b"good")] * 2
    assert parse_records(line, "web") == []


@given(st.lists(st.sampled_from([T, b" stdout", b" stderr", b" F ", b" P ", b"x", b"\n", b"\xff", b"\0"]), max_size=30))
def test_any_bytes_are_records_or_nothing(parts):
    data = b"".join(parts)
    for found in parse_records(data, "web"):
        assert b"\n" not in found.text
        again = found.time + b" " + found.stream.encode() + (b" P " if found.partial else b" F ") + found.text + b"\n"
        assert again in data


@pytest.mark.parametrize(
    ("since", "text"),
    [
        (0, b""),
        (-5, b""),
        (float("nan"), b""),
        (1, b"1970-01-01T00:00:01.000000000Z"),
        (1.5, b"1970-01-01T00:00:01.500000000Z"),
        (1e300, b"9999-12-31T23:59:59.999999999Z"),
    ],
)
def test_times_become_stamps(since, text):
    assert stamp(since) == text


@given(st.floats(0.001, 4e9), st.floats(0.001, 4e9))
def test_stamps_compare_as_times(one, other):
    if one < other:
        assert stamp(one) <= stamp(other)


# -- lines ---------------------------------------------------------------------------------------------------------------

P1, P2, F = (record(text, partial=text != b"f") for text in (b"p1", b"p2", b"f"))
ERR = record(b"e", stream="stderr")


@pytest.mark.parametrize(
    ("records", "count", "kept"),
    [
        ([F, F, F], 2, [F, F]),
        ([F, F], 0, []),
        ([F], 9, [F]),
        ([F, P1, P2, F], 1, [P1, P2, F]),
        ([F, P1, P2], 1, [P1, P2]),
        ([P1, F, P2], 2, [P1, F, P2]),
        ([P1, ERR, F], 1, [P1, F]),
        ([P1, ERR, F], 2, [P1, ERR, F]),
        ([P1, F, ERR], 1, [ERR]),
        ([P1, ERR, P2, ERR, F], 2, [P1, P2, ERR, F]),
    ],
)
def test_the_last_lines(records, count, kept):
    assert last_lines(records, count) == kept


RECORDS = st.lists(
    st.builds(
        record,
        st.binary(max_size=2).filter(lambda b: b"\n" not in b),
        partial=st.booleans(),
        stream=st.sampled_from(["stdout", "stderr"]),
        service=st.sampled_from(["a", "b"]),
    ),
    max_size=20,
)


@given(RECORDS, st.integers(0, 6))
def test_the_last_lines_are_whole_lines(records, count):
    """By an oracle that cuts every stream into lines first."""
    numbered = list(enumerate(records))
    lines: list[list[tuple[int, Record]]] = []
    for key in {(r.service, r.stream) for r in records}:
        line: list[tuple[int, Record]] = []
        for number, r in numbered:
            if (r.service, r.stream) == key:
                line.append((number, r))
                if not r.partial:
                    lines.append(line)
                    line = []
        if line:
            lines.append(line)
    lines.sort(key=lambda line: line[-1][0])
    wanted = sorted(item for line in lines[len(lines) - count if count < len(lines) else 0 :] for item in line)
    assert last_lines(records, count) == [r for _, r in wanted]


# -- text ----------------------------------------------------------------------------------------------------------------


def test_a_character_cut_in_two_is_put_together():
    euro = "€".encode()
    records = [record(b"a" + euro[:1], partial=True), ERR, record(euro[1:2], partial=True), record(euro[2:] + b"b")]
    assert [line.text for line in Decoder().lines(records)] == ["a", "e", "", "€b"]


def test_what_is_no_text_is_replaced_and_the_line_after_is_not_touched():
    records = [record(b"\xe2", partial=True), record(b"x"), record(b"y")]
    assert [line.text for line in Decoder().lines(records)] == ["", "�x", "y"]


@given(RECORDS)
def test_any_records_become_lines(records):
    lines = Decoder().lines(records)
    assert [(line.service, line.stream, line.partial, line.time) for line in lines] == [
        (r.service, r.stream, r.partial, r.time.decode()) for r in records
    ]
    for line in lines:
        line.text.encode()
