"""The audit log of a real daemon: one line for what changes something, none for looks. So of sandboxd.daemon.auditing.

What several users do is in test_shared.
"""

import os
from collections.abc import Iterator

import pytest

from sandboxd.errors import NotFound
from sandboxd.protocol import messages as m
from tests.conftest import run_daemon
from tests.daemon.asking import inspect, remove, run
from tests.daemons import Daemon


@pytest.fixture
def audited() -> Iterator[Daemon]:
    yield from run_daemon(SANDBOXD_AUDIT_LIMIT="64k")


def test_who_did_what_and_how_it_ended(audited: Daemon) -> None:
    with audited.client() as client:
        made = run(client, "sleep 1000", name="web")
        inspect(client, "web")
        client.call(m.List(all=True))
        assert client.get("web").exec(["true"]).exit_code == 0
        with pytest.raises(NotFound):
            client.call(m.Stop(target="elsewhere"))
        client.call(m.Config())
        remove(client, "web")
        entries = client.call(m.Audit(tail=50)).entries
        found = [(entry.method, entry.name, entry.outcome) for entry in entries if entry.outcome != "begun"]
        assert [one for one in found if one[0] not in ("Exec", "SessionSignal")] == [
            ("Run", "web", "ok"),
            ("Stop", "elsewhere", "NotFound"),
            ("Remove", "web", "ok"),
        ]
        assert ("Exec", "web", "begun") in [(entry.method, entry.name, entry.outcome) for entry in entries]
        assert {entry.id for entry in entries if entry.name == "web" and entry.method != "Run"} == {made.id}
        assert {(entry.uid, entry.pid) for entry in entries} == {(os.getuid(), os.getpid())}
        assert len(client.call(m.Audit(tail=1)).entries) == 1
    assert audited.json("daemon", "audit", "-n", "1")[0]["method"] == "Remove"
    assert "elsewhere" in audited.sandbox("daemon", "audit").stdout
    assert (audited.dir / "audit.jsonl").stat().st_mode & 0o777 == 0o600


def test_none_is_kept_unless_asked_for(daemon: Daemon) -> None:
    done = daemon.sandbox("daemon", "audit")
    assert "no audit log is kept" in done.stderr
