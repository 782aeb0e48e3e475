"""Env objects: the request that `run` makes, what an object knows, how a command's end is told; both colours ask the same."""

import ast
import inspect
import os
from pathlib import Path
from typing import Any, get_args

import pytest

import sandboxd.client
from sandboxd.client import Client, CommandFailed, Completed, Env, EnvSpec, Limits, Service, signatures
from sandboxd.client.env import AsyncEnv, run_params
from sandboxd.errors import NotFound, UsageError
from sandboxd.protocol import messages as m
from tests.daemon.toy import env, threaded


def made(command: Any = None, **options: Any) -> m.Run:
    return run_params(command, options, {"PATH": "/bin", "SECRET": "s"}, "/here")  # type: ignore[arg-type]


def test_a_command_becomes_a_spec() -> None:
    run = made(["a", "b"], port=3000, workspace=Path("/w"), ttl=60, restart="always", name="shop", env={"K": "V"}, wait="ready")
    assert run.wait == "ready"
    assert run.directory == "/here"
    assert run.environ == {"PATH": "/bin"}
    assert run.spec.name == "shop"
    assert run.spec.services == {"main": Service(command=["a", "b"], port=3000)}
    assert run.spec.workspace.path == "/w"
    assert (run.spec.lifecycle.ttl, run.spec.lifecycle.restart) == (60, "always")
    assert run.spec.env == {"K": "V"}


def test_a_string_is_for_the_shell_and_a_tuple_is_a_list() -> None:
    assert made("a && b").spec.services["main"].command == "a && b"
    assert made(("a", "b")).spec.services["main"].command == ["a", "b"]


def test_a_spec_stands_alone() -> None:
    spec = EnvSpec(services={"db": Service(command="x")}, limits=Limits(memory=1 << 20))
    assert made(spec=spec, exists="reuse", timeout=5).spec is spec
    for wrong in ({"command": "x"}, {"port": 3}):
        with pytest.raises(UsageError, match="a spec has it all"):
            made(spec=spec, **wrong)


def test_what_run_does_not_take() -> None:
    with pytest.raises(UsageError, match="no command"):
        made()
    with pytest.raises(UsageError, match="no memory"):
        made("x", memory=5)


def test_a_command_that_ended() -> None:
    done = Completed(3, b"out\xff", b"broken\n")
    assert done.text == "out\ufffd"
    with pytest.raises(CommandFailed, match="make all left with 3: broken") as caught:
        done.checked(["make", "all"])
    assert caught.value.completed is done
    assert Completed(0, b"", b"").checked(["true"]).exit_code == 0


def test_an_object_tells_what_was_last_seen() -> None:
    with Client(Path("/nowhere"), autostart=False) as client:
        shop = Env(client, env("shop", url="http://shop.localhost:7070", exit_code=3))
    assert (shop.name, shop.state, shop.url, shop.exit_code, shop.id) == (
        "shop", "ready", "http://shop.localhost:7070", 3, "0" * 32,
    )  # fmt: skip
    assert repr(shop) == "<Env shop ready>"


def test_objects_from_a_daemon(tmp_path: Path) -> None:
    with threaded(tmp_path / "s") as toy, Client(tmp_path / "s", autostart=False) as client:
        toy.go.set()
        assert [found.name for found in client.list(filters=["a"])] == [f"a{os.getuid()}"]
        found = client.get("x")
        assert found.refresh().name == "0" * 32
        assert found.stop().name == "stopped"
        with pytest.raises(NotFound):
            client.get("missing")
        done = found.exec(["hello", "you"])
        assert (done.exit_code, done.stdout, done.stderr) == (7, b"hello you", b"")
        with pytest.raises(CommandFailed):
            found.exec(["hello"], check=True)
        assert [line.text for line in found.logs()] == ["0" * 32]
        with client.run("true", name="made") as env_made:
            assert env_made.name == "made"
            env_made._client = _Removed()  # type: ignore[assignment]


class _Removed:
    """A client whose envs have all gone."""

    def call(self, _: object) -> None:
        raise NotFound("gone")


def public(kind: type) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(value) for name, value in vars(kind).items() if inspect.isfunction(value) and name[0] != "_"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("blocking", "awaitable"),
    [(Env, AsyncEnv), (Client, sandboxd.client.AsyncClient), (sandboxd.client.Session, sandboxd.client.AsyncSession)],
)
def test_both_colours_have_the_same_methods(blocking: type, awaitable: type) -> None:
    ours, theirs = public(blocking), public(awaitable)
    assert ours.keys() - {"fileno"} == theirs.keys()
    for name in ours.keys() & theirs.keys():
        assert list(ours[name].parameters.values()) == list(theirs[name].parameters.values()) or name == "run"


def test_every_exported_name_is_there() -> None:
    for name in sandboxd.client.__all__:
        assert getattr(sandboxd.client, name).__name__ == name
    assert set(dir(sandboxd.client)) == set(sandboxd.client.__all__)
    with pytest.raises(AttributeError, match="Nonsense"):
        sandboxd.client.Nonsense  # noqa: B018


@pytest.mark.parametrize("kind", ["Call", "AsyncCall", "Stream", "AsyncStream"])
def test_the_types_say_what_the_protocol_says(kind: str) -> None:
    tree = ast.parse(inspect.getsource(getattr(signatures, kind)))
    typed: dict[type, type] = {}
    for overload in ast.walk(tree):
        if isinstance(overload, ast.FunctionDef):
            wanted, given = (
                eval(ast.unparse(annotation), vars(signatures))
                for annotation in (overload.args.args[1].annotation, overload.returns)
                if annotation is not None
            )
            for params in get_args(wanted) or (wanted,):
                typed[params] = get_args(given)[0] if get_args(given) else given
    streams = kind.endswith("Stream")
    assert typed == {method.params: method.reply for method in m.METHODS.values() if method.streams or not streams}
