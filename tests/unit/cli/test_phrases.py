"""docker's words, from values."""

import pytest

from sandboxd.cli import phrases
from sandboxd.protocol.messages import PortInfo
from tests.unit.cli.fakes import NOW, env

MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "Less than a second"),
        (0.9, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (60, "About a minute"),
        (119, "About a minute"),
        (120, "2 minutes"),
        (59 * MINUTE + 59, "59 minutes"),
        (HOUR, "About an hour"),
        (89 * MINUTE, "About an hour"),
        (90 * MINUTE, "2 hours"),
        (47 * HOUR, "47 hours"),
        (2 * DAY, "2 days"),
        (13 * DAY, "13 days"),
        (14 * DAY, "2 weeks"),
        (59 * DAY, "8 weeks"),
        (60 * DAY, "2 months"),
        (729 * DAY, "24 months"),
        (730 * DAY, "2 years"),
    ],
)
def test_ages_are_dockers(seconds: float, words: str) -> None:
    assert phrases.human_duration(seconds) == words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "Up 2 minutes (ready)"),
        ({"state": "starting"}, "Up 2 minutes (starting)"),
        ({"state": "starting", "started": None}, "Starting"),
        ({"health": "unhealthy"}, "Up 2 minutes (unhealthy)"),
        ({"state": "queued", "started": None}, "Queued"),
        ({"state": "suspended"}, "Up 2 minutes (Paused)"),
        ({"state": "stopped", "exit_code": 0, "finished": "2023-11-14T22:08:20Z"}, "Exited (0) 5 minutes ago"),
        (
            {
                "state": "failed",
                "exit_code": 137,
                "finished": "2023-11-14T22:08:20Z",
                "reason": "memory: 512MiB limit, peak 530MiB; raise it",
            },
            "Exited (137) 5 minutes ago (memory: 512MiB limit, peak 530MiB)",
        ),
        ({"state": "failed", "finished": "2023-11-14T22:08:20Z", "reason": "no such wall here"}, "Failed 5 minutes ago"),
        ({"state": "stopped", "finished": "not a time"}, "Exited"),
    ],
)
def test_status(changes: dict[str, object], words: str) -> None:
    assert phrases.status(env(**changes), NOW) == words


def test_created_and_ids() -> None:
    assert phrases.created(env(), NOW) == "5 minutes ago"
    assert phrases.created(env(created="2099-01-01T00:00:00Z"), NOW) == "Less than a second ago"  # a clock that was set back
    assert phrases.short_id("a" * 32) == "a" * 12
    assert phrases.short_id("a" * 32, whole=True) == "a" * 32


def test_a_command_is_cut_and_quoted() -> None:
    assert phrases.command(env(command="python -m http.server")) == '"python -m http.serv…"'
    assert phrases.command(env(command="python -m http.server"), whole=True) == '"python -m http.server"'
    assert phrases.command(env(command="")) == ""


def test_nothing_drives_the_readers_terminal() -> None:
    hostile = phrases.command(env(command="\x1b]0;owned\x07\x9b31m"), whole=True)
    assert hostile.isprintable()
    assert phrases.clean("a\nb\x00é…") == "a\\nb\\x00é…"


def test_ports() -> None:
    routed = PortInfo(service="main", port=3000, expose="http", url="http://shop.localhost:7070")
    published = PortInfo(service="main", port=3000, expose="tcp", address="127.0.0.1:8080")
    assert phrases.ports(env(ports=[routed])) == "3000/tcp"
    assert phrases.ports(env(ports=[published, published])) == "127.0.0.1:8080->3000/tcp"
    assert phrases.ports(env()) == ""
