"""The progress line: on a terminal only, after half a second only, and gone at the end."""

import os
import pty
import select
import sys

import pytest

from sandboxd.cli.progress import FRAMES, Progress
from sandboxd.cli.up import stage
from sandboxd.protocol import messages as m
from tests.unit.cli.fakes import env


def test_silence_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("starting shop") as progress:
        progress.say("db is ready")
    assert capsys.readouterr() == ("", "")


def test_silence_for_what_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal, os.fdopen(master, "rb"):
        monkeypatch.setattr(sys, "stderr", terminal)
        with Progress("quick"):
            pass
        assert not select.select([master], [], [], 0)[0]


def test_a_line_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal, os.fdopen(master, "rb"):
        monkeypatch.setattr(sys, "stderr", terminal)
        with Progress("starting \x1b[2J shop") as progress:
            assert select.select([master], [], [], 30)[0]
            seen = os.read(master, 4096).decode()
            assert seen.lstrip("\r\x1b[K")[0] in FRAMES
            assert "starting \\x1b[2J shop" in seen
            progress.say("x" * 500)
            while "…" not in seen:
                assert select.select([master], [], [], 30)[0]
                seen = os.read(master, 4096).decode()
        rest = os.read(master, 4096).decode()
        assert rest.endswith("\r\x1b[K")


def test_a_start_names_each_service() -> None:
    services = [m.ServiceInfo(name="db", state="ready"), m.ServiceInfo(name="web", state="waiting")]
    assert stage(env(services=services)) == "shop: db is ready, web waits"
    assert stage(env(state="starting", services=services[:1])) == "shop is starting"
