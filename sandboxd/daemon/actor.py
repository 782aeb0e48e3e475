"""One env's actor: events in, `lifecycle.step`, journal, effects out, strictly one after the other.

Owns the record and the body (`body.Body`, the env's live resources). The record is journalled before its effects run; what
cannot be journalled (disk full) is kept in memory, said in the log, and written with the next change.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from sandboxd.daemon import receipts
from sandboxd.daemon.body import Body
from sandboxd.errors import SandboxdError, TimedOut
from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.machine import step
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.states import ENDED, State
from sandboxd.protocol.messages import Receipt

if TYPE_CHECKING:
    from sandboxd.daemon.supervisor import Supervisor

log = logging.getLogger(__name__)


class Actor:
    """The life of one env. Made by the supervisor, which also holds it by id.

    `record` is what was decided; `settled` the same once its effects are done, which is what those who wait are shown: an
    env is not told to be stopped while the router still holds its port. `held`, `receipt`: see `receipts`.
    """

    def __init__(self, record: EnvRecord, supervisor: "Supervisor", effects: Sequence[ev.Effect]) -> None:
        self.record = record
        self.settled = record
        self._saved = record
        self.supervisor = supervisor
        self.body = Body(self)
        self.held: receipts.Held | None = None
        self.receipt: Receipt | None = None
        self._posted: deque[ev.Event] = deque()
        self._rest: asyncio.Future[None] | None = None  # while there is nothing to do
        self._waiting: dict[asyncio.Future[EnvRecord], Callable[[EnvRecord], bool]] = {}
        self._first = effects
        self._task = supervisor.own(self._live(), name=f"env-{record.name}")

    def post(self, event: ev.Event) -> None:
        """Have an event handled after those before it."""
        self._posted.append(event)
        if self._rest is not None and not self._rest.done():
            self._rest.set_result(None)

    def refuse(self, error: SandboxdError) -> None:
        """Of one that was made in this turn of the loop: nothing of it is begun, and it ends with that error."""
        self._first = ()
        self.post(ev.LaunchFailed(error=(error.code, error.message, error.hint)))

    async def _live(self) -> None:
        await self._perform(self._first)
        while self.record.state is not State.REMOVED:
            if not self._posted:
                self._rest = asyncio.get_running_loop().create_future()
                await self._rest
                self._rest = None
            while True:
                event = self._posted.popleft()
                if isinstance(event, ev.RemoveAsked):
                    await self._save()
                    self.held = await receipts.hold(self)
                effects = self._take(event)
                if effects or not self._posted:
                    break
                self._done()  # what has no effects is journalled with what follows at once
            await self._save()
            await self._perform(effects)

    async def _save(self) -> None:
        """The record is in the journal, with those of all envs that changed in this turn of the loop."""
        if self.record != self._saved:  # a daemon that finds hundreds of envs as they were has nothing to write down
            self._saved = self.record
            self.supervisor.kept.save(self.record.id, msgspec.json.encode(self.record))
            await self.supervisor.kept.saved()

    def _take(self, event: ev.Event) -> Sequence[ev.Effect]:
        self.record, effects = step(self.record, event, self.supervisor.clock.now())
        if isinstance(event, ev.Launched | ev.LimitsChanged):
            self.supervisor.news.add(self.record.id)
        self.supervisor.note(self.record)
        return effects

    async def _perform(self, effects: Sequence[ev.Effect]) -> None:
        for effect in effects:
            try:
                await self.body.perform(effect)
            except Exception:  # one effect that fails must not end the life that the others belong to
                log.exception("env %s: %s failed", self.record.name, type(effect).__name__)
        self._done()

    def _done(self) -> None:
        """Nothing is left to do of what was decided: those who wait may see it."""
        self.settled = self.record
        if self.settled.state in ENDED:
            self.supervisor.demand.ended(self)
        for future, holds in list(self._waiting.items()):
            if not future.done() and (holds(self.settled) or self.settled.state is State.REMOVED):
                future.set_result(self.settled)

    async def wait_until(self, holds: Callable[[EnvRecord], bool], timeout: float | None = None) -> EnvRecord:
        """Wait for the record to be so, if only for a moment; raises TimedOut. A removed env ends every wait. Seconds."""
        if holds(self.settled) or self.settled.state is State.REMOVED:
            return self.settled
        future: asyncio.Future[EnvRecord] = asyncio.get_running_loop().create_future()
        self._waiting[future] = holds
        try:
            async with asyncio.timeout(timeout):
                return await future
        except TimeoutError:
            state = self.settled.state.value
            raise TimedOut(
                f"{self.record.name} is still {state} after {timeout:g} s",
                hint=f"`sandbox logs {self.record.name}` shows what it does",
                state=state,
            ) from None
        finally:
            del self._waiting[future]

    @property
    def is_over(self) -> bool:
        """Whether nothing of it goes on; of one that is removed and still known, the removal has failed."""
        return self._task.done()

    async def over(self) -> None:
        """Wait until nothing of a removed env is left to do."""
        await asyncio.wait([self._task])

    async def close(self) -> None:
        """The daemon leaves: let go of the env without touching it."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.body.let_go()
