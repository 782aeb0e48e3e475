"""Shared memory that is nobody's, as the kernel tells of it; the real thing is a bomb of tests/walls.

So of sandboxd.daemon.segments, which asks for the descriptor.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxd.limits.segments import MOST, unattached

HEAD = b"       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap\n"  # noqa: E501


def row(attached: int, resident: object, swapped: object = 0) -> bytes:
    """A line of ipc/shm.c's."""
    return f"0 1 1600 1048576 12 12 {attached:6}  1000  1000  1000  1000 1 1 1 {resident} {swapped}\n".encode()


@pytest.fixture
def said(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "shm", os.O_CREAT | os.O_RDWR)
    yield fd
    os.close(fd)


@pytest.mark.parametrize(
    ("text", "total"),
    [
        (b"", 0),
        (HEAD, 0),
        (HEAD + row(0, 4096), 4096),
        (HEAD + row(0, 4096, 8192) + row(1, 1 << 30) + row(0, 1), 12289),
        (HEAD + b"\n \n0 0 0\n" + row(0, 7), 7),
        (HEAD + row(0, "many"), 0),
        (b"\xff\0" * 10_000, 0),
    ],
)
def test_what_nobody_has_attached_is_added_up(said: int, text: bytes, total: int) -> None:
    os.write(said, text)
    assert unattached(said) == total
    assert unattached(said) == total, "whoever read it before"


def test_no_more_is_read_than_there_can_be(said: int) -> None:
    os.ftruncate(said, 1 << 40)
    os.pwrite(said, HEAD + row(0, 5), 0)
    assert unattached(said) == 5
    assert MOST < 1 << 40


def test_what_is_no_such_file_tells_nothing() -> None:
    """It comes from the env's side: what would wait for its writer does not."""
    reading, writing = os.pipe()
    assert unattached(reading) == 0
    os.close(reading)
    os.close(writing)
    with open("/proc/sysvipc/shm", "rb") as file:
        assert unattached(file.fileno()) >= 0
