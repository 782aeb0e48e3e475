"""Sizes and durations: what people write, what they may not, and that nothing but SpecInvalid comes out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.errors import SpecInvalid
from sandboxd.units import MAX_DURATION, MAX_SIZE, format_duration, format_size, parse_duration, parse_size, shown


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512m", 512 << 20),
        ("512M", 512 << 20),
        ("1g", 1 << 30),
        ("1GiB", 1 << 30),
        ("1GB", 1 << 30),
        ("1 GiB", 1 << 30),
        ("1.5g", 3 << 29),
        ("0.5k", 512),
        ("64kb", 64 << 10),
        ("2t", 2 << 40),
        ("1024", 1024),
        ("1024b", 1024),
        (" 7k ", 7168),
        (4096, 4096),
        (0, 0),
        (MAX_SIZE, MAX_SIZE),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m",
        "-1",
        -1,
        "1.5",
        "1.5b",
        1.5,
        True,
        None,
        [],
        "1x",
        "1mm",
        "1 m b",
        "9999999p",
        MAX_SIZE + 1,
        "١m",
        "1e9",
        "1_0",
        "1ib",
        "1ki",
    ],
)
def test_no_sizes(text):
    with pytest.raises(SpecInvalid) as caught:
        parse_size(text)
    assert "512m" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("1h30m", 5400),
        ("500ms", 0.5),
        ("1.5h", 5400),
        ("2d", 172800),
        ("1w", 604800),
        ("1h 30m", 5400),
        ("250us", 0.00025),
        ("30", 30),
        ("0.25", 0.25),
        (2, 2),
        (0.1, 0.1),
        ("0s", 0),
        ("5M", 300),
    ],
)
def test_durations(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "-1s",
        -1,
        "1y",
        "1h30",
        "h1",
        float("nan"),
        float("inf"),
        True,
        None,
        [],
        "1e3s",
        "٣s",
        "9" * 15 + "w",
        "1s" * 60,
        10**400,
    ],
)
def test_no_durations(text):
    with pytest.raises(SpecInvalid) as caught:
        parse_duration(text)
    assert "90s" in caught.value.hint


@given(st.text() | st.integers() | st.floats() | st.from_regex(r"[0-9]+(\.[0-9]+)?[a-zµ ]{0,3}"))
def test_anything_is_a_number_or_invalid(value):
    for parse, most in ((parse_size, MAX_SIZE), (parse_duration, MAX_DURATION)):
        try:
            got = parse(value)
        except SpecInvalid:
            continue
        assert 0 <= got <= most


@given(st.integers(min_value=0, max_value=1 << 53))
def test_a_written_size_reads_back_to_about_the_same(size):
    assert parse_size(format_size(size)) == pytest.approx(size, rel=0.001)


@given(st.floats(min_value=0.001, max_value=1e9))
def test_a_written_duration_reads_back_to_about_the_same(seconds):
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=0.05, abs=0.0006)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0B"),
        (1023, "1023B"),
        (1024, "1KiB"),
        (512 << 20, "512MiB"),
        (3 << 29, "1.5GiB"),
        (1 << 50, "1PiB"),
        (1 << 63, "8192PiB"),
    ],
)
def test_sizes_in_words(size, text):
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.25, "250ms"),
        (0.9999, "1s"),
        (1.5, "1.5s"),
        (12, "12s"),
        (90, "1m30s"),
        (3600, "1h"),
        (3601, "1h"),
        (100_000, "1d3h"),
        (86400, "1d"),
    ],
)
def test_durations_in_words(seconds, text):
    assert format_duration(seconds) == text


def test_what_is_shown_is_never_long():
    assert len(shown("x" * 10_000)) <= 60
    assert shown(10**10_000) == "a huge number"
