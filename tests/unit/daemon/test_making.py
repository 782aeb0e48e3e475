"""A spec that was held to the rules once need not be again, and no other is taken for it: sandboxd.daemon.making."""

import math

import pytest

from sandboxd.daemon import making
from sandboxd.errors import SpecInvalid
from sandboxd.spec import EnvSpec, Limits, Service


def spec(**parts):
    return EnvSpec(services={"web": Service(command="x", port=3000)}, **parts)


def test_what_breaks_a_rule_is_refused_each_time():
    for _ in range(3):
        with pytest.raises(SpecInvalid, match="no label's name"):
            making.check_once(spec(labels={"a=b": ""}))


def test_no_rule_is_asked_twice_of_one_spec(monkeypatch):
    making.check_once(spec(labels={"once": "1"}))
    asked = []
    monkeypatch.setattr(making, "check", asked.append)
    making.check_once(spec(labels={"once": "1"}))
    assert asked == []
    making.check_once(spec(labels={"once": "2"}))
    assert asked == [spec(labels={"once": "2"})]


def test_numbers_that_json_cannot_tell_apart_are_told_apart():
    making.check_once(spec(limits=Limits(cpus=None)))
    with pytest.raises(SpecInvalid):
        making.check_once(spec(limits=Limits(cpus=math.nan)))


def test_what_is_remembered_is_bounded():
    for number in range(3 * making.MOST_KEPT):
        making.check_once(spec(labels={"number": str(number)}))
    making.check_once(spec(env={"LONG": "x" * making.LONGEST_KEPT}))
    assert len(making._kept) <= making.MOST_KEPT
    assert max(map(len, making._kept)) <= making.LONGEST_KEPT
