"""Whether a project's spec opens more than the one last seen for its workspace, and who said that this is meant.

The daemon remembers, since a project's env may be gone by then (`down`). What was accepted is in the journal and the log, and
`inspect` shows it as long as it holds.
"""

import logging

import msgspec

from sandboxd.errors import NotAccepted
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.specfile.widening import Reach, in_force, reach_of, widened
from sandboxd.store.journal import Journal

log = logging.getLogger(__name__)


def check_reach(journal: Journal, record: EnvRecord, *, accept: bool) -> list[str]:
    """Remember what a workspace's spec opens; raises NotAccepted where it is more than was last seen, and nobody meant it.

    Returns what of it was accepted, now or before, and still holds."""
    # On a shared box what one user has accepted is nobody else's.
    where = f"{record.user}:{record.spec.workspace.path}" if record.user else record.spec.workspace.path
    key = f"reach:{where}"
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
    told = f"accepted:{where}"
    before = already(journal, told)
    accepted = in_force([*before, *wider], now)
    if accepted != before:
        journal.put_fact(told, msgspec.json.encode(accepted).decode())
    return accepted


def already(journal: Journal, key: str) -> list[str]:
    """What was accepted before."""
    try:
        return msgspec.json.decode(journal.fact(key), type=list[str])
    except msgspec.DecodeError:
        return []


def last_seen(journal: Journal, key: str) -> Reach | None:
    """What was last seen; None where nothing was, or another version wrote it down."""
    try:
        return msgspec.json.decode(journal.fact(key), type=Reach)
    except msgspec.DecodeError:
        return None
