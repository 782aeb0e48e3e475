"""A walk counts what du counts, follows nothing, ends where it was told to, and leaves modes and descriptors as they were."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from sandboxd.limits.diskuse import disk_use

ALL = {"entries": 1 << 20, "enough": 1 << 62}


def fill(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(size))
    with path.open("rb+") as file:
        os.fsync(file.fileno())  # blocks are allocated late (btrfs, xfs)
    return path


def du(*paths: Path) -> int:
    done = subprocess.run(["du", "-s", "-c", "-B1", *map(str, paths)], capture_output=True, text=True, check=True)
    return int(done.stdout.splitlines()[-1].split()[0])


def own(*paths: Path) -> int:
    """Blocks of the directories named, which du counts and we do not: they are ours."""
    return sum(path.stat().st_blocks * 512 for path in paths)


def test_it_is_what_du_says(tmp_path: Path) -> None:
    home, logs = tmp_path / "home", tmp_path / "logs"
    for directory in (home, home / "a" / "b", logs):
        directory.mkdir(parents=True)
    one = fill(home / "a" / "one", 300_000)
    os.link(one, home / "a" / "b" / "again")
    fill(logs / "web.0.log", 10_000)
    with (home / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    os.symlink("/usr", home / "usr")
    use = disk_use([home, logs], **ALL)
    assert use.bytes == du(home, logs) - own(home, logs)
    assert use.whole
    assert use.bytes < 1 << 20


def test_links_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    fill(outside / "big", 1 << 20)
    os.symlink(outside, tmp_path / "home" / "link")
    assert disk_use([tmp_path / "home"], **ALL).bytes < 1 << 16
    os.symlink(tmp_path / "outside", tmp_path / "top")
    assert disk_use([tmp_path / "top"], **ALL) == disk_use([tmp_path / "missing"], **ALL)


def test_it_ends_at_what_is_enough_and_at_its_bound(tmp_path: Path) -> None:
    for number in range(50):
        fill(tmp_path / str(number), 8192)
    use = disk_use([tmp_path], entries=10, enough=1 << 62)
    assert (use.entries, use.whole) == (10, False)
    use = disk_use([tmp_path], entries=1000, enough=20_000)
    assert 20_000 < use.bytes < 50 * 8192
    assert not use.whole


def test_what_was_made_unreadable_counts_and_stays_so(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    fill(hidden / "big", 1 << 20)
    hidden.chmod(0o300)
    assert disk_use([tmp_path], **ALL).bytes >= 1 << 20
    assert stat.S_IMODE(hidden.stat().st_mode) == 0o300


def test_what_nests_deeper_than_a_path_is_told(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(60):
        os.mkdir("d" * 100, dir_fd=here)
        below = os.open("d" * 100, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    use = disk_use([tmp_path], **ALL)
    assert use.hidden
    assert not use.whole
    from sandboxd.store.removal import remove_tree

    parent = os.open(tmp_path, os.O_RDONLY)
    remove_tree(parent, "d" * 100)
    os.close(parent)


@pytest.mark.parametrize("kind", ["file", "gone"])
def test_what_is_no_directory_is_nothing(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "it"
    if kind == "file":
        fill(path, 8192)
    assert disk_use([path], **ALL).bytes == 0


def test_no_descriptor_stays(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    disk_use([tmp_path], entries=1, enough=1)
    disk_use([tmp_path], **ALL)
    assert len(os.listdir("/proc/self/fd")) == before
