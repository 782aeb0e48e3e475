"""Requests that only look: List, Inspect, Status, Metrics, Logs, Events, Why, Stats; and Shutdown, which only sets a flag."""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime

from msgspec.structs import replace

from sandboxd import __version__
from sandboxd.daemon import succession
from sandboxd.daemon.actor import Actor
from sandboxd.daemon.control import Call
from sandboxd.daemon.metering import scrape
from sandboxd.daemon.news import Subscription
from sandboxd.daemon.supervisor import Supervisor
from sandboxd.daemon.watch import Watch
from sandboxd.errors import KernelError, NotFound, UsageError
from sandboxd.launch.pids import host_pids
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.states import ALIVE, ENDED
from sandboxd.lifecycle.view import env_info, matches, rfc3339
from sandboxd.lifecycle.why import answers, rules, unknowable
from sandboxd.observe.logs import follow, read_logs
from sandboxd.protocol import messages as m
from sandboxd.units import parse_duration


class Queries:
    """The requests of this file."""

    def __init__(self, supervisor: Supervisor, watch: Watch) -> None:
        self.supervisor = supervisor
        self.watch = watch

    async def list(self, call: Call) -> m.ListReply:
        """Envs, newest first."""
        params = call.params
        assert isinstance(params, m.List)
        named = any(text.startswith(("status=", "state=")) for text in params.filters)
        records = [
            record
            for record in self.supervisor.records(call.peer.sees)
            if (params.all or named or record.state not in ENDED) and matches(record, params.filters)
        ]
        return m.ListReply(envs=[self.info(record) for record in records])

    def info(self, record: EnvRecord, *, whole: bool = False) -> m.EnvInfo:
        """A record as shown; pids of services are known only inside, so they are left out here."""
        info = env_info(record, self.supervisor.base, whole=whole, ahead=self.supervisor.clock.ahead())
        services = [replace(service, pid=None) for service in info.services]
        return replace(info, services=services, scale=self.supervisor.scaling.info(record))

    async def inspect(self, call: Call) -> m.InspectReply:
        """One env, whole: with the host's pids of its services and what it uses now."""
        params = call.params
        assert isinstance(params, m.Inspect)
        record = self.supervisor.find(call.peer.sees, params.target, params.directory).record
        info = env_info(record, self.supervisor.base, whole=True, ahead=self.supervisor.clock.ahead())
        pids = host_pids(record.init.pid) if record.init and record.state in ALIVE else {}
        services = [replace(s, pid=pids.get(s.pid) if s.pid is not None else None) for s in info.services]
        usage = None
        if record.init and record.state in ALIVE:
            with contextlib.suppress(KernelError):  # it ended just now, and its record does not know yet
                usage = self.watch.usage(record)
        return m.InspectReply(env=replace(info, services=services, usage=usage, scale=self.supervisor.scaling.info(record)))

    async def status(self, call: Call) -> m.StatusReply:
        """The daemon itself."""
        supervisor = self.supervisor
        counts: dict[str, int] = {}
        for record in supervisor.records(call.peer.sees):
            counts[record.state.value] = counts.get(record.state.value, 0) + 1
        return m.StatusReply(
            pid=os.getpid(),
            version=__version__,
            socket=str(supervisor.settings.socket),
            listen=supervisor.router.listen,
            dir=str(supervisor.settings.state_dir),
            uptime=round(time.time() - supervisor.started, 3),
            started=supervisor.started,
            envs=counts,
            launcher_pid=supervisor.launcher.pid,
            router_pid=supervisor.router.pid,
            pool=supervisor.launcher.pool,
            controllers=supervisor.host.limits.controllers,
            uncontrolled=supervisor.host.limits.reason,
            control=supervisor.host.limits.fix,
        )

    async def metrics(self, call: Call) -> m.MetricsReply:
        """All numbers of the daemon, as a monitor reads them; for who may see every env."""
        return m.MetricsReply(text=(await scrape(self.supervisor, self.watch)).decode())

    async def logs(self, call: Call) -> m.LogsReply | None:
        """Output of an env's services."""
        params = call.params
        assert isinstance(params, m.Logs)
        actor = self.supervisor.find(call.peer.sees, params.target)
        services = list(actor.record.services)
        if params.service is not None:
            if params.service not in services:
                raise NotFound(
                    f"env {actor.record.name} has no service {params.service!r}", hint=f"it has: {', '.join(services)}"
                )
            services = [params.service]
        if params.tail is not None and params.tail < 0:
            raise UsageError("tail is below 0")
        directory = self.supervisor.rundir.env_dir(actor.record.id) / "logs"
        since = moment(params.since)
        if not params.follow or not call.more:
            lines = await asyncio.to_thread(read_logs, directory, services, tail=params.tail, since=since)
            return await batches(call, lines)
        ended = asyncio.Event()
        watching = self.supervisor.own(until_over(actor, ended), name=f"logs-{actor.record.name}")
        try:
            async with aclosing(follow(directory, services, tail=params.tail, since=since, ended=ended)) as news:
                async for batch in news:
                    await call.reply(m.LogsReply(lines=batch), continues=True)
        finally:
            watching.cancel()
        return m.LogsReply(lines=[])

    async def events(self, call: Call) -> m.EventsReply | None:
        """What happened, and what happens."""
        params = call.params
        assert isinstance(params, m.Events)
        keeps = event_filter(params.filters)
        supervisor = self.supervisor
        subscription = Subscription()
        if params.follow and call.more:
            supervisor.subscriptions.add(subscription)
        try:
            sees = call.peer.sees
            past = []
            if params.since is not None or not params.follow:
                since = moment(params.since)
                past = [event for event in supervisor.past_events(since) if is_seen(event, sees) and keeps(event)]
            if not params.follow or not call.more:
                return m.EventsReply(events=past)
            await call.reply(m.EventsReply(events=past), continues=True)
            while True:
                batch = await subscription.take()
                batch = [event for event in batch if is_seen(event, sees) and keeps(event)]
                if batch:
                    await call.reply(m.EventsReply(events=batch), continues=True)
        finally:
            supervisor.subscriptions.discard(subscription)

    async def why(self, call: Call) -> m.WhyReply:
        """Why an env is as it is, of all that is known of it."""
        params = call.params
        assert isinstance(params, m.Why)
        actor = self.supervisor.find(call.peer.sees, params.target, params.directory)
        record, notebook = actor.record, actor.body.notebook
        since = rfc3339(moment(params.since)) or ""
        return m.WhyReply(
            env=self.info(record),
            answers=answers(
                record, notebook.unready, actor.body.look_at_guards(), self.supervisor.router.counts.get(record.id, {})
            ),
            denials=[denial for denial in notebook.denials if denial.time >= since],
            limits=[hit for hit in notebook.limits if hit.time >= since],
            awake=self.supervisor.idling.outlook(actor),
            rules=[*rules(record), *self.supervisor.scaling.words(record)],
            unknown=[*notebook.unknown, *unknowable(record)],
        )

    async def stats(self, call: Call) -> m.StatsReply:
        """Samples, once or again and again."""
        params = call.params
        assert isinstance(params, m.Stats)
        if not 0.1 <= params.interval <= 3600:
            raise UsageError("interval is not within 0.1 and 3600 seconds")
        uid = call.peer.sees
        actors = [self.supervisor.find(uid, target) for target in params.targets]
        first = True
        while True:
            records = [actor.record for actor in actors] or self.supervisor.records(uid)
            alive = [record for record in records if record.init is not None and record.state in ALIVE]
            if first:
                self.watch.begin(alive)
                await asyncio.sleep(min(0.1, params.interval))  # a rate needs two looks
                first = False
            rows = []
            for record in alive:
                with contextlib.suppress(KernelError):
                    rows.append(self.watch.row(record))
            reply = m.StatsReply(stats=rows)
            if not (params.follow and call.more):
                return reply
            await call.reply(reply, continues=True)
            await asyncio.sleep(params.interval)

    async def shutdown(self, call: Call) -> m.Empty:
        """End the daemon once this is answered."""
        params = call.params
        assert isinstance(params, m.Shutdown)
        if params.again and params.all:
            raise UsageError("a daemon that is started again keeps its envs", hint="ask for one of the two")
        if params.again:
            await succession.check()
        self.supervisor.again = params.again
        self.supervisor.end_all = params.all
        if params.all:
            await self.supervisor.stop_all()
            # Before anybody is told that all has ended: who is killed from here on leaves no router that nobody looks for.
            self.supervisor.router.dismiss()
            await self.supervisor.router.flushed()
        asyncio.get_running_loop().call_soon(self.supervisor.leaving.set)
        return m.Empty()


async def batches(call: Call, lines: list[m.LogLine]) -> m.LogsReply:
    """Lines in replies well below the frame cap; without `more` there is one reply, of the newest lines."""
    sizes = 0
    batch: list[m.LogLine] = []
    if not call.more:
        kept = []
        for line in reversed(lines):
            sizes += len(line.text) * 2 + 200
            if sizes > 700_000:
                break
            kept.append(line)
        return m.LogsReply(lines=kept[::-1])
    for line in lines:
        batch.append(line)
        sizes += len(line.text) * 2 + 200
        if sizes > 200_000:
            await call.reply(m.LogsReply(lines=batch), continues=True)
            batch, sizes = [], 0
    return m.LogsReply(lines=batch)


async def until_over(actor: Actor, ended: asyncio.Event) -> None:
    """Set `ended` once the env has ended."""
    await actor.wait_until(lambda record: record.state in ENDED)
    ended.set()


def moment(text: str | None) -> float | None:
    """RFC 3339, or an age as "5m", as seconds since the epoch; raises UsageError."""
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).replace(tzinfo=datetime.fromisoformat(text).tzinfo or UTC).timestamp()
    except ValueError:
        pass
    try:
        return time.time() - parse_duration(text)
    except UsageError:
        raise UsageError(
            f"since {text!r} is neither a time nor an age", hint="as 2026-11-23T04:38:22Z, or as 5m or 1h30m"
        ) from None


def is_seen(event: m.Event, sees: int) -> bool:
    """Whether this uid (0: all) may hear of it. What an earlier version wrote down is of the daemon's own user."""
    return sees in (0, os.geteuid() if event.owner is None else event.owner)


def event_filter(filters: list[str]) -> Callable[[m.Event], bool]:
    """A predicate over events from event=, id=, name= (the same key: or, different keys: and); raises UsageError."""
    wanted: dict[str, list[str]] = {}
    for text in filters:
        key, equals, value = text.partition("=")
        if not equals or key not in ("event", "id", "name"):
            raise UsageError(f"filter {text!r} cannot be meant", hint="event=, id= or name=")
        wanted.setdefault(key, []).append(value)

    def keeps(event: m.Event) -> bool:
        found = {"event": event.event, "id": event.id, "name": event.name}
        return all(
            any(found[key].startswith(value) if key == "id" else found[key] == value for value in values)
            for key, values in wanted.items()
        )

    return keeps
