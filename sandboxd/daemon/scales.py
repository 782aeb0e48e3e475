"""`Scale`: how many replicas an env is to have. The record keeps it, `daemon.scaling` does it, and this waits for it."""

from msgspec.structs import replace

from sandboxd.daemon.control import Call
from sandboxd.daemon.supervisor import Supervisor
from sandboxd.errors import UsageError
from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.names import find
from sandboxd.lifecycle.scaling import replica_spec, rests
from sandboxd.lifecycle.states import ENDED, State
from sandboxd.lifecycle.view import env_info
from sandboxd.protocol import messages as m
from sandboxd.specfile import check


class ScaleRequests:
    """The one request of this file."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor

    async def scale(self, call: Call) -> m.InspectReply:
        """Journal the number, start or stop the first one, and wait for the others."""
        params = call.params
        assert isinstance(params, m.Scale)
        actor = self.supervisor.find(call.peer.sees, params.target)
        record = actor.record
        if record.replica_of:
            first = find(self.supervisor.records(call.peer.sees), record.replica_of).name
            raise UsageError(f"{record.name} is itself a replica", hint=f"sandbox scale {first}=N")
        wanted = params.replicas
        if wanted is None and record.spec.scale is None:
            raise UsageError(
                f"{record.name} has no [scale] that could say how many", hint=f"say it: sandbox scale {record.name}=2"
            )
        if (wanted or 0) > 1:
            if record.spec.network.mode != "private":
                mode = record.spec.network.mode
                raise UsageError(
                    f"replicas need networks of their own: {record.name} has --network {mode}", hint="leave it out"
                )
            check(replica_spec(record, f"{record.name}-{wanted}"))
        actor.post(ev.ScaleAsked(replicas=wanted))
        await actor.wait_until(lambda record: record.replicas == wanted)
        if wanted == 0:
            actor.post(ev.StopAsked())
            await self.supervisor.scaling.dissolve(actor)
            await actor.wait_until(lambda record: record.state in ENDED)
        elif rests(actor.record) or actor.record.state in ENDED:
            actor.post(ev.StartAsked())
            await actor.wait_until(lambda record: record.state not in (*ENDED, State.SUSPENDED))
        if params.wait:
            await self.supervisor.scaling.until_settled(actor, params.timeout)
            await self.supervisor.routes_told()
        info = env_info(actor.record, self.supervisor.base, ahead=self.supervisor.clock.ahead())
        return m.InspectReply(env=replace(info, scale=self.supervisor.scaling.info(actor.record)))
