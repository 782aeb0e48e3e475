"""What becomes of an env whose pid 1 lives while its link is gone: it is spoken with again, once in a while, or ended.

Pid 1 hangs up on a daemon that reads too slowly (launch.clients): that is no reason to end an env. One that sends what no pid 1
of ours sends is in other hands, and nothing that it says can be believed any more. Either way nobody may be left with an env
that looks well and can be neither reached nor told the end of. Invariant: at its end the env has a link, or was asked to end.
"""

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING

from sandboxd.daemon import linking
from sandboxd.daemon.pumping import readable
from sandboxd.errors import SandboxdError
from sandboxd.kernel.fds import ran_out
from sandboxd.lifecycle import events as ev

if TYPE_CHECKING:
    from sandboxd.daemon.body import Body
    from sandboxd.launch.initlink import Closed

log = logging.getLogger(__name__)
GRACE = 2.0  # seconds: a process that ends closes its sockets before its pidfd tells of it
APART = 60.0  # seconds between two links of one env
AGAIN = 1.0  # seconds until the next attempt, where this process had no descriptor left for one


def mend(body: "Body", closed: "Closed") -> None:
    """See to it, unless it was us who hung up."""
    if not closed.ours and body.pidfd >= 0 and body.link is None:
        body.actor.supervisor.own(_mend(body, closed), name=f"relink-{body.actor.record.name}")


async def _mend(body: "Body", closed: "Closed") -> None:
    if body.pidfd < 0:
        return  # it has ended meanwhile
    try:
        pid_1 = os.dup(body.pidfd)
        try:
            await _mended(body, closed, pid_1)
        finally:
            os.close(pid_1)
    except OSError as error:
        if not ran_out(error):
            raise
        log.warning("env %s: its init cannot be spoken with again as yet: %s", body.actor.record.name, error)
        asyncio.get_running_loop().call_later(AGAIN, mend, body, closed)


async def _mended(body: "Body", closed: "Closed", pid_1: int) -> None:
    """Speak with it again, or end it. Raises OSError where we have nothing left for that: no fault of its."""
    reason = closed.reason
    if not closed.broken:
        if await _ends(pid_1):
            return
        now = time.monotonic()
        if now - body.relinked >= APART:
            try:
                await linking.connect(body)
            except (SandboxdError, OSError) as error:
                if ran_out(error):
                    raise
                reason = str(error)
            else:
                body.relinked = now
                body.report_status(found=True)
                return
    if not await _ends(pid_1, 0.0):
        log.error("env %s: its init cannot be spoken with any more (%s), so it is ended", body.actor.record.name, reason)
        body.actor.post(ev.KillAsked(cause="lost", reason=f"its init broke off: {reason}"))


async def _ends(pid_1: int, within: float = GRACE) -> bool:
    """Whether the process has ended: then the body tells of it (pidfd_open(2): readable)."""
    try:
        async with asyncio.timeout(within):
            await readable(pid_1)
    except TimeoutError:
        return False
    return True
