"""Removing trees that somebody hostile filled."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandboxd.store.removal import remove_tree


@pytest.fixture
def parent(tmp_path):
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_what_is_not_there_is_removed_already(parent):
    assert remove_tree(parent, "no") == 0


def test_a_file_or_link_in_place_of_the_directory_goes_alone(parent, tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "keep").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "file").write_text("")
    assert remove_tree(parent, "link") == 1
    assert remove_tree(parent, "file") == 1
    assert os.listdir(tmp_path) == ["target"]
    assert (tmp_path / "target" / "keep").exists()


@pytest.mark.skipif(os.getuid() == 0, reason="root removes everything")
def test_what_cannot_be_removed_is_an_error(tmp_path, parent):
    (tmp_path / "x" / "y").mkdir(parents=True)
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            remove_tree(parent, "x")
    finally:
        tmp_path.chmod(0o700)


NAMES = st.sampled_from(["a", "b", ".1", ".2", ".3", "...", "\udcff", " "])
TREES = st.recursive(
    st.sampled_from(["file", "link", "fifo"]),
    lambda inner: st.tuples(st.sampled_from([0o000, 0o300, 0o500, 0o700]), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=25,
)


def make(path: Path, tree: object, outside: Path) -> int:
    """Make a tree; returns how many entries it has."""
    if tree == "file":
        path.write_text("")
    elif tree == "link":
        path.symlink_to(outside)
    elif tree == "fifo":
        os.mkfifo(path)
    else:
        assert isinstance(tree, tuple)
        path.mkdir()
        made = sum(make(path / name, below, outside) for name, below in tree[1].items())
        path.chmod(tree[0])
        return made + 1
    return 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TREES)
def test_any_tree_goes_whole_and_is_counted(tmp_path_factory, tree):
    base = tmp_path_factory.mktemp("tree")
    outside = base / "outside"
    outside.mkdir()
    (outside / "keep").write_text("")
    made = make(base / "x", tree, outside)
    fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert remove_tree(fd, "x") == made
    finally:
        os.close(fd)
    assert os.listdir(base) == ["outside"]
    assert os.listdir(outside) == ["keep"]
