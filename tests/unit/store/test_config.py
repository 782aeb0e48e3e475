"""The config file on the disk: who may have written it."""

import os
from pathlib import Path

import pytest

from sandboxd.errors import SpecInvalid, StoreFailed
from sandboxd.specfile.parse import MAX_BYTES
from sandboxd.store.config import contents, load


def written(path: Path, text: str = "max_envs = 3\n", mode: int = 0o644) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_it_is_read_where_it_is(tmp_path: Path) -> None:
    file = written(tmp_path / "config.toml")
    found = load({"SANDBOXD_DIR": str(tmp_path)}, os.getuid())
    assert (found.settings.max_envs, found.file, found.sources) == (3, file, {"max_envs": f"{file}:1"})


def test_without_one_all_is_as_usual_unless_one_was_named(tmp_path: Path) -> None:
    assert load({"SANDBOXD_DIR": str(tmp_path)}, os.getuid()).sources == {}
    with pytest.raises(StoreFailed, match="No such file") as refused:
        load({"SANDBOXD_DIR": str(tmp_path), "SANDBOXD_CONFIG": str(tmp_path / "other")}, os.getuid())
    assert "SANDBOXD_CONFIG" in refused.value.hint


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_one_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    file = written(tmp_path / "config.toml", mode=mode)
    with pytest.raises(StoreFailed, match="can be written by others") as refused:
        contents(file, os.getuid())
    assert "chmod 644" in refused.value.hint
    Path(file).chmod(0o640)
    assert contents(file, os.getuid()) == b"max_envs = 3\n"


def test_one_of_another_user_is_refused_and_roots_is_not(tmp_path: Path) -> None:
    file = written(tmp_path / "config.toml")
    with pytest.raises(StoreFailed, match="can be written by others"):
        contents(file, os.getuid() + 1)
    assert contents("/etc/hostname", os.getuid() + 1) is not None  # root's


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.toml")
    with pytest.raises(StoreFailed, match="no regular file"):
        contents(str(tmp_path / "config.toml"), os.getuid())
    with pytest.raises(StoreFailed, match="no regular file"):
        contents(str(tmp_path), os.getuid())


def test_a_huge_one_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    written(tmp_path / "config.toml", "#" * (MAX_BYTES * 2))
    with pytest.raises(SpecInvalid, match="is the most"):
        load({"SANDBOXD_DIR": str(tmp_path)}, os.getuid())
