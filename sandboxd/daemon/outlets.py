"""Records as the egress worker sees them: every env that runs and has a way out, and what it may reach. Pure."""

from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.states import ENDED
from sandboxd.routing.outlets import Outlet


def outlet(record: EnvRecord | None, *, envs_dir: str) -> Outlet | None:
    """That of one env, if it has one now."""
    if record is None or record.init is None or record.state in ENDED or not has_outlet(record):
        return None
    return Outlet(
        env_id=record.id,
        dial=f"{envs_dir}/{record.id}/dial.sock",
        cookie=record.init.netns_cookie,
        owner=record.owner,
        rules=record.egress if record.reaches_out else [],
        forward=[str(entry) for entry in record.spec.network.forward],
    )


def has_outlet(record: EnvRecord) -> bool:
    """Whether the egress worker has anything to do for it."""
    return record.reaches_out or (record.spec.network.mode == "private" and bool(record.spec.network.forward))
