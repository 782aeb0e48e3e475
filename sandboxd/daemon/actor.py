"""One env's actor: events in, `lifecycle.step`, journal, effects out, strictly one after the other.

Owns the record and the body (`body.Body`, the env's live resources). The record is journalled before its effects run; what
cannot be journalled (disk full) is kept in memory, said in the log, and written with the next change.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from sandboxd.daemon.body import Body
from sandboxd.errors import SandboxdError, TimedOut
from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.machine import step
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.states import State

if TYPE_CHECKING:
    from sandboxd.daemon.supervisor import Supervisor

log = logging.getLogger(__name__)


class Actor:
    """The life of one env. Made by the supervisor, which also holds it by id."""

    def __init__(self, record: EnvRecord, supervisor: "Supervisor") -> None:
        self.record = record
        self.supervisor = supervisor
        self.body = Body(self)
        self._queue: asyncio.Queue[ev.Event] = asyncio.Queue()
        self._waiting: set[asyncio.Future[None]] = set()
        self._task = supervisor.own(self._live(), name=f"env-{record.name}")

    def post(self, event: ev.Event) -> None:
        """Have an event handled after those before it."""
        self._queue.put_nowait(event)

    async def _live(self) -> None:
        while self.record.state is not State.REMOVED:
            event = await self._queue.get()
            self.record, effects = step(self.record, event, time.time())
            self.supervisor.save(self.record)
            self.supervisor.routes_changed()
            for effect in effects:
                try:
                    await self.body.perform(effect)
                except (SandboxdError, OSError):
                    log.exception("env %s: %s failed", self.record.name, type(effect).__name__)
            self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait_until(self, holds: Callable[[EnvRecord], bool], timeout: float | None = None) -> EnvRecord:
        """Wait for the record to be so; raises TimedOut after `timeout` seconds. A removed env ends every wait."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        while not holds(self.record) and self.record.state is not State.REMOVED:
            future: asyncio.Future[None] = loop.create_future()
            self._waiting.add(future)
            try:
                async with asyncio.timeout_at(deadline):
                    await future
            except TimeoutError:
                state = self.record.state.value
                raise TimedOut(
                    f"{self.record.name} is still {state} after {timeout:g} s",
                    hint=f"`sandbox logs {self.record.name}` shows what it does",
                    state=state,
                ) from None
            finally:
                self._waiting.discard(future)
        return self.record

    async def wait_change(self) -> None:
        """Wait for the next change of the record."""
        before = self.record
        await self.wait_until(lambda record: record is not before)

    async def close(self) -> None:
        """The daemon leaves: let go of the env without touching it."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.body.let_go()
