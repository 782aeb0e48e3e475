"""Records on their way: sandboxd.store.copies. What can wait does so while many envs start."""

import asyncio
import contextlib
import os

import pytest

from sandboxd.settings import Settings
from sandboxd.store import copies
from sandboxd.store.copies import FEW, NAME, Kept
from sandboxd.store.journal import Journal
from sandboxd.store.rundir import prepare

ENV = "a" * 32


@pytest.fixture
def journal(tmp_path):
    with contextlib.closing(Journal(tmp_path / "state.db")) as journal:
        yield journal


@pytest.fixture
def rundir(tmp_path):
    made = prepare(Settings.from_environ({"SANDBOXD_DIR": str(tmp_path / "d")}, os.getuid()))
    made.create_env_dir(ENV)
    yield made
    made.close()


def test_copies_make_way_for_envs_that_start_but_not_for_ever(rundir, journal, monkeypatch):
    monkeypatch.setattr(copies, "DELAY", 0.001)
    asked = []

    async def main():
        last = asyncio.Event()

        def is_crowded():
            asked.append((rundir.env_dir(ENV) / NAME).exists())
            if len(asked) == copies.PUT_OFF:
                asyncio.get_running_loop().call_later(0.1, last.set)  # behind the timer that is set now
            return True

        kept = Kept(rundir, journal, is_crowded)
        kept.create(ENV, b"one")
        await asyncio.wait_for(last.wait(), 30)
        assert not kept._waiting
        kept.close()

    asyncio.run(main())
    assert asked == [False] * copies.PUT_OFF
    assert (rundir.env_dir(ENV) / NAME).read_bytes() == b"one"


def test_the_log_is_folded_when_it_is_long_and_nobody_waits(rundir, journal, tmp_path):
    log = tmp_path / "state.db-wal"

    async def main():
        crowd = [True]
        kept = Kept(rundir, journal, lambda: crowd[0])
        for number in range(FEW):
            if number == FEW - 1:
                crowd[0] = False
                kept.tend()
                assert kept._folding is None, "it is short"
                crowd[0] = True
            kept.save(ENV, b"%d" % number)
            await kept.saved()
        kept.tend()
        assert kept._folding is None, "envs start"
        crowd[0] = False
        kept.tend()
        assert kept._folding is not None
        await kept._folding
        size = log.stat().st_size
        kept.save(ENV, b"last")
        await kept.saved()
        assert log.stat().st_size == size
        kept.close()

    asyncio.run(main())
    assert journal.all() == [(ENV, b"last")]


def test_what_changes_in_one_turn_is_one_transaction(rundir, journal):
    asked = []

    async def main():
        kept = Kept(rundir, journal)
        kept.create(ENV, b"one")
        journal._db.set_trace_callback(asked.append)
        kept.save(ENV, b"two")
        kept.save("b" * 32, b"three")
        kept.remove("c" * 32)
        assert not asked
        await asyncio.gather(kept.saved(), kept.saved())
        assert [sql.split()[0] for sql in asked] == ["BEGIN", "INSERT", "INSERT", "DELETE", "COMMIT"]
        await kept.saved()
        kept.close()

    asyncio.run(main())
    assert journal.all() == [(ENV, b"two"), ("b" * 32, b"three")]


def test_of_what_the_disk_does_not_take_as_a_whole_it_takes_what_it_can(rundir, journal, caplog):
    async def main():
        kept = Kept(rundir, journal)
        pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
        journal._db.execute(f"PRAGMA max_page_count = {pages + 3}")
        kept.save("a" * 32, b"small")
        kept.save("b" * 32, b"x" * 100_000)
        kept.save("c" * 32, b"after it")
        await kept.saved()
        assert journal.all() == [("a" * 32, b"small")]
        journal._db.execute("PRAGMA max_page_count = 1000000")
        kept.save("d" * 32, b"last")
        await kept.saved()
        kept.close()

    asyncio.run(main())
    assert [record[:8] for _, record in journal.all()] == [b"small", b"xxxxxxxx", b"after it", b"last"]
    assert [entry.message.partition(",")[0] for entry in caplog.records] == ["the journal cannot be written"]
