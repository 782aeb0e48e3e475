"""The journal: what is written is there after a kill; what cannot be used is refused with what to do."""

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandboxd.errors import StoreFailed
from sandboxd.store import journal as module
from sandboxd.store.journal import Journal, fold


@pytest.fixture
def journal(tmp_path):
    found = Journal(tmp_path / "state.db")
    yield found
    found.close()


def test_records_come_back_by_id(journal):
    journal.put("b", b"\x00two")
    journal.put("a", b"one")
    journal.put("b", b"three")
    assert journal.all() == [("a", b"one"), ("b", b"three")]
    journal.remove("a")
    journal.remove("a")
    assert journal.all() == [("b", b"three")]


def test_several_changes_are_made_whole_or_not_at_all(journal):
    journal.put("a", b"one")
    journal.change({"a": None, "b": b"two", "c": b"three"})
    assert journal.all() == [("b", b"two"), ("c", b"three")]
    with pytest.raises(StoreFailed):
        journal.change({"b": None, "d": "\ud800"})
    assert journal.all() == [("b", b"two"), ("c", b"three")]


def test_events_come_in_order_since_a_time(journal):
    journal.add_events((float(at), f"e{at}".encode()) for at in range(5))
    assert journal.events(3) == [b"e3", b"e4"]
    assert journal.events() == [b"e0", b"e1", b"e2", b"e3", b"e4"]
    assert journal.events(99) == []


def test_events_are_bounded(journal, monkeypatch):
    monkeypatch.setattr(module, "KEPT_EVENTS", 10)
    monkeypatch.setattr(module, "TRIM_EVERY", 4)
    for number in range(40):
        journal.add_events([(float(number), b"%d" % number)])
    assert journal.events() == [b"%d" % number for number in range(30, 40)]
    assert journal._run("SELECT count(*) FROM events")[0][0] <= 10 + 4
    journal.add_events([(41.0, b"next")])
    assert journal._run("SELECT max(seq) FROM events") == [(41,)], "numbers are never used twice"


def test_events_that_cannot_be_made_leave_no_half_of_them(journal):
    def broken():
        yield 1.0, b"one"
        raise RuntimeError

    with pytest.raises(RuntimeError):
        journal.add_events(broken())
    assert journal.events() == []
    journal.add_events([(1.0, b"two")])
    assert journal.events() == [b"two"]


def test_all_is_there_after_a_kill_at_any_moment(tmp_path):
    code = f"""
from pathlib import Path
from sandboxd.store.journal import Journal
journal = Journal(Path({str(tmp_path / "state.db")!r}))
for number in range(1 << 20):
    journal.put("env", b"%d" % number)
    journal.add_events([(float(number), b"%d" % number)])
    print(number, flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        for _ in range(50):
            last = int(writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        last = int((writer.stdout.read().split() or [b"%d" % last])[-1])
    journal = Journal(tmp_path / "state.db")
    assert int(journal.all()[0][1]) in (last, last + 1)
    assert journal.events()[-1] in (b"%d" % last, b"%d" % (last + 1))
    journal.close()


def test_what_is_no_database_is_refused_and_kept(tmp_path):
    path = tmp_path / "state.db"
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(StoreFailed) as caught:
        Journal(path)
    assert "mv " in caught.value.hint
    assert path.read_bytes().startswith(b"this is not")


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.integers(0, 4095), junk=st.binary(min_size=1, max_size=600))
def test_a_damaged_database_works_or_is_refused(tmp_path, where, junk):
    path = tmp_path / "state.db"
    for old in tmp_path.glob("state.db*"):
        old.unlink()
    journal = Journal(path)
    for number in range(50):
        journal.put(f"{number:032x}", b"x" * 100)
    journal.close()
    with open(path, "r+b") as file:
        file.seek(where)
        file.write(junk)
    hint = None
    try:
        journal = Journal(path)
        try:
            journal.put("a", b"b")
            journal.all()
        finally:
            journal.close()
    except StoreFailed as error:
        hint = error.hint
    assert hint != ""


def test_a_truncated_database_is_refused(tmp_path):
    journal = Journal(tmp_path / "state.db")
    for number in range(500):
        journal.put(f"{number:032x}", b"x" * 100)
    journal.close()
    os.truncate(tmp_path / "state.db", 20_000)
    with pytest.raises(StoreFailed) as caught:
        Journal(tmp_path / "state.db")
    assert "damaged" in caught.value.message or "malformed" in caught.value.message
    assert "mv " in caught.value.hint


def test_a_newer_schema_is_refused_and_kept(tmp_path, journal):
    journal.put("a", b"b")
    with sqlite3.connect(tmp_path / "state.db") as other:
        other.execute("UPDATE meta SET value = '2' WHERE key = 'schema'")
    other.close()
    with pytest.raises(StoreFailed) as caught:
        Journal(tmp_path / "state.db")
    assert "schema is 2" in caught.value.message
    assert journal.all() == [("a", b"b")]


def test_a_locked_database_is_named(tmp_path, journal, monkeypatch):
    monkeypatch.setattr(module, "BUSY_MS", 50)
    with_lock = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    with_lock.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StoreFailed) as caught:
            Journal(tmp_path / "state.db")
        assert "fuser" in caught.value.hint
        journal._db.execute("PRAGMA busy_timeout = 50")
        with pytest.raises(StoreFailed):
            journal.put("a", b"b")
        assert journal.all() == [], "readers are not locked out"
    finally:
        with_lock.execute("ROLLBACK")
        with_lock.close()
    journal.put("a", b"b")
    assert journal.all() == [("a", b"b")]


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(StoreFailed) as caught:
        Journal(tmp_path / "no" / "state.db")
    assert str(tmp_path / "no") in caught.value.hint


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_read_only_database_is_named(tmp_path):
    Journal(tmp_path / "state.db").close()
    (tmp_path / "state.db").chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StoreFailed) as caught:
            Journal(tmp_path / "state.db")
        assert caught.value.hint
    finally:
        tmp_path.chmod(0o700)


FULL = """
import os, resource, signal, sys
from pathlib import Path
from sandboxd.errors import StoreFailed
from sandboxd.store.journal import Journal
journal = Journal(Path(sys.argv[1]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does by itself; the write then fails with EFBIG
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
journal.put("before", b"b")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
good = 0
try:
    for number in range(1000):
        journal.put("%032x" % number, b"x" * 1000)
        good += 1
except StoreFailed as error:
    assert error.hint, error.message
    assert len(journal.all()) == good + 1, "it can still be read"
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.put("after", b"a")
    assert len(journal.all()) == good + 2
    print("ok")
"""


def test_a_write_past_the_file_size_limit_fails_and_is_survived(tmp_path):
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path / "state.db")], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("ok\n", "")


def test_it_leaves_one_file_when_closed(tmp_path):
    Journal(tmp_path / "state.db").close()
    assert os.listdir(tmp_path) == ["state.db"]


def test_the_log_is_folded_into_the_database_while_it_is_in_use(journal, tmp_path):
    for number in range(20):
        journal.put(str(number), b"x" * 5000)
    log = tmp_path / "state.db-wal"
    before = log.stat().st_size
    fold(journal.path)
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(journal.path, alone / "state.db")
    with contextlib.closing(Journal(alone / "state.db")) as other:
        assert len(other.all()) == 20, "all of it is in the database itself"
    journal.put("later", b"x" * 5000)
    assert log.stat().st_size == before, "the log begins anew"
    assert len(journal.all()) == 21
    with pytest.raises(StoreFailed):
        fold(tmp_path / "not" / "there.db")


def test_it_is_for_nobody_else_to_read(journal, tmp_path):
    """Records hold environments, and those hold secrets."""
    journal.put("a", b"b")
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "state.db": 0o600,
        "state.db-shm": 0o600,
        "state.db-wal": 0o600,
    }


def test_older_state_is_migrated_once_and_whole(tmp_path, monkeypatch):
    path = tmp_path / "state.db"
    journal = Journal(path)
    journal.put("a", b"one")
    journal.close()
    monkeypatch.setattr(module, "SCHEMA", 2)
    monkeypatch.setattr(module, "MIGRATIONS", {1: ("ALTER TABLE envs ADD COLUMN note TEXT", "UPDATE no_such SET a = 1")})
    with pytest.raises(StoreFailed, match="no_such"):
        Journal(path)
    monkeypatch.setattr(module, "MIGRATIONS", {1: ("ALTER TABLE envs ADD COLUMN note TEXT",)})
    for _ in range(2):
        journal = Journal(path)
        assert journal._run("SELECT id, note FROM envs") == [("a", None)]
        assert journal.fact("schema") == "2"
        journal.close()


def test_newer_state_is_refused_and_left_as_it_is(tmp_path):
    path = tmp_path / "state.db"
    journal = Journal(path)
    journal.put("a", b"one")
    journal.put_fact("schema", "7")
    journal.close()
    before = path.read_bytes()
    for readonly in (False, True):
        with pytest.raises(StoreFailed, match="newer sandboxd: its schema is 7, this one reads up to 1") as caught:
            Journal(path, readonly=readonly)
        assert "use the sandboxd that wrote it" in caught.value.hint
    assert path.read_bytes() == before
