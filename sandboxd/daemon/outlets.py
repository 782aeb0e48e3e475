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
            rules=record.egress,
        )
        for record in records
        if record.init is not None and record.state not in ENDED and has_outlet(record)
    ]


def has_outlet(record: EnvRecord) -> bool:
    """Whether anything of it can go out."""
    return record.spec.network.mode == "private" and record.spec.network.egress != "none"
