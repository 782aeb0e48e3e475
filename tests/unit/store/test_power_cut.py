"""The journal after a power cut: the database and its log as they stand at any instant, also with their newest frames lost.

The writer, whose log is taken into the database all the while, is stopped while the two are copied, so that a copy is of one
instant. What was not yet synced may be lost, newest
first: so the log's copy is cut anywhere behind its last checkpoint.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys

import pytest

from sandboxd.store.journal import Journal

CUTS = int(os.environ.get("POWER_CUTS", "12"))
ENVS = 8
WRITER = f"""
import sys, threading
from pathlib import Path
from sandboxd.store.journal import Journal, fold
journal = Journal(Path(sys.argv[1]))
def folds():
    while True:
        fold(Path(sys.argv[1]))
threading.Thread(target=folds, daemon=True).start()
print("open", flush=True)
for number in range(1 << 30):
    journal.put(str(number % {ENVS}), b"%d " % number + b"x" * 2000)
    journal.add_events([(float(number), b"%d" % number)])
"""


@pytest.fixture
def writer(tmp_path):
    path = tmp_path / "state.db"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        yield path, process
        process.kill()


def state_of(path):
    """Opens, and says up to which number records and events go; they must be of one moment."""
    with contextlib.closing(Journal(path)) as journal:
        records = sorted(int(record.split()[0]) for _, record in journal.all())
        events = [int(event) for event in journal.events()]
        journal.put("later", b"0")
    assert records == list(range(records[0], records[0] + len(records))) if records else True
    assert events == list(range(events[0], events[0] + len(events))) if events else True
    last, told = (records[-1] if records else -1), (events[-1] if events else -1)
    assert last - told in (0, 1), "an event is told of what is not recorded, or one is missing"
    return last


def test_every_instant_reopens_to_a_moment_that_there_was(writer, tmp_path):
    path, process = writer
    draw = random.Random(1)
    seen = -1
    for cut in range(CUTS):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(draw.uniform(0.0, 0.05))
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        copy = tmp_path / f"cut-{cut}"
        copy.mkdir()
        for name in ("state.db", "state.db-wal"):
            shutil.copy(path.parent / name, copy / name)
        process.send_signal(signal.SIGCONT)
        last = state_of(copy / "state.db")
        assert last >= seen, "what was there is gone"
        seen = last
        shutil.rmtree(copy)


def test_a_log_that_lost_its_end_reopens_to_an_earlier_moment(tmp_path):
    path = tmp_path / "state.db"
    with contextlib.closing(Journal(path)) as journal:
        for number in range(60):  # below the thousand pages at which sqlite would check the log point by point into the file
            journal.put(str(number % ENVS), b"%d " % number + b"x" * 2000)
            journal.add_events([(float(number), b"%d" % number)])
        whole = (tmp_path / "state.db-wal").read_bytes()
        base = path.read_bytes()
    draw = random.Random(2)
    lasts = set()
    for cut in range(CUTS):
        copy = tmp_path / f"cut-{cut}"
        copy.mkdir()
        (copy / "state.db").write_bytes(base)
        (copy / "state.db-wal").write_bytes(whole[: draw.randrange(len(whole))])
        lasts.add(state_of(copy / "state.db"))
    assert len(lasts) > 1
