"""Inits that are not spoken with as yet: while many envs start at once, connecting to each waits until they are through.

To connect wakes each init to greet, which takes from the launches to come the cores that they need, and tells nothing that the
word of the launch has not told. Whoever wants the link has it made at once (`Body.link`). Imports linking. Invariant: no env
waits for much longer than MOST, and no end of a service is missed: what init would have told, its greeting or its file tells.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from sandboxd.daemon import linking
from sandboxd.errors import NotFound, SandboxdError
from sandboxd.kernel.fds import ran_out
from sandboxd.launch.doorway import connect_to
from sandboxd.launch.exits import read_exits
from sandboxd.launch.initlink import InitLink
from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.records import exit_code_of
from sandboxd.lifecycle.recovery import Ended, told

if TYPE_CHECKING:
    from sandboxd.daemon.actor import Actor
    from sandboxd.daemon.body import Body
    from sandboxd.daemon.building import Built

log = logging.getLogger(__name__)
# Seconds: between two looks at whether it is quiet, and the longest that one waits for that. It is less than a request looks by
# itself for what it waits for (router.knocking): from then on it waits for what init tells us.
PAUSE, MOST = 0.02, 0.2
AT_ONCE = 8  # that are connected to in one turn of the loop


class Meetings:
    """Those that are put off, oldest first, with when they were. is_crowded: whether many envs are about to start."""

    def __init__(self, is_crowded: Callable[[], bool]) -> None:
        self._is_crowded = is_crowded
        self._waiting: dict[Body, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def put_off(self, body: "Body", built: "Built") -> bool:
        """Whether meeting that init can wait, and will. Only of an env on demand: whoever asked for any other is about to use
        it, and who is attached hears of its end from its init."""
        if not self._is_crowded() or not body.actor.record.template or body.prepared_attach:
            return False
        body.unmet = built
        self._waiting[body] = time.monotonic()
        self._look_soon()
        return True

    def _look_soon(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PAUSE, self._look)

    def _look(self) -> None:
        """Meet some of them, if it is quiet or they wait for long."""
        self._timer = None
        before = time.monotonic() - MOST if self._is_crowded() else float("inf")
        for body in [body for body, since in self._waiting.items() if since <= before or body.unmet is None][:AT_ONCE]:
            if introduce(body):
                del self._waiting[body]
        if self._waiting:
            self._look_soon()

    def close(self) -> None:
        """The daemon leaves: the next one meets them."""
        if self._timer is not None:
            self._timer.cancel()


def introduce(body: "Body") -> bool:
    """Connect to an init that was put off; False: not now, so it is to be tried again."""
    built = body.unmet
    if built is None:
        return True
    try:
        link = InitLink(connect_to(linking.directory_of(body), "init.sock"), body.on_init_event)
    except (SandboxdError, OSError) as error:
        if isinstance(error, BlockingIOError) or ran_out(error):  # its queue is full, or we have no descriptor left
            return False
        body.unmet = None
        if body.pidfd >= 0:  # one that has ended is told of by that
            log.error("env %s: its init cannot be spoken with (%s), so it is ended", body.actor.record.name, error)
            body.actor.post(ev.KillAsked(cause="lost", reason=f"its init cannot be spoken with: {error}"))
        return True
    body.unmet = None
    body.link = link
    body.readiness.prepare(built.netns_cookie)
    body.actor.supervisor.own(linking.greet(body, link, built), name=f"greet-{body.actor.record.name}")
    return True


def missed(body: "Body") -> list[ev.Event]:
    """What became of the services of an env that has ended before its init was met, or said a word."""
    if body.unmet is None:
        return []
    body.unmet = None
    try:
        last = {end.service: end for end in exits_of(body.actor)}
    except OSError as error:
        log.warning("env %s: how its services ended cannot be read: %s", body.actor.record.name, error)
        return []
    return [event for end in last.values() for event in told(body.actor.record, end.service, end.pid, end.exit_code)]


def exits_of(actor: "Actor") -> list[Ended]:
    """The exits that init wrote down while nobody listened, oldest first."""
    try:
        exits = read_exits(actor.supervisor.rundir.env_dir(actor.record.id) / "exits")
    except NotFound:
        return []
    except OSError as error:
        if ran_out(error):
            raise
        return []
    return [Ended(entry.service, entry.pid, exit_code_of(entry.wait_status)) for entry in exits]
