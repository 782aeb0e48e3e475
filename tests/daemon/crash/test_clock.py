"""The wall clock is set while no daemon runs: times to live and idle rules go by what passed, and people see true ages.

So of sandboxd.daemon.clock.
"""

import contextlib
import sqlite3
from datetime import UTC, datetime

import msgspec
import pytest
from msgspec.structs import replace

from sandboxd.daemon.clock import FACT
from sandboxd.lifecycle.clock import words
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.spec import Idle, Lifecycle
from tests.daemon.asking import ended, inspect, remove, run

DAY = 86400.0


@pytest.mark.parametrize("by", [DAY, -DAY])
def test_a_clock_that_was_set_ends_nobody_and_makes_nobody_immortal(daemon, tmp_path, by):
    with daemon.client() as client:
        run(client, "sleep 1000", name="long", path=tmp_path, lifecycle=Lifecycle(ttl=DAY / 2, idle=Idle(stop=DAY / 2)))
        run(client, "sleep 1000", name="brief", path=tmp_path, lifecycle=Lifecycle(ttl=3.0))
        pid = inspect(client, "long").pid
    daemon.kill()
    move_clock(daemon, by)
    daemon.start()
    with daemon.client() as client:
        assert ended(client, "brief").reason.startswith("ttl")
        found = inspect(client, "long")
        assert (found.state, found.pid) == ("ready", pid)
        age = (datetime.now(UTC) - datetime.fromisoformat(found.created)).total_seconds()
        assert 0 <= age < DAY / 2
        for name in ("long", "brief"):
            remove(client, name)


def move_clock(daemon, by):
    """Have it be as if the wall clock had been set since: all that the last daemons wrote is that much older."""
    with contextlib.closing(sqlite3.connect(daemon.dir / "state.db")) as database, database:
        ((kept,),) = database.execute("SELECT value FROM meta WHERE key = ?", (FACT,)).fetchall()
        boot, _, number = kept.partition(" ")
        database.execute("UPDATE meta SET value = ? WHERE key = ?", (words(boot, float(number) - by), FACT))
        for env_id, record in database.execute("SELECT id, record FROM envs").fetchall():
            database.execute("UPDATE envs SET record = ? WHERE id = ?", (earlier(record, by), env_id))


def earlier(record, by):
    """An env's record with all its moments so much earlier."""
    decoded = msgspec.json.decode(record, type=EnvRecord)
    moments = ("created", "started", "ready", "queued")
    moved = {name: getattr(decoded, name) - by for name in moments if getattr(decoded, name) is not None}
    services = {name: replace(service, started=(service.started or by) - by) for name, service in decoded.services.items()}
    return msgspec.json.encode(replace(decoded, services=services, **moved))
