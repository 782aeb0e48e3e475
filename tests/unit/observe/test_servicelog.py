"""Two files that are written, swapped and emptied while they are read: nothing twice, nothing out of order."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandboxd.observe import servicelog
from sandboxd.observe.records import stamp
from sandboxd.observe.servicelog import LogFile, ServiceLog
from tests.unit.observe.writer import Writer


@pytest.fixture
def writer(tmp_path):
    found = Writer(tmp_path, "web", limit=1000)
    yield found
    found.close()


@pytest.fixture
def log(tmp_path):
    found = ServiceLog(tmp_path, "web")
    yield found
    found.close()


def texts(log: ServiceLog) -> list[str]:
    found: list[str] = []
    while chunk := log.read():
        found.extend(record.text.decode(errors="replace") for record in chunk)
    return found


def test_nothing_there_is_nothing_read(log):
    assert texts(log) == []


def test_both_files_come_in_order_whichever_is_current(writer, log):
    for number in range(50):
        writer.write(f"{number}")
    found = texts(log)
    assert found == [str(number) for number in range(50 - len(found), 50)]
    assert len(found) > 1000 // 50
    assert texts(log) == []


def test_swaps_lose_nothing_for_who_keeps_up(writer, log):
    found = []
    for number in range(500):
        writer.write(f"{number}")
        if number % 7 == 0:
            found += texts(log)
    assert found + texts(log) == [str(number) for number in range(500)]


def test_who_falls_behind_misses_a_part_and_reads_nothing_twice(writer, log):
    for number in range(10):
        writer.write(f"{number}")
    found = [int(text) for text in texts(log)]
    for number in range(10, 300):
        writer.write(f"{number}")
    found += [int(text) for text in texts(log)]
    assert found == sorted(set(found))
    assert found[-1] == 299
    assert found[:10] == list(range(10))


def test_a_record_is_read_when_it_is_whole(writer, log):
    writer.write("one")
    writer.raw(b"2026-11-23T04:38:22.123456789Z stdout F tw")
    assert texts(log) == ["one"]
    writer.raw(b"o\n")
    assert texts(log) == ["two"]


def test_a_torn_record_that_is_cut_off_again_is_never_seen(writer, log):
    """What init does on a full disk: half a record is written, cut off, and later a notice follows."""
    writer.write("one")
    whole = writer.files[0].tell()
    writer.raw(b"2026-11-23T04:38:22.123456789Z stdout F half")
    assert texts(log) == ["one"]
    writer.files[0].truncate(whole)
    assert texts(log) == []
    writer.write("notice")
    assert texts(log) == ["notice"]


def test_an_emptied_file_is_read_from_its_start(writer, log):
    writer.write("one")
    assert texts(log) == ["one"]
    writer.files[0].truncate(0)
    writer.write("two")
    assert texts(log) == ["two"]


def test_what_comes_into_an_empty_file_while_the_other_is_read_is_left_for_the_next_look(writer, log, monkeypatch):
    """Init fills one file and goes on in the other, just after the first was read to its end and before the second is."""
    real = LogFile.read
    numbers = iter(range(1000))

    def beset(file: LogFile) -> bytes:
        data = real(file)
        if not data:
            monkeypatch.setattr(LogFile, "read", real)
            for _ in range(30):
                writer.write(f"{next(numbers)}")
        return data

    writer.write(f"{next(numbers)}")
    assert texts(log) == ["0"]
    monkeypatch.setattr(LogFile, "read", beset)
    assert texts(log) + texts(log) == [str(number) for number in range(1, 31)]


def test_garbage_is_passed_over(writer, log):
    writer.limit = 1 << 20
    writer.raw(b"\xff\x00" * 100_000)
    writer.raw(b"\n")
    writer.write("after")
    assert texts(log) == ["after"]


def test_a_link_in_place_of_a_log_is_not_followed(tmp_path, log):
    (tmp_path / "secret").write_bytes(b"2026-11-23T04:38:22.123456789Z stdout F secret\n")
    (tmp_path / "web.0.log").symlink_to(tmp_path / "secret")
    assert texts(log) == []


def test_the_time_to_start_at_is_found_in_a_large_log(tmp_path, log):
    writer = Writer(tmp_path, "web", limit=3 << 20)
    for number in range(40_000):
        writer.write(f"{number} {'x' * 90}", at=(1_700_000_000 + number) * 10**9)
    writer.close()
    log.start_at(stamp(1_700_000_000 + 35_000))
    found = texts(log)
    assert found[-1].startswith("39999 ")
    assert 5000 <= len(found) < 6500, "only about a chunk more than asked for"
    assert any(text.startswith("35000 ") for text in found)


@pytest.mark.parametrize("lines", [0, 1, 10, 5000, 10**9])
def test_the_last_lines_are_found_from_the_end(tmp_path, log, lines):
    writer = Writer(tmp_path, "web", limit=300_000)
    for number in range(8000):
        writer.write(f"{number}")
    writer.close()
    everything = ServiceLog(tmp_path, "web")
    try:
        total = len(texts(everything))
    finally:
        everything.close()
    log.start_before_end(lines, 1 << 30)
    found = texts(log)
    assert min(lines, total) <= len(found) <= lines + 2000
    assert found == [str(number) for number in range(8000 - len(found), 8000)]


def test_the_last_bytes_are_a_bound(tmp_path, log):
    writer = Writer(tmp_path, "web", limit=1 << 20)
    for number in range(10_000):
        writer.write(f"{number}")
    writer.close()
    log.start_before_end(10**9, 100_000)
    assert 1000 < len(texts(log)) < 4000


STEPS = st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=40)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, chunk=st.sampled_from([90, 300, 65536]))
def test_any_course_of_writes_and_reads(tmp_path_factory, monkeypatch, steps, chunk):
    """However reads fall between writes: in order, nothing twice, and all that still stood at the last read."""
    monkeypatch.setattr(servicelog, "CHUNK", chunk)
    directory = tmp_path_factory.mktemp("logs")
    writer, log = Writer(directory, "web", limit=600), ServiceLog(directory, "web")
    written = 0
    found: list[int] = []
    try:
        for length, reads in steps:
            writer.write(f"{written} {'x' * length}")
            written += 1
            if reads:
                found += [int(record.text.split()[0]) for record in log.read()]
        found += [int(text.split()[0]) for text in texts(log)]
    finally:
        log.close()
        writer.close()
    assert found == sorted(set(found))
    standing = sum(path.read_bytes().count(b"\n") for path in directory.iterdir())
    assert set(range(written - standing, written)) <= set(found)


JUNK = st.one_of(
    st.binary(max_size=300),
    st.just(b"2026-11-23T04:38:22.123456789Z stdout F good\n"),
    st.just(b"2026-11-23T04:38:22.123456789Z stdout P half"),
    st.just(b"x" * 1000),
    st.integers(0, 2000),  # cut to this size
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.integers(0, 1), JUNK, st.integers(0, 4)), max_size=25), chunk=st.sampled_from([64, 500]))
def test_any_bytes_cut_anywhere_are_records_or_nothing(tmp_path_factory, monkeypatch, steps, chunk):
    monkeypatch.setattr(servicelog, "CHUNK", chunk)
    directory = tmp_path_factory.mktemp("logs")
    log = ServiceLog(directory, "web")
    try:
        for number, junk, then in steps:
            with (directory / f"web.{number}.log").open("ab") as file:
                if isinstance(junk, int):
                    file.truncate(min(junk, file.tell()))
                else:
                    file.write(junk)
            if then == 0:
                texts(log)
            elif then == 1:
                log.start_at(stamp(1.7e9))
            elif then == 2:
                log.start_before_end(2, 500)
        for record in iter(lambda: log.read() or None, None):
            assert all(b"\n" not in found.text for found in record)
        assert log.read() == []
    finally:
        log.close()
