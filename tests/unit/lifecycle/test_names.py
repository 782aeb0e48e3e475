"""Which env is meant: id, name, unique prefix, or the one of this directory."""

import itertools

import pytest

from sandboxd.errors import Ambiguous, NotFound
from sandboxd.lifecycle.names import ADJECTIVES, NOUNS, draw_name, find, host_clash, is_within
from sandboxd.spec import Name, Workspace
from tests.unit.lifecycle.test_machine import WEB, fresh


def env(id_, name, path=None, created=1.0):
    record = fresh(WEB, workspace=Workspace(path=path))
    return type(record)(
        **{f: getattr(record, f) for f in record.__struct_fields__} | {"id": id_, "name": name, "created": created}
    )


A, B, C = env("ab" * 16, "shop", "/src/shop"), env("ac" * 16, "api", "/src/shop/api"), env("d" * 32, "ab", "/src/shop", 2.0)


@pytest.mark.parametrize(
    ("target", "meant"), [("ab" * 16, A), ("shop", A), ("abab", A), ("ac", B), ("ab", C), ("d", C)], ids=lambda v: str(v)[:8]
)
def test_a_name_goes_before_a_prefix(target, meant):
    assert find([A, B, C], target) is meant


def test_a_shared_prefix_is_refused_with_what_it_could_mean():
    with pytest.raises(Ambiguous, match="2 ids") as refused:
        find([A, B], "a")
    assert refused.value.details["matches"] == [A.id, B.id]


def test_an_unknown_target_says_where_to_look():
    with pytest.raises(NotFound, match="no env 'nope'") as refused:
        find([A, B], "nope")
    assert "ps -a" in refused.value.hint


@pytest.mark.parametrize(("directory", "meant"), [("/src/shop", C), ("/src/shop/api/x", B), ("/src/shop/web", C)])
def test_without_a_target_it_is_the_nearest_directorys_newest(directory, meant):
    assert find([A, B, C], "", directory) is meant


def test_a_directory_that_only_begins_alike_is_another():
    assert not is_within("/src/shop2", "/src/shop")
    with pytest.raises(NotFound):
        find([A], "", "/src/shop2")


def test_drawn_names_are_labels_and_free():
    first = draw_name([], lambda words: words[0])
    assert first == f"{ADJECTIVES[0]}-{NOUNS[0]}"
    assert draw_name([first], lambda words: words[0]) == f"{first}-2"
    pattern = Name.__metadata__[0].pattern
    import re

    assert all(re.fullmatch(pattern, f"{a}-{b}") for a, b in itertools.product(ADJECTIVES, NOUNS))


def named(*records):
    return {record.name: record for record in records}.get


def test_two_envs_share_no_host_name():
    shop = env("a" * 32, "shop")  # its service is web.shop
    assert host_clash(env("b" * 32, "web.shop"), named(shop)) is shop
    assert host_clash(shop, named(env("b" * 32, "web.shop"))) is not None
    assert host_clash(env("b" * 32, "fix.shop"), named(shop)) is None
    assert host_clash(env("b" * 32, "shop-2"), named(shop)) is None
