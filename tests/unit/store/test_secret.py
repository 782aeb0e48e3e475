"""The daemon's secret: drawn once, ours alone."""

import os

import pytest

from sandboxd.errors import StoreFailed
from sandboxd.store.secret import load_secret


def test_it_is_drawn_once(tmp_path):
    path = tmp_path / "secret"
    first = load_secret(path)
    assert len(first) == 32
    assert load_secret(path) == first
    assert load_secret(tmp_path / "other") != first
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path)) == ["other", "secret"]


def test_what_others_could_read_or_have_put_there_is_refused(tmp_path):
    path = tmp_path / "secret"
    load_secret(path)
    path.chmod(0o640)
    with pytest.raises(StoreFailed, match="not as we left it") as refused:
        load_secret(path)
    assert "rm" in refused.value.hint
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(StoreFailed, match="not as we left it"):
        load_secret(path)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreFailed, match="cannot use"):
        load_secret(path)
    with pytest.raises(StoreFailed, match="cannot use"):
        load_secret(tmp_path / "none" / "secret")
