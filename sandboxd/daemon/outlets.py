"""Records as the egress worker sees them: every env that runs and has a way out, and what it may reach. Pure."""

from collections.abc import Sequence

from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.states import ENDED
from sandboxd.routing.orders import Outlet


def outlets(records: Sequence[EnvRecord], *, envs_dir: str) -> list[Outlet]:
    """Those there are now."""
    return [
        Outlet(
            env_id=record.id,
            dial=f"{envs_dir}/{record.id}/dial.sock",
            cookie=record.init.netns_cookie,
            owner=record.owner,
            rules=record.egress if reaches_out(record) else [],
            forward=[str(entry) for entry in record.spec.network.forward],
        )
        for record in records
        if record.init is not None and record.state not in ENDED and has_outlet(record)
    ]


def has_outlet(record: EnvRecord) -> bool:
    """Whether the egress worker has anything to do for it."""
    return reaches_out(record) or (record.spec.network.mode == "private" and bool(record.spec.network.forward))


def reaches_out(record: EnvRecord) -> bool:
    """Whether anything of it can go out, where rules give it."""
    return record.spec.network.mode == "private" and record.spec.network.egress != "none"
