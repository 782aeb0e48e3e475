"""inotify on the real kernel."""

import errno
import os

import pytest

from sandboxd.errors import KernelError
from sandboxd.kernel import inotify


@pytest.fixture
def instance():
    fd = inotify.inotify_init()
    yield fd
    os.close(fd)


def test_it_is_never_inherited_and_never_blocks(instance):
    assert not os.get_inheritable(instance)
    assert inotify.read_events(instance) == []


def test_writes_and_names_are_told(instance, tmp_path):
    watch = inotify.inotify_add_watch(instance, str(tmp_path), inotify.IN_MODIFY | inotify.IN_CREATE)
    (tmp_path / "ä").write_text("x")
    events = inotify.read_events(instance)
    assert {(event.watch, event.name) for event in events} == {(watch, "ä")}
    assert {event.mask for event in events} == {inotify.IN_CREATE, inotify.IN_MODIFY}
    os.truncate(tmp_path / "ä", 0)
    assert [event.mask for event in inotify.read_events(instance)] == [inotify.IN_MODIFY]


def test_one_directory_is_one_watch(instance, tmp_path):
    assert inotify.inotify_add_watch(instance, str(tmp_path), 2) == inotify.inotify_add_watch(instance, str(tmp_path), 2)


def test_a_watch_can_be_given_up_once(instance, tmp_path):
    watch = inotify.inotify_add_watch(instance, str(tmp_path), inotify.IN_CREATE)
    inotify.inotify_rm_watch(instance, watch)
    (tmp_path / "x").write_text("")
    assert [event.mask for event in inotify.read_events(instance)] == [inotify.IN_IGNORED]
    with pytest.raises(KernelError) as caught:
        inotify.inotify_rm_watch(instance, watch)
    assert caught.value.errno == errno.EINVAL


def test_what_is_missing_is_named(instance, tmp_path):
    with pytest.raises(KernelError) as caught:
        inotify.inotify_add_watch(instance, str(tmp_path / "no"), inotify.IN_CREATE)
    assert caught.value.errno == errno.ENOENT
    assert str(tmp_path / "no") in caught.value.message


def test_many_events_come_in_parts(instance, tmp_path):
    inotify.inotify_add_watch(instance, str(tmp_path), inotify.IN_CREATE)
    for number in range(3000):
        (tmp_path / f"{number:0200}").touch()
    names = set()
    while events := inotify.read_events(instance):
        names |= {int(event.name) for event in events}
    assert names == set(range(3000))
