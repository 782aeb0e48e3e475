"""`Forward`: a port of an env at a port of this host's loopback, for as long as somebody wants it.

The router listens, as it does for what a spec publishes; the call that asked stands meanwhile, and its end is the listener's.
An env that stops ends it too. Of a daemon that died nobody knows who asked: its successor closes what no spec publishes.
"""

from msgspec.structs import replace

from sandboxd.daemon.actor import Actor
from sandboxd.daemon.building import service_of_port
from sandboxd.daemon.control import Call
from sandboxd.daemon.supervisor import Supervisor
from sandboxd.errors import InvalidState, NotOffered, PermissionDenied, PortTaken, UsageError
from sandboxd.lifecycle.records import EnvRecord
from sandboxd.lifecycle.sharing import LOWEST_PORT
from sandboxd.lifecycle.view import env_info
from sandboxd.network.ports import pick_free_port
from sandboxd.protocol import messages as m
from sandboxd.routing.orders import ONE, Published

LOOPBACK = "127.0.0.1"


class ForwardRequests:
    """The one request of this file."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor

    async def forward(self, call: Call) -> m.InspectReply:
        """Listen, say where, and stay until the client goes or the env does."""
        params = call.params
        assert isinstance(params, m.Forward)
        if not call.more:
            raise UsageError("Forward lasts as long as its call, which has to ask for more", hint="`sandbox forward ENV PORT`")
        actor = self.supervisor.find(call.peer.uid, params.target, params.directory)
        held = await self.listen(actor.record, params)
        router = self.supervisor.router
        try:
            await call.reply(self.told(actor, held), continues=True)
            await actor.wait_until(lambda record: record.init is None)
        finally:
            if held in router.published:
                self.supervisor.own(router.unpublish(held.env_id, held), name=f"unforward-{held.host_port}")
        return m.InspectReply(env=env_info(actor.record, self.supervisor.base))

    async def listen(self, record: EnvRecord, params: m.Forward) -> Published:
        """Have the router listen; on the same number where that is free and no other was named. Raises PortTaken."""
        if record.spec.network.mode != "private":
            hint = "its ports are this machine's" if record.spec.network.mode == "host" else "--network private"
            raise NotOffered(f"{record.name} has no network of its own that could be reached", hint=hint)
        if record.init is None:
            raise InvalidState(f"{record.name} is {record.state.value}", hint=f"sandbox start {record.name}")
        router = self.supervisor.router
        if router.ways.speaks < ONE:
            raise NotOffered("the router that runs is of an older version", hint="sandbox daemon stop --all, and start it anew")
        host_port = params.host_port or params.port
        if record.user and record.owner and host_port < LOWEST_PORT:  # the router would bind it as root
            if params.host_port:
                raise PermissionDenied(f"ports below {LOWEST_PORT} are root's", hint="name a higher HOSTPORT, or none")
            host_port = pick_free_port()
        held = Published(
            address=LOOPBACK,
            host_port=host_port,
            env_id=record.id,
            service=service_of_port(record, params.port),
            port=params.port,
            owner=record.owner,
        )
        try:
            if any((one.address, one.host_port) == (held.address, held.host_port) for one in router.published):
                where = f"{held.address}:{held.host_port}"  # our own: the router would let the same env have it twice
                raise PortTaken(f"{where} is published already", hint="name another HOSTPORT, or none", address=where)
            await router.publish(held)
        except PortTaken:
            if params.host_port:
                raise
            held = replace(held, host_port=pick_free_port())
            await router.publish(held)
        return held

    def told(self, actor: Actor, held: Published) -> m.InspectReply:
        """The env, with the port where it is reached now."""
        info = env_info(actor.record, self.supervisor.base)
        port = m.PortInfo(service=held.service, port=held.port, expose="tcp", address=f"{held.address}:{held.host_port}")
        return m.InspectReply(env=replace(info, ports=[port]))
