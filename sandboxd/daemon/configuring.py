"""The config file while the daemon runs: read again on SIGHUP or when asked, taken on as far as can be, shown with sources.

`config` decides what differs and what can be taken on. Invariant: a file that cannot be meant changes nothing, and is named.
"""

import logging
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from sandboxd.config import LIMITS, LIVE, Config, taken_on, written
from sandboxd.daemon.control import Call
from sandboxd.daemon.notify import Notifier
from sandboxd.errors import SandboxdError
from sandboxd.protocol import messages as m
from sandboxd.router.listener import address_of
from sandboxd.settings import Settings
from sandboxd.store.config import load

if TYPE_CHECKING:
    import socket

    from sandboxd.daemon.supervisor import Supervisor

log = logging.getLogger(__name__)


def with_handed(config: Config, handed: "Sequence[socket.socket]") -> Settings:
    """The settings of a daemon that was given listeners for its router: those, and what was asked for by name."""
    if not handed:
        return config.settings
    own = config.settings.listen if "listen" in config.sources else []
    return replace(config.settings, listen=[*map(address_of, handed), *own])


class Configuring:
    """What holds, where from, and what is to hold from now on."""

    def __init__(self, supervisor: "Supervisor", config: Config, manager: Notifier) -> None:
        self.supervisor = supervisor
        self.config = config
        self.manager = manager

    async def hang_up(self) -> None:
        """SIGHUP: systemd waits for READY=1 (sd_notify(3)), and the log has what came of it."""
        self.manager.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            await self.take_on()
        except SandboxdError as error:
            log.error("the settings stay as they were: %s", error)
        finally:
            self.manager.send("READY=1")

    async def take_on(self) -> list[m.SettingChange]:
        """Read it again; raises what the file or an address is refused for, and then nothing has changed."""
        supervisor = self.supervisor
        config = load(os.environ, os.geteuid())
        wanted = with_handed(config, supervisor.handed)
        settings, changes = taken_on(supervisor.settings, wanted)
        if settings.listen != supervisor.settings.listen:
            await supervisor.router.relisten(settings.listen)
        supervisor.settings = settings
        supervisor.admission.settings_changed()
        supervisor.pooling.tend()
        supervisor.routes_changed()
        held = {name: source for name, source in self.config.sources.items() if name not in LIVE}
        taken = {name: source for name, source in config.sources.items() if name in LIVE}
        self.config = config._replace(sources=held | taken)
        for change in changes:
            log.info("%s: %s -> %s, %s", change.name, change.before or "none", change.after or "none", change.holds)
        log.info("settings read again from %s: %d changed", config.file, len(changes))
        return [m.SettingChange(**change._asdict()) for change in changes]

    async def show(self, call: Call) -> m.ConfigReply:
        """Every setting in force, and where it came from."""
        params = call.params
        assert isinstance(params, m.Config)
        changes = await self.take_on() if params.reload else []
        shown = written(self.supervisor.settings)
        settings = [m.SettingInfo(name=name, value=value, source=self.source(name)) for name, value in shown.items()]
        return m.ConfigReply(file=self.config.file, settings=settings, changes=changes)

    def source(self, name: str) -> str:
        """Where a setting's value came from."""
        whole, _, limit = name.partition(".")
        said = not limit or whole != LIMITS or limit in self.supervisor.settings.limits
        return self.config.sources.get(whole, "usual") if said else "usual"
