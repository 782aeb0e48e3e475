"""Where the router listens when nobody said on which port: where it did before, whichever router or daemon that was.

URLs were told to people and to envs, so a port that the kernel chose is written down and asked for again. Where somebody else
has it by now, another one is taken, and that is said in the log. Imports router and store.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from sandboxd.errors import PortTaken, StoreFailed
from sandboxd.router.starting import matches
from sandboxd.store.journal import Journal

if TYPE_CHECKING:
    from sandboxd.router.handle import RouterHandle

log = logging.getLogger(__name__)
FACT = "listen"


async def the_same(
    journal: Journal, asked: list[str], start: "Callable[[list[str]], Awaitable[RouterHandle]]"
) -> "RouterHandle":
    """The router, on the addresses that were asked for; raises what `start` does with those."""
    wanted = as_before(journal, asked)
    try:
        router = await start(wanted)
    except PortTaken as error:
        if wanted == asked:
            raise
        log.warning("the router gets another port than it had: %s", error)
        router = await start(asked)
    if router.listen not in (wanted, asked):
        try:
            journal.put_fact(FACT, msgspec.json.encode(router.listen).decode())
        except StoreFailed as error:
            log.warning("the router's port may be another one after a restart: %s", error)
    return router


def as_before(journal: Journal, asked: list[str]) -> list[str]:
    """What was asked for, with the ports that the kernel chose for it the last time."""
    try:
        given = msgspec.json.decode(journal.fact(FACT), type=list[str])
    except msgspec.DecodeError:  # of nothing, too
        return asked
    fits = len(given) == len(asked) and all(matches(one, other) for one, other in zip(asked, given, strict=True))
    return given if fits else asked
