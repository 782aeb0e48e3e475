"""A daemon understands inits of its own version and of the one before. So of sandboxd.launch.versions."""

import pytest

from sandboxd.errors import ProtocolViolation
from sandboxd.launch.frames import VERSION
from sandboxd.launch.versions import NEXT, SPOKEN, understood

STATUS: dict[str, object] = {"services": {}, "failed": {}, "sessions": []}
# What an init of each version greets with, as that version's wrote it: once released, an entry is never changed.
GREETINGS = {
    1: {"event": "hello", "version": 1, "id": "x", "name": "y", "status": STATUS},
    2: {
        "event": "hello", "version": 2, "id": "x", "name": "y", "status": STATUS,
        "walls": ["mount"], "netns_cookie": 7, "refused": [],
    },
}  # fmt: skip


def test_the_last_two_versions_are_spoken_and_each_has_its_sample():
    assert SPOKEN == (VERSION - 1, VERSION)
    assert set(NEXT) == {VERSION - 1}
    assert set(GREETINGS) >= set(SPOKEN)


@pytest.mark.parametrize("version", SPOKEN)
def test_a_greeting_has_all_that_the_newest_has(version):
    found = understood(GREETINGS[version], version)
    assert found.keys() == GREETINGS[VERSION].keys()
    assert found["status"] == STATUS


def test_what_an_older_init_does_not_prove_is_not_taken_as_proven():
    assert understood(GREETINGS[1], 1)["walls"] == []
    assert understood(GREETINGS[2], 2)["walls"] == ["mount"]


@pytest.mark.parametrize("version", SPOKEN)
def test_other_frames_are_as_they_were(version):
    exit_ = {"event": "exited", "service": "web", "pid": 2, "status": 0}
    assert understood(exit_, version) == exit_


@pytest.mark.parametrize("version", [-1, 0, VERSION + 1, 1 << 40])
def test_versions_before_and_after_are_refused_by_name(version):
    with pytest.raises(ProtocolViolation, match=f"version {version}, this daemon 1 and 2") as refused:
        understood({"event": "hello"}, version)
    assert refused.value.hint
