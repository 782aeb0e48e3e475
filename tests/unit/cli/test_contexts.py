"""`sandbox context`: what is kept, and what is refused. So of sandboxd.cli.contexts."""

import json
from pathlib import Path

import pytest

from tests.unit.cli.fakes import Sandbox


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for variable in ("SANDBOX_HOST", "SANDBOX_CONTEXT", "SANDBOXD_DIR", "SANDBOXD_SOCKET"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def test_made_listed_used_and_removed(sandbox: Sandbox, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sandbox("context", "show").out == "default\n"
    assert sandbox("context", "create", "team", "--host", "ssh://me@team/", "--description", "ours").out == "team\n"
    kept = json.loads((home / "sandboxd/contexts.json").read_text())
    assert kept["contexts"] == {"team": {"host": "ssh://me@team", "description": "ours"}}
    assert sandbox("context", "use", "team").err == ""
    rows = [json.loads(line) for line in sandbox("context", "ls", "--format", "json").out.splitlines()]
    assert [(row["name"], row["current"]) for row in rows] == [("default", False), ("team", True)]
    monkeypatch.setenv("SANDBOX_HOST", "ssh://other")
    assert "SANDBOX_HOST is set, and wins" in sandbox("context", "use", "team").err
    assert "this machine again" in sandbox("context", "rm", "team").err
    assert sandbox("context", "show").out == "default\n"
    assert [path.name for path in (home / "sandboxd").iterdir()] == ["contexts.json"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("create", "default", "--host", "ssh://b"), "there is a context 'default' already"),
        (("create", "a/b", "--host", "ssh://b"), "'a/b' is no name"),
        (("create", "a", "--host", "b"), "'b' is no host"),
        (("create", "a"), "missing"),
        (("use", "a"), "there is no context 'a'"),
        (("rm", "a"), "there is no context 'a'"),
        (("rm", "default"), "this machine's context stays"),
    ],
)
def test_what_cannot_be_meant(sandbox: Sandbox, home: Path, words: tuple[str, ...], said: str) -> None:
    done = sandbox("context", *words)
    assert done.code != 0
    assert said in done.err
    assert not (home / "sandboxd").exists()


def test_what_a_box_does_not_have_is_said_before_it_is_asked(sandbox: Sandbox) -> None:
    assert "--host and --context each name a daemon" in sandbox("-H", "ssh://b", "-c", "default", "ps").err
    assert "name the port inside" in sandbox("forward", "shop").err
    up = sandbox("--host", "ssh://b", "up")
    assert "the project's directory is here, and not on ssh://b" in up.err
    assert up.asked == []
    assert "doctor looks at the machine it runs on" in sandbox("--host", "ssh://b", "doctor").err
    relative = sandbox("--host", "ssh://b", "run", "-d", "-w", "here", "--", "true")
    assert "-w here: on a box a directory is named whole" in relative.err
    assert relative.asked == []
