"""The state that every earlier version of the records left is taken over: nothing of it is lost or opened wider.

So of sandboxd.lifecycle.records. older.jsonl has a record of each shape that there was, as the program of that time wrote it;
whoever changes EnvRecord or EnvSpec so that older ones differ adds a line.
"""

import contextlib
import json
import os
from pathlib import Path

import msgspec

from sandboxd.lifecycle.records import RECORD_VERSION, EnvRecord
from sandboxd.protocol import messages as m
from sandboxd.store.journal import SCHEMA, Journal
from tests.daemon.asking import inspect, remove

OLDER = Path(__file__).with_name("older.jsonl").read_text().splitlines()


def test_every_older_state_is_taken_over(daemon):
    assert (SCHEMA, RECORD_VERSION) == (1, 1), "an older one is migrated from here on: put a database of that time beside these"
    daemon.kill()
    records = [json.loads(line) | {"owner": os.getuid(), "group": os.getgid()} for line in OLDER]
    with contextlib.closing(Journal(daemon.dir / "state.db")) as journal:
        for record in records:
            journal.put(record["id"], json.dumps(record).encode())
    daemon.start()
    with daemon.client() as client:
        for record in records:
            found = inspect(client, record["id"])
            assert (found.name, found.state, found.exit_code) == (record["name"], "stopped", record["exit_code"])
            assert record["reason"] in found.reason
            assert found.labels == record["spec"]["labels"]
            limits = record["spec"]["limits"] | record.get("overrides", {})
            assert {key: found.limits[key] for key in limits} == limits
            assert [service.name for service in found.services] == list(record["services"])
        for record in (records[0], records[-1]):
            assert client.call(m.Start(target=record["id"], wait="started")).env.state in ("starting", "ready")
            assert inspect(client, record["id"]).pid
        for record in records:
            assert remove(client, record["id"]).leaked == {}


def test_what_could_not_go_out_by_default_cannot_now():
    """`open` is the default since then; what was written down before says what it was."""
    found = [msgspec.json.decode(line, type=EnvRecord) for line in OLDER]
    closed = [record for record in found if record.spec.network.egress == "none"]
    assert closed
    assert not any(record.reaches_out for record in closed)
