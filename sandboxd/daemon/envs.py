"""Requests that make, end and change envs: one function each. They post events and wait; the actors do the work.

A client that leaves while it waits ends only its own wait: what it asked for goes on.
"""

import secrets
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from msgspec.structs import replace

from sandboxd.daemon.accepting import check_reach
from sandboxd.daemon.actor import Actor
from sandboxd.daemon.admission import RETRY
from sandboxd.daemon.body import signal_number
from sandboxd.daemon.control import Call
from sandboxd.daemon.making import checked_spec, handed_on, owner_of, record_of
from sandboxd.daemon.sessions import RunSession
from sandboxd.daemon.supervisor import Supervisor
from sandboxd.errors import (
    Internal,
    InvalidState,
    NotReady,
    QueueFull,
    SandboxdError,
    TimedOut,
    UsageError,
    by_code,
)
from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle import sharing
from sandboxd.lifecycle.names import draw_name
from sandboxd.lifecycle.order import startable
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.sharing import Owner
from sandboxd.lifecycle.states import ALIVE, ENDED, ServiceState, State, Wanted
from sandboxd.lifecycle.view import env_info, matches
from sandboxd.protocol import messages as m
from sandboxd.settings import LOG_HINT
from sandboxd.spec import EnvSpec


class EnvRequests:
    """The requests of this file; each takes a call and gives the last reply."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor

    def info(self, record: EnvRecord, *, whole: bool = False) -> m.EnvInfo:
        """A record as replies show it."""
        return env_info(record, self.supervisor.base, whole=whole, ahead=self.supervisor.clock.ahead())

    # -- Run -----------------------------------------------------------------------------------------------------------

    async def run(self, call: Call) -> m.RunReply:
        """Create an env (or take the one of that name) and start it."""
        params = call.params
        assert isinstance(params, m.Run)
        if params.again is not None:
            return await self.run_on(call, params, params.again)
        if params.exists == "error" and params.spec.network.mode != "host":
            self.supervisor.launcher.expect()
        record = self.new_record(params, owner_of(call.peer, shared=self.supervisor.settings.shared))
        if params.accept is not None:
            record = replace(record, accepted=check_reach(self.supervisor.journal, record, accept=params.accept))
        existing = self.supervisor.by_name(record.owner, record.name)
        if existing is not None and params.exists != "error":
            return await self.reuse(call, params, existing, record)
        actor = self.supervisor.create(record)
        try:
            session = RunSession.prepare(actor, params) if params.attach else None  # the actor has not had its turn yet
        except OSError:
            await self.supervisor.remove(actor)
            raise
        try:
            record = await self.started(call, actor, params)
        except BaseException:
            if session is not None:
                session.close()
            raise
        if session is not None:
            await session.serve(call, self.info(record))
            call.resumes = actor.record.id if params.fds else ""  # in-band, the session's pipes end with this daemon
            record = await actor.wait_until(has_ended)
        return m.RunReply(env=self.info(record))

    async def started(self, call: Call, actor: Actor, params: m.Run) -> EnvRecord:
        """Wait for a new env as far as was asked; raises what ended it before."""
        call.resumes = "" if params.attach else actor.record.id
        try:
            return await self.progress(call, actor, params.wait, params.timeout)
        except SandboxdError:
            call.resumes = ""
            if actor.record.error is not None:
                # it could not even be executed: nothing half-made stays behind
                await self.supervisor.remove(actor)
            raise

    async def run_on(self, call: Call, params: m.Run, env_id: str) -> m.RunReply:
        """The rest of a Run that the daemon before us cut short, when it made way."""
        gone = self.supervisor.departed.get(env_id)
        if gone is not None and call.peer.sees in (0, gone.owner):
            return m.RunReply(env=self.info(gone))
        actor = self.supervisor.find(call.peer.sees, env_id)
        if not params.attach:
            return m.RunReply(env=self.info(await self.started(call, actor, params)))
        call.resumes = actor.record.id
        return m.RunReply(env=self.info(await actor.wait_until(has_ended)))

    def new_record(self, params: m.Run, owner: Owner) -> EnvRecord:
        """The record of what was asked for, without an id as yet; raises what `check` refuses."""
        sharing.check(params.spec, owner, self.supervisor.settings.base_domain)
        spec = checked_spec(params.spec, self.supervisor.settings.limits)
        if spec.on_demand is not None:
            raise UsageError("this spec is a template, of which envs are made on demand", hint="`sandbox up` registers it")
        name = spec.name or draw_name(self.supervisor.roll.names, secrets.choice)
        return record_of(spec, name, handed_on(params.environ), params.directory, owner)

    async def reuse(self, call: Call, params: m.Run, actor: Actor, asked: EnvRecord) -> m.RunReply:
        """The env of that name is there: start it if it is stopped; give it the new spec, or refuse, if that differs."""
        if params.attach:
            raise UsageError("an env that is there already cannot be attached at its start", hint="`sandbox attach` joins it")
        changed = asked.spec != plain_name(actor.record.spec, asked.spec)
        if changed and params.exists == "reuse":
            raise InvalidState(
                f"env {actor.record.name} is there with another spec",
                hint=f"`sandbox rm {actor.record.name}` first, or take another --name",
                state=actor.record.state.value,
            )
        running = is_awake(actor.record)
        if changed or not running:
            wanted = replace(actor.record, spec=asked.spec) if changed else actor.record
            self.supervisor.admission.quotas.check(wanted)
        if changed:
            if actor.record.state not in ENDED:
                actor.post(ev.StopAsked())
                await actor.wait_until(has_ended)
            actor.post(ev.SpecChanged(spec=asked.spec, environ=asked.environ, accepted=asked.accepted))
        if changed or not running:
            actor.post(ev.StartAsked())
            await actor.wait_until(is_awake)
        call.resumes = actor.record.id
        record = await self.progress(call, actor, params.wait, params.timeout)
        return m.RunReply(env=self.info(record), changed=changed or not running)

    def within_quota(self, actor: Actor) -> None:
        """An env that ended is about to start, as somebody asks; raises QuotaExceeded."""
        if actor.record.state in ENDED:
            self.supervisor.admission.quotas.check(actor.record)

    async def progress(self, call: Call, actor: Actor, wait: str, timeout: float | None) -> EnvRecord:
        """Wait for "created", "started" or "ready", telling a streaming client of each change; raises what ended it before."""
        holds = GOALS[wait]
        loop_end = None if timeout is None else time.monotonic() + timeout
        seen = actor.settled  # what comes while some of it is told is seen next
        told = shown_of(seen)
        # descriptors ride on the first reply, so an attached run tells of nothing before it
        tells = call.more and not getattr(call.params, "attach", False)
        while not holds(actor.settled) and not has_ended(actor.settled):
            left = None if loop_end is None else max(0.0, loop_end - time.monotonic())
            await actor.wait_until(lambda record, seen=seen: record is not seen, left)  # type: ignore[misc]
            seen = actor.settled
            if tells and shown_of(seen) != told:
                told = shown_of(seen)
                with suppress(ConnectionError):
                    await call.reply(m.RunReply(env=self.info(seen), done=False), continues=True)
        record = actor.settled
        if record.error is not None and wait != "created":
            record = await actor.wait_until(has_ended)
            assert record.error is not None
            code, message, hint = record.error
            more: dict[str, object] = {"retry_after": RETRY} if code == QueueFull.__name__ else {}
            raise by_code().get(code, SandboxdError)(message, hint=hint, id=record.id, name=record.name, **more)
        if wait == "ready" and record.state is not State.READY and not finished_well(record):
            raise not_ready(record)
        await self.supervisor.routes_told()
        return record

    # -- the rest of an env's life -------------------------------------------------------------------------------------

    async def start(self, call: Call) -> m.RunReply:
        """Start an env that ended."""
        params = call.params
        assert isinstance(params, m.Start)
        actor = self.supervisor.find(call.peer.sees, params.target)
        was_ended = actor.record.state in (*ENDED, State.SUSPENDED)
        self.within_quota(actor)
        actor.post(ev.StartAsked())
        if was_ended:
            await actor.wait_until(is_awake)
        record = await self.progress(call, actor, params.wait, params.timeout)
        return m.RunReply(env=self.info(record), changed=was_ended)

    async def stop(self, call: Call) -> m.InspectReply:
        """Stop, and answer when it has ended."""
        params = call.params
        assert isinstance(params, m.Stop)
        actor = self.supervisor.find(call.peer.sees, params.target)
        actor.post(ev.StopAsked(grace=params.timeout))
        await self.supervisor.scaling.dissolve(actor)
        record = await actor.wait_until(lambda record: has_ended(record) and record.wanted is not Wanted.RUNNING)
        return m.InspectReply(env=self.info(record))

    async def restart(self, call: Call) -> m.RunReply:
        """Stop, start, and answer when it has started."""
        params = call.params
        assert isinstance(params, m.Restart)
        actor = self.supervisor.find(call.peer.sees, params.target)
        self.within_quota(actor)
        actor.post(ev.StopAsked(grace=params.timeout, again=True))
        await actor.wait_until(lambda record: record.state is State.STARTING and record.started is None)
        record = await self.progress(call, actor, "started", None)
        return m.RunReply(env=self.info(record))

    async def suspend(self, call: Call) -> m.InspectReply:
        """Have nothing of it run; answer when that is so."""
        params = call.params
        assert isinstance(params, m.Suspend)
        actor = self.supervisor.find(call.peer.sees, params.target)
        record = actor.record
        if record.init is None or record.state is State.STOPPING:
            raise InvalidState(
                f"env {record.name} cannot be suspended: it is {record.state.value}",
                hint="only what runs can be suspended",
                state=record.state.value,
            )
        actor.post(ev.SuspendAsked())
        record = await actor.wait_until(
            lambda record: has_ended(record) or (record.state is State.SUSPENDED and record.suspended_by == "user")
        )
        if actor.body.not_suspended is not None:
            raise actor.body.not_suspended
        if record.state is not State.SUSPENDED:
            raise InvalidState(f"env {record.name} has ended instead", state=record.state.value)
        self.supervisor.push_routes()
        with suppress(TimedOut, Internal):  # a router that is gone has no older table either
            await self.supervisor.router.count()  # a request after our answer must find it asleep, and wake it
        return m.InspectReply(env=self.info(record))

    async def resume(self, call: Call) -> m.InspectReply:
        """Have it run on; what runs already is left alone."""
        params = call.params
        assert isinstance(params, m.Resume)
        actor = self.supervisor.find(call.peer.sees, params.target)
        if actor.record.state in ENDED:
            raise InvalidState(
                f"env {actor.record.name} is not suspended: it is {actor.record.state.value}",
                hint=f"`sandbox start {actor.record.name}` starts it",
                state=actor.record.state.value,
            )
        actor.post(ev.ResumeAsked())
        record = await actor.wait_until(lambda record: record.state is not State.SUSPENDED)
        return m.InspectReply(env=self.info(record))

    async def kill(self, call: Call) -> m.InspectReply:
        """Signal the services; KILL ends the whole tree."""
        params = call.params
        assert isinstance(params, m.Kill)
        number = signal_number(params.signal)
        actor = self.supervisor.find(call.peer.sees, params.target)
        record = actor.record
        if record.state not in ALIVE:
            raise InvalidState(f"env {record.name} does not run: it is {record.state.value}", state=record.state.value)
        if number == signal.SIGKILL and params.service is None:
            actor.post(ev.KillAsked())
            record = await actor.wait_until(has_ended)
        else:
            if (
                record.state is State.SUSPENDED
            ):  # a signal would wait there until it runs again, and CONT would wake a part of it
                actor.post(ev.ResumeAsked())
                record = await actor.wait_until(is_awake)
            if params.service is not None and params.service not in record.services:
                raise UsageError(f"env {record.name} has no service {params.service!r}", hint=", ".join(record.services))
            for name in [params.service] if params.service else list(record.services):
                if record.services[name].pid is not None:
                    await actor.body.send_signal(name, number)
        return m.InspectReply(env=self.info(record))

    async def remove(self, call: Call) -> m.RemoveReply:
        """Remove an env and all it left; answer with the receipt."""
        params = call.params
        assert isinstance(params, m.Remove)
        actor = self.supervisor.find(call.peer.sees, params.target)
        record = actor.record
        if record.state not in ENDED and record.state is not State.QUEUED and not params.force:
            raise InvalidState(
                f"env {record.name} is {record.state.value}",
                hint=f"`sandbox stop {record.name}` first, or `sandbox rm -f {record.name}`",
                state=record.state.value,
            )
        await self.supervisor.scaling.dissolve(actor, for_good=True)
        await self.supervisor.remove(actor)
        if actor.receipt is None:
            raise Internal(f"env {record.name} could not be removed whole", hint=LOG_HINT)
        return m.RemoveReply(id=record.id, name=record.name, receipt=actor.receipt)

    async def prune(self, call: Call) -> m.PruneReply:
        """Remove every env of this user that ended; root's means everybody's."""
        params = call.params
        assert isinstance(params, m.Prune)
        ended = [r for r in self.supervisor.records(call.peer.uid) if r.state in ENDED and matches(r, params.filters)]
        for record in ended:
            await self.supervisor.remove(self.supervisor.actors[record.id])
        return m.PruneReply(removed=[record.id for record in ended])

    async def wait(self, call: Call) -> m.WaitReply:
        """Answer when the env is so."""
        params = call.params
        assert isinstance(params, m.Wait)
        actor = self.supervisor.find(call.peer.sees, params.target)
        goals: dict[str, Callable[[EnvRecord], bool]] = {
            "ready": lambda record: record.state is State.READY,
            "healthy": lambda record: record.state is State.READY,
            "stopped": has_ended,
            "removed": lambda record: record.state is State.REMOVED,
        }
        goal = goals[params.until]
        only_alive = params.until in ("ready", "healthy")
        # between the two halves of a restart it has ended, but not for good
        record = await actor.wait_until(
            lambda record: goal(record) or (only_alive and has_ended(record) and not record.again), params.timeout
        )
        if only_alive and not goal(record):
            raise not_ready(record)
        return m.WaitReply(env=self.info(record), exit_code=record.exit_code)


def plain_name(spec: EnvSpec, asked: EnvSpec) -> EnvSpec:
    """A spec as it was asked for, for comparing: by whatever name the env was found."""
    return replace(spec, name=asked.name)


def has_ended(record: EnvRecord) -> bool:
    """No process of it is left."""
    return record.state in ENDED


def is_awake(record: EnvRecord) -> bool:
    """It runs, or is about to, or is on its way down."""
    return record.state not in ENDED and record.state is not State.SUSPENDED


def has_started(record: EnvRecord) -> bool:
    """Init runs and every service that can start was executed."""
    return (
        record.init is not None
        and all(service.state is not ServiceState.STARTING for service in record.services.values())
        and not startable(record.spec.services, record.services)
    )


def is_settled(record: EnvRecord) -> bool:
    """Ready, or known not to become so in time."""
    return record.state is State.READY or any(service.unready for service in record.services.values())


def finished_well(record: EnvRecord) -> bool:
    """It was a job, and is done."""
    return record.state in ENDED and record.exit_code == 0


def not_ready(record: EnvRecord) -> NotReady:
    """Why it is not ready, and where to look."""
    hint = f"`sandbox logs {record.name}` shows what it said"
    if has_ended(record):
        how = f"exited ({record.exit_code})" if record.exit_code is not None else record.state.value
        why = f": {record.reason}" if record.reason else ""
        return NotReady(f"env {record.name} {how} before it was ready{why}", hint=hint, state=record.state.value, id=record.id)
    reason = next((service.unready for service in record.services.values() if service.unready), record.state.value)
    message = f"env {record.name} is not ready: {reason}"
    return NotReady(message, hint=f"{hint}; it runs on", state=record.state.value, id=record.id)


def shown_of(record: EnvRecord) -> tuple[object, ...]:
    """What a progress line tells of: the env's state, and each service's."""
    return record.state, *(service.state for service in record.services.values())


GOALS: dict[str, Callable[[EnvRecord], bool]] = {"created": lambda record: True, "started": has_started, "ready": is_settled}
