"""Templates of several users of one daemon of root's: each under its owner's name, for him, in his quota. Runs as root only.

So of sandboxd.daemon.templates and sandboxd.lifecycle.demand, where a daemon serves every user.
"""

import contextlib
import json
import os
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sandboxd.protocol.messages as m
from sandboxd.daemon.templates import MOST
from sandboxd.errors import Ambiguous, NotFound
from sandboxd.spec import EnvSpec, Network, OnDemand, Service, Workspace
from tests.daemon.asking import SERVER, until
from tests.daemon.box import ALICE, BASE, BOB, Made, Shared, names, reach, reload, run
from tests.daemons import PATIENCE

pytestmark = pytest.mark.root


def register(name: str, directory: Path | None = None, share: Any = None, **rule: Any) -> Callable[[Any], Any]:
    spec = EnvSpec(
        name=name,
        services={"web": Service(command=[*SERVER, "3000"], port=3000)},
        workspace=Workspace(path=str(directory) if directory else None),
        network=Network(share=share),
        on_demand=OnDemand(**{"key": "host", "create": True, **rule}),
    )
    return lambda client: client.call(m.Register(spec=spec, environ={"PATH": os.environ["PATH"]})).template.url


def ensure(name: str, key: str) -> Callable[[Any], Any]:
    return lambda client: client.call(m.Ensure(template=name, key=key)).env.id


def templates(client: Any) -> list[str]:
    return [f"{one.name} of {one.owner}" for one in client.call(m.Templates()).templates]


def test_each_users_templates_are_his_own(shared: Shared) -> None:
    assert shared.by(ALICE, register("shop", shared.home(ALICE))) == f"http://KEY.shop.u{ALICE}.{BASE}:{shared.port}"
    assert shared.by(BOB, register("shop", key="header:x-user")).startswith(f"http://shop.u{BOB}.{BASE}")
    assert [shared.by(uid, templates) for uid in (ALICE, BOB)] == [[f"shop of {ALICE}"], [f"shop of {BOB}"]]
    mine, theirs = shared.by(ALICE, ensure("shop", "one")), shared.by(BOB, ensure("shop", "one"))
    assert len({mine, theirs}) == 2
    with shared.client() as root:
        for env_id, uid in ((mine, ALICE), (theirs, BOB)):
            env = root.call(m.Inspect(target=env_id)).env
            assert (env.owner, env.template) == (uid, "shop")
            assert Path(f"/proc/{env.services[0].pid}").stat().st_uid == uid
            assert env.cgroup is None or env.cgroup.split("/")[-2] == f"user-{uid}"
        assert templates(root) == [f"shop of {ALICE}", f"shop of {BOB}"]
        with pytest.raises(Ambiguous, match=rf"shop\.u{ALICE}, shop\.u{BOB}"):
            root.call(m.Templates(name="shop"))
        assert root.call(m.Ensure(template=f"shop.u{BOB}", key="one")).env.id == theirs
    # Nobody touches another's, whatever he calls it.
    alices = f"shop.u{ALICE}"
    for ask in (m.Templates(name=alices), m.Ensure(template=alices, key="one"), m.Unregister(name=alices, force=True)):
        assert shared.by(BOB, lambda client, ask=ask: client.call(ask))[0] == NotFound.__name__
    assert shared.by(BOB, lambda client: client.call(m.Unregister(name="shop", force=True)).removed) == [theirs]
    assert [shared.by(uid, templates) for uid in (ALICE, BOB)] == [[f"shop of {ALICE}"], []]
    # An env and a template of one owner are not called the same.
    assert shared.by(ALICE, run("shop"))[0] == "NameTaken"
    assert len(shared.by(BOB, run("shop"))) == 32
    assert shared.by(BOB, register("shop"))[0] == "NameTaken"


def test_a_request_makes_an_env_of_the_templates_owner(shared: Shared) -> None:
    shared.by(ALICE, register("own"))
    shared.by(ALICE, register("box", share="box"))
    answers = {uid: reach(shared, uid, f"x.own.u{ALICE}.{BASE}") for uid in (BOB, ALICE, 0)}
    assert answers == {BOB: 403, ALICE: 200, 0: 200}
    assert reach(shared, BOB, f"x.box.u{ALICE}.localhost") == 200
    made = shared.by(ALICE, lambda client: sorted((env.template, env.key) for env in client.call(m.List(all=True)).envs))
    assert made == [["box", "host:x"], ["own", "host:x"]]
    assert shared.by(BOB, names) == []
    assert reach(shared, BOB, f"x.box.u{BOB}.localhost") == 404
    # Its directory is looked at as its owner.
    private = shared.home(ALICE) / "secret"
    private.mkdir(exist_ok=True)
    private.chmod(0o700)
    os.chown(private, ALICE, ALICE)
    assert shared.by(BOB, register("thief", private))[0] == "WorkspaceInvalid"
    assert shared.by(ALICE, register("thief", private)).startswith("http")


def answer(shared: Shared, uid: int, host: str) -> tuple[int, str]:
    """The status of this user's own request, and the page."""

    def work(_: Any) -> list[Any]:
        with socket.create_connection(("127.0.0.1", shared.port), PATIENCE) as sock:
            sock.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            with sock.makefile("rb") as file:
                return [int(file.readline().split()[1]), file.read().decode()]

    status, page = shared.by(uid, work)
    return status, page


def test_what_a_template_makes_counts_in_its_owners_quota(shared: Shared, made: Made) -> None:
    reload(shared, f"[quota.user.{made.name}]\nenvs = 2\n")
    try:
        assert len(shared.by(made.uid, run("mine"))) == 32
        assert shared.by(made.uid, register("shop", share="box", warm=2)).startswith(f"http://KEY.shop.{made.name}.{BASE}")
        assert len(shared.by(BOB, register("shop"))) > 0
        assert reach(shared, BOB, f"one.shop.{made.name}.localhost") == 200
        status, page = answer(shared, BOB, f"two.shop.{made.name}.localhost")
        assert status == 503
        assert f"he quota of user {made.name} is 2 envs" in page
        assert shared.by(made.uid, ensure("shop", "two"))[0] == "QuotaExceeded"
        assert len(shared.by(BOB, ensure("shop", "two"))) == 32
    finally:
        reload(shared, "")


def test_a_user_has_so_many_templates_and_keeps_nobody_else_from_them(shared: Shared) -> None:
    def many(client: Any) -> str:
        for number in range(MOST):
            register(f"t{number}")(client)
        return "made"

    assert shared.by(ALICE, many) == "made"
    assert shared.by(ALICE, register("more"))[0] == "QuotaExceeded"
    assert shared.by(ALICE, register("t1", key="cookie"))  # one that is there may change
    assert shared.by(BOB, register("more"))


def test_what_root_had_before_it_was_shared_is_called_as_roots(shared: Shared) -> None:
    """A plain name could be that of a user: an env of his template, or a service of his env."""
    with shared.client() as root:
        register("old")(root)
        held = ensure("old", "one")(root)
        run("plain")(root)
        before = root.call(m.Status()).started
    with contextlib.closing(sqlite3.connect(shared.dir / "state.db")) as database, database:
        for table, key in (("templates", "name"), ("envs", "id")):
            for name, record in database.execute(f"SELECT {key}, record FROM {table}").fetchall():
                plain = json.loads(record) | {"user": ""}
                if plain.get("template"):
                    plain["template"] = "old"
                database.execute(f"DELETE FROM {table} WHERE {key} = ?", (name,))
                database.execute(f"INSERT INTO {table} VALUES (?, ?)", (name.removesuffix(".root"), json.dumps(plain).encode()))
    with shared.client() as root:
        root.call(m.Shutdown(again=True))

    def follows() -> bool:
        with shared.client() as root:
            return bool(root.call(m.Status()).started != before)

    until(follows, "the next daemon")
    with shared.client() as root:
        assert root.call(m.Templates(name="old")).templates[0].url == f"http://KEY.old.root.{BASE}:{shared.port}"
        assert ensure("old", "one")(root) == held
        assert root.call(m.Inspect(target="plain")).env.url is None
        assert root.call(m.Inspect(target="plain.root")).env.state == "ready"
    assert reach(shared, 0, f"one.old.root.{BASE}") == 200
    assert reach(shared, 0, f"one.old.{BASE}") == 404
    with shared.client() as root:
        assert held in root.call(m.Unregister(name="old", force=True)).removed
    with contextlib.closing(sqlite3.connect(shared.dir / "state.db")) as database:
        assert database.execute("SELECT name FROM templates").fetchall() == []
