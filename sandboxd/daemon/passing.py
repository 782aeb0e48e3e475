"""`Net`: what goes out of an env and comes in, as the router's workers see it; and rules given to it while it runs.

A rule is journalled beside the spec, like other live changes, so that it holds for every later start.
"""

import asyncio
import time

from sandboxd.daemon.actor import Actor
from sandboxd.daemon.control import Call
from sandboxd.daemon.supervisor import Supervisor
from sandboxd.egress import parse
from sandboxd.errors import InvalidState, UsageError
from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle.view import env_info, rfc3339
from sandboxd.protocol import messages as m
from sandboxd.routing.outlets import Passage

MOST_ALLOWED = 1000


class NetRequests:
    """The one request of this file."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor

    async def net(self, call: Call) -> m.NetReply:
        """Once, or again and again."""
        params = call.params
        assert isinstance(params, m.Net)
        if not 0.1 <= params.interval <= 3600:
            raise UsageError("interval is not within 0.1 and 3600 seconds")
        actor = self.supervisor.find(call.peer.sees, params.target, params.directory)
        if params.allow:
            await self.allow(actor, params.allow)
        while True:
            reply = await self.look(actor)
            if not (params.follow and call.more):
                return reply
            await call.reply(reply, continues=True)
            await asyncio.sleep(params.interval)

    async def allow(self, actor: Actor, rules: list[str]) -> None:
        """Give rules, each once; raises SpecInvalid, InvalidState."""
        record = actor.record
        for rule in rules:
            parse(rule)
        if not record.reaches_out:
            raise InvalidState(
                f"{record.name} has no way out to which a rule could be added",
                hint="start it with --egress and the rules, such as --egress " + ",".join(rules),
            )
        wanted = [*record.allowed, *(rule for rule in dict.fromkeys(rules) if rule not in record.egress)]
        if len(wanted) > MOST_ALLOWED:
            raise UsageError(
                f"{record.name} has {len(record.allowed)} rules given by hand already", hint="put them into its spec"
            )
        actor.post(ev.LimitsChanged(overrides=record.overrides, enforced=record.enforced, allowed=wanted))
        await actor.wait_until(lambda record: record.allowed == wanted)
        self.supervisor.push_routes()

    async def look(self, actor: Actor) -> m.NetReply:
        """As it is now."""
        record = actor.record
        flows = await self.supervisor.router.ways.look(record.id)
        offset = time.time() - time.monotonic()
        return m.NetReply(
            env=env_info(record, self.supervisor.base, ahead=self.supervisor.clock.ahead()),
            rules=record.egress if record.reaches_out else [],
            passages=[passage(one, offset) for one in flows.passages],
            total=flows.total,
            denied=flows.denied,
            sent=flows.sent,
            received=flows.received,
            incoming=self.supervisor.routes_of(record.id),
        )


def passage(one: Passage, offset: float) -> m.Passage:
    """As the protocol tells it. offset: of the wall clock from the monotonic one, which all processes share."""
    return m.Passage(
        number=one.number,
        name=one.name,
        address=one.address,
        port=one.port,
        state=one.state,
        reason=one.reason,
        rule=one.rule,
        allow=one.lacking,
        sent=one.sent,
        received=one.received,
        began=rfc3339(one.began + offset),
        direction="in" if one.incoming else "out",
    )
