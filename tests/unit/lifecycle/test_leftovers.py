"""What belongs to nobody, and that nothing is touched at first sight. So of sandboxd.lifecycle.leftovers."""

import pytest

from sandboxd.lifecycle.leftovers import MOST, ORDER, Known, Sight, Thing, judge, strays

ENV, OTHER = "a" * 32, "b" * 32
NOBODY = Known(ids=())
MINE = Known(ids=(ENV,), alive=(ENV,), inits=(7,), groups=("/g/env-1",), berths=(OTHER,))


@pytest.mark.parametrize(
    ("sight", "thing"),
    [
        (Sight(inits=["7 100"]), Thing("tasks", "7 100")),
        (Sight(mounts=["/s/envs/" + ENV + "/home"], place="/s/envs"), Thing("mounts", f"/s/envs/{ENV}/home")),
        (Sight(groups={"/g/env-1": False}), Thing("cgroups", "/g/env-1")),
        (Sight(groups={"/g/env-1": True}), Thing("cgroups", "/g/env-1")),
        (Sight(names=[ENV]), Thing("files", ENV)),
        (Sight(names=[".gone-" + ENV]), Thing("files", ".gone-" + ENV)),
        (Sight(ports=[ENV]), Thing("routes", ENV)),
    ],
)
def test_what_is_an_envs_is_left_and_what_is_nobodys_is_found(sight, thing):
    assert strays(sight, MINE) == set()
    assert strays(sight, NOBODY) == {thing}


def test_a_place_made_ahead_is_told_from_one_that_was_left():
    assert strays(Sight(names=[".ready-" + OTHER]), MINE) == set()
    assert strays(Sight(names=[".ready-" + ENV]), MINE) == {Thing("files", ".ready-" + ENV)}


def test_a_socket_of_a_dead_daemon_is_nobodys():
    assert strays(Sight(sockets=[".control.sock.9"]), MINE) == {Thing("sockets", ".control.sock.9")}


def test_a_port_of_an_env_at_its_end_is_nobodys():
    assert strays(Sight(ports=[ENV]), Known(ids=(ENV,))) == {Thing("routes", ENV)}


def test_while_a_launch_is_under_way_what_lives_is_left():
    sight = Sight(inits=["7 100"], groups={"/g/env-1": True, "/g/env-2": False}, names=[ENV])
    launching = Known(ids=(), launching=True)
    assert strays(sight, launching) == {Thing("cgroups", "/g/env-2"), Thing("files", ENV)}


@pytest.mark.parametrize("name", ["notes.txt", "lost+found", ENV[:-1], ENV[:-1] + "X", ".ready-"])
def test_what_is_not_named_as_ours_are_is_left(name):
    assert strays(Sight(names=[name]), NOBODY) == set()


@pytest.mark.parametrize("path", ["/", "/s/envs", "/s/envsbut/" + ENV, "/elsewhere/" + ENV])
def test_mounts_elsewhere_are_left(path):
    assert strays(Sight(mounts=[path], place="/s/envs"), NOBODY) == set()


def test_a_round_is_bounded():
    names = [f"{number:032x}" for number in range(2 * MOST)]
    assert len(strays(Sight(names=names, sockets=["x"]), NOBODY)) == MOST + 1


def test_only_what_was_there_at_two_looks_is_due_and_in_order():
    first = {Thing("files", ENV), Thing("tasks", "7 100"), Thing("routes", ENV)}
    assert judge(first, ()) == ([], first)
    due, suspects = judge({*first, Thing("mounts", "/m")}, first)
    assert [thing.kind for thing in due] == ["tasks", "files", "routes"]
    assert suspects == {Thing("mounts", "/m")}
    assert judge((), first) == ([], set())


def test_every_kind_has_its_turn():
    everything = Sight(
        inits=["1 1"], mounts=[f"/p/{ENV}"], groups={"g": False}, names=[ENV], sockets=["s"], ports=[ENV], place="/p"
    )
    assert {thing.kind for thing in strays(everything, NOBODY)} == set(ORDER)
