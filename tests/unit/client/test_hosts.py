"""Which daemon is meant, by what wins over what."""

import json
from pathlib import Path

import pytest

from sandboxd.client.hosts import Remote, chosen, contexts_file, parse_host
from sandboxd.client.remote import ssh_to
from sandboxd.errors import NotFound, StoreFailed, UsageError

TEAM = "ssh://me@team"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A home in which the context `team` is in use."""
    file = tmp_path / "sandboxd/contexts.json"
    file.parent.mkdir()
    file.write_text(json.dumps({"current": "team", "contexts": {"team": {"host": TEAM}, "own": {"host": "unix:///c.sock"}}}))
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def test_what_wins(environ: dict[str, str]) -> None:
    assert chosen({"XDG_CONFIG_HOME": "/nowhere"}) == ""
    assert str(chosen(environ)) == TEAM
    assert chosen(environ | {"SANDBOXD_SOCKET": "/s"}) == ""
    assert chosen(environ | {"SANDBOXD_DIR": "/d"}) == ""
    assert chosen(environ | {"SANDBOX_CONTEXT": "default"}) == ""
    assert chosen(environ | {"SANDBOXD_DIR": "/d", "SANDBOX_CONTEXT": "own"}) == "/c.sock"
    assert str(chosen(environ | {"SANDBOX_CONTEXT": "own", "SANDBOX_HOST": "ssh://b"})) == "ssh://b"
    assert str(chosen(environ | {"SANDBOX_HOST": "ssh://b"}, "ssh://c")) == "ssh://c"


def test_a_context_that_is_not_there_or_cannot_be_read(environ: dict[str, str]) -> None:
    with pytest.raises(NotFound, match="no context 'other'") as refused:
        chosen(environ | {"SANDBOX_CONTEXT": "other"})
    assert "team" in refused.value.hint
    Path(contexts_file(environ)).write_text("{")
    with pytest.raises(StoreFailed, match=r"contexts\.json"):
        chosen(environ)


@pytest.mark.parametrize(
    ("text", "remote"),
    [
        ("ssh://box", Remote("", "box", "", "")),
        ("ssh://box/", Remote("", "box", "", "")),
        ("ssh://me@box.example:2222/run/control.sock", Remote("me", "box.example", "2222", "/run/control.sock")),
        ("ssh://[::1]:22", Remote("", "[::1]", "22", "")),
    ],
)
def test_a_box(text: str, remote: Remote) -> None:
    assert parse_host(text) == remote
    assert parse_host(str(remote)) == remote


@pytest.mark.parametrize(
    "text",
    ["", "box", "ssh://", "ssh://-oProxyCommand=x", "ssh://-l@box", "ssh://me@-box", "ssh://box:0", "ssh://box:70000",
     "ssh://a b", "tcp://box:2375", "unix://relative", "unix:///a\0b", "ssh://box/a\nb", "ssh://box;id", "ssh://me@you@box"],
)  # fmt: skip
def test_what_is_no_host(text: str) -> None:
    with pytest.raises(UsageError, match="is no host") as refused:
        parse_host(text)
    assert "ssh://USER@BOX" in refused.value.hint


def test_the_command_is_the_users_own_ssh() -> None:
    remote = Remote("me", "[::1]", "22", "")
    assert ssh_to(remote, {}, "-T") == ["ssh", "-T", "-l", "me", "-p", "22", "--", "::1"]
    assert ssh_to(Remote("", "box", "", ""), {"SANDBOX_SSH": "ssh -F '/a b'"}) == ["ssh", "-F", "/a b", "--", "box"]
