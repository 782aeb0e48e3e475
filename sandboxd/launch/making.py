"""A child that is made for whoever waits for it, and what is got ready for it in that time.

Imports asyncio, `errors` and `launch.parked`. The launcher takes a millisecond to clone one, in which nothing else of the
launch goes on: what it will be sent is made then, and not while it and its stager want the cores. Invariant: a child that comes
when nobody waits any more is killed.
"""

import asyncio
from collections.abc import Callable

from sandboxd.errors import SandboxdError
from sandboxd.launch.parked import Load, Parked

Take = Callable[[Parked | SandboxdError], None]


async def made_for(ask: Callable[[Take], None], meanwhile: Callable[[], Load]) -> tuple[Parked, Load]:
    """The child that `ask` asks for, and what `meanwhile` makes; raises what either of them does. Whether that child can build
    its base, its answer to the plan tells."""
    waiting: asyncio.Future[Parked] = asyncio.get_running_loop().create_future()

    def take(made: Parked | SandboxdError) -> None:
        if waiting.done():
            if not isinstance(made, SandboxdError):
                made.kill()
        elif isinstance(made, SandboxdError):
            waiting.set_exception(made)
        else:
            waiting.set_result(made)

    try:
        ask(take)
        load = meanwhile()
        return await waiting, load
    except BaseException:
        if not waiting.done():
            waiting.cancel()
        elif not waiting.cancelled() and waiting.exception() is None:
            waiting.result().kill()
        raise
