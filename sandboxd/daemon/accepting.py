"""Whether a project's spec opens more than the one last seen for its workspace, and who said that this is meant.

The daemon remembers, since a project's env may be gone by then (`down`). What was accepted is in the journal and the log.
"""

import logging

import msgspec

from sandboxd.errors import NotAccepted
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.specfile.widening import Reach, reach_of, widened
from sandboxd.store.journal import Journal

log = logging.getLogger(__name__)


def check_reach(journal: Journal, record: EnvRecord, *, accept: bool) -> None:
    """Remember what a workspace's spec opens; raises NotAccepted where it is more than was last seen, and nobody meant it."""
    key = f"reach:{record.spec.workspace.path}"
    now = reach_of(record.spec)
    last = last_seen(journal, key)
    wider = widened(last, now) if last is not None else []
    if wider and not accept:
        raise NotAccepted(
            f"the spec of {record.name} asks for more than when it was last started: {'; '.join(wider)}",
            hint="if that is meant: sandbox up --accept",
            wider=wider,
        )
    if now != last:
        journal.put_fact(key, msgspec.json.encode(now).decode())
    if wider:
        log.warning("env %s: its owner accepted: %s", record.name, "; ".join(wider))


def last_seen(journal: Journal, key: str) -> Reach | None:
    """What was last seen; None where nothing was, or another version wrote it down."""
    try:
        return msgspec.json.decode(journal.fact(key), type=Reach)
    except msgspec.DecodeError:
        return None
