"""A disk that is full: a real one, a tmpfs of some hundred kilobytes in namespaces of the test's own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Runs as dev in user and mount namespaces of its own; `disk` is the full one, `fill()` and `free()` make it so and not so.
PRELUDE = """
import ctypes, os, sys
uid, gid = os.getuid(), os.getgid()
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x10000000 | 0x20000) != 0:
    sys.exit(77)
for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
    with open(f"/proc/self/{name}", "w") as file:
        file.write(text)
disk = sys.argv[1]
if libc.mount(b"tmpfs", disk.encode(), b"tmpfs", 6, b"size=512k,nr_inodes=400,mode=700") != 0:
    sys.exit(77)
from pathlib import Path
from sandboxd.errors import StoreFailed
disk = Path(disk)

def fill(leave=0):
    with open(disk / "ballast", "ab", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
        os.truncate(file.fileno(), os.fstat(file.fileno()).st_size - leave)

def free():
    os.unlink(disk / "ballast")
"""


def run(tmp_path: Path, code: str) -> None:
    (tmp_path / "disk").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code, str(tmp_path / "disk")],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip("no unprivileged user namespaces here")
    assert done.stderr == ""
    assert (done.returncode, done.stdout) == (0, "ok\n")


def test_the_journal_says_so_keeps_what_it_had_and_goes_on(tmp_path):
    run(
        tmp_path,
        """
from sandboxd.store.journal import Journal
journal = Journal(disk / "state.db")
journal.put("a", b"one")
fill()
failures = 0
for number in range(200):
    try:
        journal.put(f"{number}", b"x" * 3000)
    except StoreFailed as error:
        failures += 1
        assert "free some space" in error.hint or "full" in error.hint, (error.message, error.hint)
assert failures > 100
kept = journal.all()
assert ("a", b"one") in kept
free()
journal.put("b", b"two")
journal.add_events([(1.0, b"event")])
assert dict(journal.all()) == {**dict(kept), "b": b"two"}
journal.close()
again = Journal(disk / "state.db")
assert dict(again.all()) == {**dict(kept), "b": b"two"}
again.close()
print("ok")
""",
    )


def test_a_journal_cannot_begin_on_a_full_disk_and_says_why(tmp_path):
    run(
        tmp_path,
        """
from sandboxd.store.journal import Journal
fill()
try:
    Journal(disk / "state.db")
except StoreFailed as error:
    assert str(disk) in error.message and error.hint, (error.message, error.hint)
    free()
    Journal(disk / "state.db").close()
    print("ok")
""",
    )


def test_an_env_directory_that_does_not_fit_leaves_nothing_half_made(tmp_path):
    run(
        tmp_path,
        """
from sandboxd.settings import Settings
from sandboxd.store.rundir import prepare
rundir = prepare(Settings.from_environ({"SANDBOXD_DIR": str(disk / "d")}, uid))
made = []
try:
    for number in range(100_000):
        made.append(f"{number:032x}")
        rundir.create_env_dir(made[-1])
except StoreFailed as error:
    assert "free some space" in error.hint, error.hint
    assert rundir.env_ids() == made[:-1]
    assert not (rundir.envs_dir / made[-1]).exists()
    assert all(rundir.remove_env_dir(env_id) == 3 for env_id in made[:-1])  # removal needs no space
    assert os.listdir(rundir.envs_dir) == []
    print("ok")
""",
    )


def test_logs_lose_lines_and_say_so_and_readers_see_whole_records(tmp_path):
    """Init's own pump writes, our reader reads along: before, during, and after the disk was full."""
    run(
        tmp_path,
        """
from sandboxd.launch.pump import LogFiles
from sandboxd.observe.logs import read_logs
from sandboxd.observe.servicelog import ServiceLog
flags = os.O_CREAT | os.O_RDWR | os.O_APPEND
files = LogFiles(tuple(os.open(disk / f"web.{number}.log", flags) for number in (0, 1)), 200_000)
reader = ServiceLog(disk, "web")
number = 0

def write(count):
    global number
    for _ in range(count):
        number += 1
        files.write(f"2026-11-23T04:38:22.{number:09d}Z stdout F line {number} {'x' * 900}\\n".encode())

seen = []
def read():
    while found := reader.read():
        seen.extend(record.text.decode().split(" x")[0] for record in found)

write(50)
read()
fill(leave=1500)
write(100)
read()
free()
write(50)
read()
notices = [text for text in seen if "dropped" in text]
lines = [int(text.split()[1]) for text in seen if "dropped" not in text]
assert all("No space left" in notice for notice in notices), notices
assert sum(int(notice.split()[1]) for notice in notices) == 200 - len(lines) > 50, notices
assert lines == sorted(set(lines))
assert lines[:50] == list(range(1, 51)) and lines[-50:] == list(range(151, 201))
assert [line.text.split(" x")[0] for line in read_logs(disk, ["web"])] == seen
reader.close()
files.close()
print("ok")
""",
    )
