"""`Update`: other limits for an env that is there, checked against what this host enforces and what the env uses now.

The change is journalled beside the spec before it is brought to bear; what the kernel then refuses is taken back and told.
"""

from msgspec.structs import replace

from sandboxd.daemon.actor import Actor
from sandboxd.daemon.building import make_plan
from sandboxd.daemon.control import Call
from sandboxd.daemon.supervisor import Supervisor
from sandboxd.daemon.watch import Watch
from sandboxd.errors import LimitUnenforceable
from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.states import ALIVE
from sandboxd.lifecycle.view import env_info
from sandboxd.limits.change import Value, changed, overrides, refuse, refuse_below_use
from sandboxd.protocol import messages as m
from sandboxd.spec import Limits
from sandboxd.specfile import check


class UpdateRequests:
    """The one request of this file."""

    def __init__(self, supervisor: Supervisor, watch: Watch) -> None:
        self.supervisor = supervisor
        self.watch = watch

    async def update(self, call: Call) -> m.InspectReply:
        """Change limits, or refuse and change nothing."""
        params = call.params
        assert isinstance(params, m.Update)
        actor = self.supervisor.find(call.peer.sees, params.target)
        record = actor.record
        wanted = changed(record.limits, params.limits)
        check(replace(record.spec, limits=wanted))
        new = replace(record, overrides=overrides(record.spec.limits, wanted))
        self.supervisor.admission.quotas.check(new, starts=False)
        env_dir = self.supervisor.rundir.env_dir(record.id)
        is_alive = record.init is not None and record.state in ALIVE
        facts = self.supervisor.control.facts_of(record) if is_alive else None
        planned = make_plan(self.supervisor, new, env_dir, [], facts).limits
        if is_alive:
            refuse(record.limits, wanted, record.enforced, planned)
            refuse_below_use(record.limits, wanted, await self.used(record, wanted))
        await self.change(actor, new.overrides, planned)
        return m.InspectReply(env=env_info(actor.record, self.supervisor.base, whole=True, ahead=self.supervisor.clock.ahead()))

    async def used(self, record: EnvRecord, wanted: Limits) -> dict[str, int]:
        """What is in use of those limits that are to shrink."""
        found: dict[str, int] = {}
        if wanted.memory is not None:
            counted = self.supervisor.control.used(record)
            found["memory"] = self.watch.look(record).memory if counted is None else counted
        if wanted.disk is not None:
            found["disk"] = (await self.watch.disk.look(record)).bytes
        return found

    async def change(self, actor: Actor, new: dict[str, Value], ways: dict[str, str]) -> None:
        """Journal, apply, and take it back if it could not be applied."""
        before, enforced = actor.record.overrides, actor.record.enforced
        actor.post(ev.LimitsChanged(overrides=new, enforced=ways, allowed=actor.record.allowed))
        await actor.wait_until(lambda record: record.overrides == new)
        if actor.body.unapplied:
            why = actor.body.unapplied
            actor.post(ev.LimitsChanged(overrides=before, enforced=enforced, allowed=actor.record.allowed))
            await actor.wait_until(lambda record: record.overrides == before)
            raise LimitUnenforceable(f"the kernel refused the new limits of {actor.record.name}: {why}", reason=why)
