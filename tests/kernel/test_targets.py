"""launch.targets: places to mount on are found or made beneath the root, and through no link."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandboxd.errors import KernelError
from sandboxd.launch.targets import find


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def found(root: int, target: str, *, make_file: bool = False) -> str:
    place = find(root, target, make_file=make_file)
    try:
        return os.readlink(f"/proc/self/fd/{place}")
    finally:
        os.close(place)


@pytest.mark.parametrize("there", ["", "a", "a/b", "a/b/c"])
def test_what_is_missing_is_made(tmp_path: Path, root: int, there: str) -> None:
    (tmp_path / there).mkdir(parents=True, exist_ok=True)
    before = set(os.listdir("/proc/self/fd"))
    assert found(root, "/a/b/c") == str(tmp_path / "a/b/c")
    assert (tmp_path / "a/b/c").is_dir()
    assert set(os.listdir("/proc/self/fd")) <= before


def test_a_file_is_made_where_one_is_to_be(tmp_path: Path, root: int) -> None:
    assert found(root, "/x/y/file", make_file=True) == str(tmp_path / "x/y/file")
    assert (tmp_path / "x/y/file").is_file()
    assert found(root, "/x/y/file", make_file=True) == str(tmp_path / "x/y/file")
    assert found(root, "/") == str(tmp_path)


@pytest.mark.parametrize("target", ["/out", "/out/new", "/out/new/more", "/in/../../new", "/file/new"])
def test_no_link_is_followed_and_nothing_is_made_outside(tmp_path: Path, root: int, target: str) -> None:
    inner = tmp_path / "root"
    for name in ("root/in", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    (inner / "out").symlink_to(tmp_path / "elsewhere")
    (inner / "file").touch()
    fd = os.open(inner, os.O_PATH | os.O_DIRECTORY)
    try:
        with pytest.raises(KernelError):
            found(fd, target)
    finally:
        os.close(fd)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "root"]
