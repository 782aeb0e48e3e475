"""All envs of one daemon: their actors, the journal behind them, the routes in front of them, and who listens to their news."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from sandboxd.daemon import addresses, receipts, scopes
from sandboxd.daemon.actor import Actor
from sandboxd.daemon.admission import Admission
from sandboxd.daemon.berths import SPARE, Berths
from sandboxd.daemon.building import republish
from sandboxd.daemon.cgroups import Control
from sandboxd.daemon.clock import Clock
from sandboxd.daemon.demand import Demand
from sandboxd.daemon.idling import Idling
from sandboxd.daemon.meeting import Meetings
from sandboxd.daemon.news import News, Subscription
from sandboxd.daemon.pooling import Pooling
from sandboxd.daemon.pushing import Pushing
from sandboxd.daemon.routes import is_asleep
from sandboxd.daemon.scaling import Scaling
from sandboxd.errors import NameTaken, PortTaken, SandboxdError, StoreFailed
from sandboxd.isolation.facts import HostFacts
from sandboxd.launch.client import CROWD, Launcher
from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.machine import step
from sandboxd.lifecycle.names import find, host_clash
from sandboxd.lifecycle.records import EnvRecord, is_coming
from sandboxd.lifecycle.roll import Roll
from sandboxd.lifecycle.states import ENDED, State
from sandboxd.lifecycle.view import rfc3339
from sandboxd.limits.cpus import Load
from sandboxd.observe import journal
from sandboxd.observe.tally import Tally
from sandboxd.protocol.messages import Event
from sandboxd.router.handle import RouterHandle
from sandboxd.routing.framing import Bounds
from sandboxd.routing.orders import ONE
from sandboxd.routing.table import Endpoint
from sandboxd.settings import Settings
from sandboxd.store.copies import Kept
from sandboxd.store.journal import Journal
from sandboxd.store.rundir import RunDir

log = logging.getLogger(__name__)
DEPARTED = 64
EVENTS_DELAY = 0.05
MOST_ROUTERS = 8


class Supervisor:
    """What one daemon is made of. Made by `main`, which also ends it."""

    def __init__(
        self, settings: Settings, rundir: RunDir, journal: Journal, host: HostFacts, handed: Sequence[socket.socket] = ()
    ) -> None:
        self.settings = settings
        self.rundir = rundir
        self.journal = journal
        self.host = host
        self.handed = handed  # for the router, from socket units; kept for the next one, should it die
        self.launcher: Launcher
        self.router: RouterHandle
        self.actors: dict[str, Actor] = {}
        self.departed: dict[str, EnvRecord] = {}  # removed of late: who waits for one may ask a moment too late
        self.clock = Clock(journal)
        self.kept = Kept(rundir, journal, lambda: len(self.roll.coming) > CROWD)
        self.berths = Berths(rundir, settings.pool + SPARE, lambda: self.launcher.launching >= CROWD)
        self.load = Load()
        self.idling = Idling(self)
        self.scaling = Scaling(self)
        self.roll = Roll()
        self.meetings = Meetings(lambda: len(self.roll.coming) > CROWD)
        self.admission = Admission(self)
        self.demand = Demand(self)
        self.pooling = Pooling(self)
        self.control = Control(self)
        self.news = News()  # what is to be watched from now on, or anew
        self.subscriptions: set[Subscription] = set()
        self.tally = Tally()
        self.web: Endpoint | None = None
        self.started = time.time()
        self.leaving = asyncio.Event()
        self.end_all = False
        self.again = False  # another daemon takes over in this process
        self.coming: dict[str, int] = {}  # envs that are being launched, with the cookie of the network that each gets
        self.missing: dict[str, str] = {}  # which of launcher and router has died and cannot be started now, and why
        self._tasks: set[asyncio.Task[Any]] = set()
        self._starts: set[asyncio.Task[Any]] = set()  # of a launcher or router in the place of one that has died
        self.pushing = Pushing(self)
        self.adopted = False  # until then the router that an earlier daemon left knows more than we do
        self._untold: list[tuple[float, str, EnvRecord, dict[str, str]]] = []

    @property
    def base(self) -> str:
        """What follows an env's name in its URL: "localhost:7070", without the port when it is 80."""
        addresses = [address for address in self.router.listen if not address.startswith("unix:")]
        port = addresses[0].rpartition(":")[2] if addresses else "80"
        return self.settings.base_domain if port == "80" else f"{self.settings.base_domain}:{port}"

    def own(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run work as a task that the supervisor ends when the daemon leaves; a fault of it is logged."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._reap)
        return task

    def _reap(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("task %s failed", task.get_name(), exc_info=task.exception())

    async def start_launcher(self) -> None:
        """Start a launcher; a new one whenever one dies."""
        log_file = self.settings.state_dir / "launcher.log"
        self.launcher = await scopes.outliving(
            "envs",
            scopes.ENVS,
            lambda prefix: Launcher.start(pool=0, log=log_file, host=self.host, prefix=prefix),
        )
        limits = self.control.begin(self.launcher.pid, self.settings.cgroup)
        layout = replace(self.host.layout, groups=self.control.groups is not None)
        self.host = replace(self.host, limits=limits, layout=layout)
        self.launcher.begin(self.control.groups, self.host, pool=self.settings.pool)
        self.launcher.on_death = lambda: self._again("launcher", self.start_launcher)

    async def start_router(self) -> None:
        """Find the router that an earlier daemon left, or start one; a new one whenever one dies."""
        try:
            self.router = await addresses.the_same(self.journal, self.settings.listen, self._router_on)
        except PortTaken as error:
            hint = "end that process, or route from another address with SANDBOXD_LISTEN=127.0.0.1:PORT"
            raise PortTaken(error.message, hint=hint, **error.details) from error
        self.host = replace(self.host, limits=replace(self.host.limits, unbound=self.router.unbound))
        self.router.on_death = lambda: self._again("router", self.start_router)
        self.router.on_wake = self.wake
        self.router.on_ask = self.demand.asked
        self.routes_changed()
        await self.publish_again()

    async def _router_on(self, listen: list[str]) -> RouterHandle:
        return await scopes.outliving(
            "router",
            scopes.ROUTER,
            lambda prefix: RouterHandle.start_or_adopt(
                dir=self.settings.state_dir,
                listen=listen,
                prefix=prefix,
                handed=self.handed,
                bounds=Bounds(
                    trusted=self.settings.trusted_proxies,
                    per_source=self.settings.max_per_source,
                    head=self.settings.head_timeout,
                    idle=self.settings.client_timeout,
                    dial=self.settings.connect_timeout,
                    drain=self.settings.drain_timeout,
                    queue=self.settings.connection_timeout,
                    queued=self.settings.connection_queue,
                    access_log=self.settings.access_log,
                    access_log_limit=self.settings.access_log_limit,
                ),
                workers=self.settings.router_workers or min(len(os.sched_getaffinity(0)), MOST_ROUTERS),
            ),
        )

    async def publish_again(self) -> None:
        """What live envs have published, at a router that does not hold it: a new one."""
        held = {published.env_id for published in self.router.published}
        for actor in list(self.actors.values()):
            if (actor.record.init is not None or actor.body.pidfd >= 0) and actor.record.id not in held:
                await republish(self.router, actor.record)

    async def end_forwards(self) -> None:
        """Close what an earlier daemon had the router forward, once its envs are known: who asked for it is gone."""
        for one in self.router.published if self.router.ways.speaks >= ONE else ():
            actor = self.actors.get(one.env_id)
            asked = actor.record.spec.network.publish if actor is not None else []
            if actor is not None and (one.address, one.host_port) not in [(port.address, port.host_port) for port in asked]:
                try:
                    await self.router.unpublish(one.env_id, one)
                except SandboxdError as error:
                    log.error("env %s: port %d is still forwarded: %s", actor.record.name, one.host_port, error)

    def _again(self, what: str, start: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if not self.leaving.is_set() and not self.end_all:
            log.error("the %s has died: a new one is started", what)
            begun = self.own(self._anew(what, start), name=f"start-{what}")
            self._starts.add(begun)
            begun.add_done_callback(self._starts.discard)

    async def _anew(self, what: str, start: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Until it is there: what is scarce now (descriptors, memory) may be had in a moment."""
        while not self.leaving.is_set() and not self.end_all:
            try:
                await start()
                self.missing.pop(what, None)
                return
            except (SandboxdError, OSError) as error:
                log.error("no %s could be started: %s", what, error)
                self.missing[what] = str(error)
                await asyncio.sleep(1)

    # -- envs ----------------------------------------------------------------------------------------------------------

    def records(self, owner: int) -> list[EnvRecord]:
        """The envs that this uid may see, newest first; root sees all."""
        seen = [actor.record for actor in self.actors.values() if owner in (0, actor.record.owner)]
        return sorted(seen, key=lambda record: record.created, reverse=True)

    def find(self, owner: int, target: str, directory: str | None = None) -> Actor:
        """The env that is meant; raises NotFound or Ambiguous."""
        actor = self.actors.get(target)
        if actor is not None and owner in (0, actor.record.owner):
            return actor
        return self.actors[find(self.records(owner), target, directory).id]

    def by_name(self, owner: int, name: str) -> Actor | None:
        """The env of that name, if this owner has one."""
        return self.actors.get(self.roll.id_of(owner, name) or "")

    def create(self, record: EnvRecord) -> Actor:
        """Take a new env in under an id of its own, and start it; raises NameTaken, QueueFull, StoreFailed."""
        taken = self.by_name(record.owner, record.name)
        if taken is not None:
            raise NameTaken(
                f"the name {record.name} is taken by env {taken.record.id[:12]} ({taken.record.state.value})",
                hint=f"choose another --name, or `sandbox rm {record.name}` first",
                id=taken.record.id,
            )
        if record.host in self.demand.templates:
            raise NameTaken(
                f"the name {record.name} is taken by a template",
                hint=f"choose another --name, or `sandbox template rm {record.name}` first",
            )
        other = host_clash(record, lambda name: found.record if (found := self.by_name(record.owner, name)) else None)
        if other is not None:
            raise NameTaken(
                f"{record.name} and its services would share a host name with env {other.name} and its services",
                hint="choose another --name, or rename the service",
                id=other.id,
            )
        if record.spec.network.mode != "host":
            self.launcher.expect()
        self.pooling.note()
        at_once = self.admission.at_once(record)
        now = self.clock.now()
        record = replace(record, id=self.berths.take_id(), created=now, queued=now)
        starting, effects = step(record, ev.Admitted(), now) if at_once else (record, [ev.Enqueue()])
        try:
            self.kept.create(record.id, msgspec.json.encode(starting))
        except StoreFailed:
            self.berths.give_up(record.id)
            raise
        if at_once and (child := next((child for child in self.launcher.parked if child.is_ready), None)) is not None:
            self.coming[record.id] = child.netns_cookie  # most likely; the launch corrects it
        self.announce(record, "created", {"key": record.key} if record.key else {})
        return self.adopt(starting, effects)

    def adopt(self, record: EnvRecord, effects: Sequence[ev.Effect] = ()) -> Actor:
        """Give a record its actor. effects: those that its state still asks for."""
        actor = Actor(record, self, effects)
        self.actors[record.id] = actor
        self.demand.know(actor)
        self.note(record)
        return actor

    def note(self, record: EnvRecord) -> None:
        """An env is new, or has changed: for all that look at several."""
        if record.init is not None:
            self.coming.pop(record.id, None)
        self.roll.note(record)
        self.admission.note(record)
        self.routes_changed(record.id, is_coming=is_coming(record))
        self.scaling.note(record)

    async def discard(self, actor: Actor) -> None:
        """An env is removed, and what it held and left is told."""
        await receipts.around(self, actor, self._forget(actor))

    async def _forget(self, actor: Actor) -> None:
        """Its directory, its record, its name."""
        env_id = actor.record.id
        await asyncio.to_thread(self.rundir.remove_env_dir, env_id)
        self.kept.remove(env_id)
        await self.kept.saved()
        self.actors.pop(env_id, None)
        self.berths.give_up(env_id)
        self.roll.forget(actor.record)
        self.departed[env_id] = actor.record
        if len(self.departed) > DEPARTED:
            del self.departed[next(iter(self.departed))]
        self.demand.forget(actor)
        self.scaling.forget(actor.record)
        self.routes_changed(env_id)

    async def remove(self, actor: Actor) -> None:
        """Ask for an env's removal and wait for it."""
        actor.post(ev.RemoveAsked())
        await actor.wait_until(lambda record: False)

    # -- routes and news -----------------------------------------------------------------------------------------------

    def routes_changed(self, env_id: str | None = None, *, is_coming: bool = False) -> None:
        """Tell the router soon. env_id: all that changed is of that env; is_coming: which is being launched."""
        self.admission.changed()
        self.pushing.note(env_id, is_coming=is_coming)

    def is_coming(self, env_id: str, cookie: int) -> None:
        """An env is being launched, in that network (0: it is not known): a request may wait for it already."""
        if self.coming.get(env_id, 0) != cookie:
            self.coming[env_id] = cookie
            self.pushing.note(env_id, is_coming=True)

    def push_routes(self) -> None:
        """Push the table now if it changed: whoever is told of an env next finds it through the router, too."""
        self.pushing.push()

    async def routes_told(self) -> None:
        """The same for an answer that is about to go out: a router that is behind has it where its workers ask for it."""
        self.pushing.push()
        if not await self.router.flushed():
            log.warning("the router (pid %d) takes no table", self.router.pid)

    def announce(self, record: EnvRecord, event: str, detail: dict[str, str]) -> None:
        """Tell those who listen, and keep it for those who ask later."""
        if not self._untold:
            asyncio.get_running_loop().call_later(EVENTS_DELAY, self.keep_events)
        now = time.time()
        self._untold.append((now, event, record, detail))
        journal.told(event, record.id, record.name, record.owner, detail)
        self.tally.note(event, record.id, time.monotonic())
        if self.subscriptions:
            told = event_of(now, event, record, detail)
            for subscription in self.subscriptions:
                subscription.put(told)

    def keep_events(self) -> None:
        """Write down the events of the last moment, as one transaction: a request is not made to wait for its news."""
        untold, self._untold = self._untold, []
        if not untold:
            return
        try:
            self.journal.add_events((told[0], msgspec.json.encode(event_of(*told))) for told in untold)
        except StoreFailed as error:
            log.warning("%d events could not be kept: %s", len(untold), error)

    def past_events(self, since: float | None) -> list[Event]:
        """The events kept since then (seconds since the epoch), oldest first."""
        self.keep_events()
        return [msgspec.json.decode(data, type=Event) for data in self.journal.events(since or 0.0)]

    def wake(self, env_id: str) -> None:
        """A request waits at the router for an env that is asleep; what is not asleep (any more) is left alone."""
        actor = self.actors.get(env_id)
        if actor is None or not is_asleep(actor.record):
            return
        self.announce(actor.record, "waking", {})
        if actor.record.state is State.SUSPENDED:
            actor.post(ev.ResumeAsked(by="request"))
        else:
            actor.post(ev.StartAsked(woken=True))

    def routes_of(self, env_id: str) -> int:
        """How many connections the router has to an env that is removed, or is to be."""
        return int(self.router.counts.get(env_id, {}).get("open", 0))

    async def stop_all(self) -> None:
        """Stop every env, and wait until the last has ended."""
        alive = [actor for actor in self.actors.values() if actor.record.state not in ENDED]
        for actor in alive:
            actor.post(ev.StopAsked())
        for actor in alive:
            await actor.wait_until(lambda record: record.state in ENDED)
        await asyncio.gather(*self._starts, return_exceptions=True)  # whom it would have found is to end, too

    async def close(self) -> None:
        """Let go of every env and end every task."""
        for actor in list(self.actors.values()):
            await actor.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        self.berths.close()
        self.meetings.close()
        self.control.close()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.keep_events()
        self.kept.close()


def event_of(when: float, event: str, record: EnvRecord, detail: dict[str, str]) -> Event:
    """What happened to an env, as everybody is told. when: seconds since the epoch."""
    return Event(time=rfc3339(when) or "", event=event, id=record.id, name=record.name, detail=detail, owner=record.owner)
