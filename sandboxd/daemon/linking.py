"""How the daemon and an env's init come together: its pidfd is watched, its socket connected, its greeting heard.

After a launch nobody waits for the greeting: the word of the launch has brought what it would say. It is heard all the same,
since what happened between the two is in it and in nothing else; among many launches it is put off (`meeting`). Adoption knows
nothing, and waits. Imports launch.initlink.
"""

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from sandboxd.daemon import denials
from sandboxd.errors import SandboxdError, TimedOut
from sandboxd.kernel import pidfd
from sandboxd.launch.initlink import InitLink
from sandboxd.lifecycle import events as ev

if TYPE_CHECKING:
    from pathlib import Path

    from sandboxd.daemon.body import Body
    from sandboxd.daemon.building import Built

log = logging.getLogger(__name__)
TIMEOUT, MOST = 5.0, 60.0  # seconds; the longer for one that has had no CPU to answer on, as on a machine that is overrun


async def meet(body: "Body", built: "Built") -> None:
    """The init that was launched just now; raises what is wrong with it."""
    if built.status is None:
        await adopt(body, built.pidfd, built.netns_cookie)
        return
    hold(body, built.pidfd)
    body.greeting = built.status
    if body.actor.supervisor.meetings.put_off(body, built):
        return
    async with asyncio.timeout(TIMEOUT):
        body.link = await InitLink.open(directory_of(body), body.on_init_event)
    body.readiness.prepare(built.netns_cookie)
    body.actor.supervisor.own(greet(body, body.link, built), name=f"greet-{body.actor.record.name}")


async def greet(body: "Body", link: InitLink, built: "Built") -> None:
    """Hear init's greeting; one that does not greet must not stay."""
    try:
        await greeted(link, built.pid)
        status, refused = link.greeted_with(), link.refused_before()
    except (SandboxdError, OSError, TimeoutError) as error:
        if body.link is link and body.pidfd >= 0:
            log.error("env %s: its init does not greet (%s), so it is ended", body.actor.record.name, error)
            body.actor.post(ev.KillAsked(cause="lost", reason=f"its init did not greet: {error}"))
        return
    if body.link is link:
        denials.note(body.actor, refused)
        if status != built.status:
            body.greeting = status
            body.report_status()


async def greeted(link: InitLink, pid: int) -> None:
    """Wait for the greeting of init, process `pid`; raises TimedOut, NotFound. The link is closed unless it came."""
    deadline = time.monotonic() + MOST
    try:
        while not (await asyncio.wait([link.hello], timeout=TIMEOUT))[0]:
            if time.monotonic() >= deadline or not pidfd.wants_cpu(pid):
                raise TimedOut(f"no greeting within {TIMEOUT:g} s", hint="it is stuck, or in other hands")
    except BaseException:
        link.close()
        raise
    await link.greeted()


async def adopt(body: "Body", fd: int, cookie: int) -> None:
    """Watch an init by its pidfd (owned from here on) and speak with it; raises what is wrong with its greeting."""
    hold(body, fd)
    await connect(body)
    body.readiness.resume(cookie)


async def connect(body: "Body") -> None:
    """Speak with its init; what that greets with is for `report_status` to tell."""
    try:
        async with asyncio.timeout(TIMEOUT):
            link = await InitLink.open(directory_of(body), body.on_init_event)
    except TimeoutError:
        raise TimedOut(f"nobody accepts on its init.sock within {TIMEOUT:g} s") from None
    init = body.actor.record.init
    await greeted(link, init.pid if init is not None else 0)
    body.link = link
    body.greeting = body.link.greeted_with()
    denials.note(body.actor, body.link.refused_before())


def hold(body: "Body", fd: int) -> None:
    """Watch an init by its pidfd, which is the body's from here on."""
    body.pidfd = fd
    body.group = body.group or body.actor.record.cgroup
    body.actor.supervisor.control.watch(body.actor, body.group)
    # a pidfd turns readable when the process has ended (pidfd_open(2)); libuv polls it like any descriptor
    asyncio.get_running_loop().add_reader(fd, body.init_gone)


def directory_of(body: "Body") -> "Path":
    """The env's directory."""
    return body.actor.supervisor.rundir.env_dir(body.actor.record.id)
