"""The SDK: `Client` and `AsyncClient`, env objects, and the structs that go in and come out.

    with Client() as client, client.run(["python3", "-m", "http.server", "8000"], port=8000, wait="ready") as env:
        print(env.url, env.exec(["ls"]).text)

Names are imported on first use: the command line needs the blocking client only, and asyncio takes 40 ms to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sandboxd.client.aio import AsyncClient, AsyncSession
    from sandboxd.client.blocking import Client, Session
    from sandboxd.client.env import AsyncEnv, CommandFailed, Completed, Env
    from sandboxd.errors import SandboxdError
    from sandboxd.protocol.messages import EnvInfo, Event, LogLine, Receipt, ServiceInfo, StatsRow
    from sandboxd.spec import EnvSpec, Isolation, Lifecycle, Limits, Mount, Network, Publish, Ready, Service, Workspace

__all__ = [
    "AsyncClient",
    "AsyncEnv",
    "AsyncSession",
    "Client",
    "CommandFailed",
    "Completed",
    "Env",
    "EnvInfo",
    "EnvSpec",
    "Event",
    "Isolation",
    "Lifecycle",
    "Limits",
    "LogLine",
    "Mount",
    "Network",
    "Publish",
    "Ready",
    "Receipt",
    "SandboxdError",
    "Service",
    "ServiceInfo",
    "Session",
    "StatsRow",
    "Workspace",
]

_HOMES = {
    "sandboxd.client.aio": {"AsyncClient", "AsyncSession"},
    "sandboxd.client.blocking": {"Client", "Session"},
    "sandboxd.client.env": {"AsyncEnv", "CommandFailed", "Completed", "Env"},
    "sandboxd.errors": {"SandboxdError"},
    "sandboxd.protocol.messages": {"EnvInfo", "Event", "LogLine", "Receipt", "ServiceInfo", "StatsRow"},
}


def __getattr__(name: str) -> Any:
    """A name of `__all__`, imported now."""
    if name not in __all__:
        raise AttributeError(f"sandboxd.client has no {name}")
    home = next((home for home, names in _HOMES.items() if name in names), "sandboxd.spec")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
