"""Requests about templates: Register, Templates, Unregister, Ensure. One function each; `demand` does the work."""

import asyncio
import time

from msgspec.structs import replace

from sandboxd.daemon import building
from sandboxd.daemon.accepting import check_reach
from sandboxd.daemon.control import Call
from sandboxd.daemon.envs import EnvRequests
from sandboxd.daemon.making import checked_spec, handed_on, owner_of, record_of
from sandboxd.daemon.pooling import NO_ENV
from sandboxd.daemon.routes import is_asleep
from sandboxd.daemon.supervisor import Supervisor
from sandboxd.errors import InvalidState, NameTaken, QuotaExceeded, UsageError
from sandboxd.launch.parked import shape_for
from sandboxd.lifecycle import events as ev
from sandboxd.lifecycle import sharing
from sandboxd.lifecycle.demand import Template, is_warm, spec_of
from sandboxd.lifecycle.states import ENDED, State
from sandboxd.lifecycle.view import rfc3339
from sandboxd.protocol import messages as m
from sandboxd.routing.keys import cookie_name, cookie_value, named_key

MOST = 64  # templates of one user of many


class TemplateRequests:
    """The requests of this file."""

    def __init__(self, supervisor: Supervisor, envs: EnvRequests) -> None:
        self.supervisor = supervisor
        self.envs = envs

    def info(self, template: Template, *, whole: bool = False) -> m.TemplateInfo:
        """A template as replies show it."""
        rule, made, spec = template.rule, self.supervisor.demand.made_of(template.id), spec_of(template)
        name = f"KEY.{template.id}" if rule.keys == ["host"] else template.id
        ready = [record for record in made if record.state is State.READY and is_warm(record, spec)]
        return m.TemplateInfo(
            name=template.name,
            owner=template.owner,
            keys=rule.keys,
            create=rule.create,
            max=rule.max,
            per_user=rule.per_user,
            rate=rule.rate,
            warm=rule.warm,
            envs=sum(1 for record in made if record.key),
            warm_ready=len(ready),
            burst=rule.burst,
            burst_ready=self.supervisor.pooling.ready(template) if rule.burst else 0,
            url=f"http://{name}.{self.supervisor.base}",
            workspace=template.spec.workspace.path,
            created=rfc3339(template.created) or "",
            spec=template.spec if whole else None,
        )

    async def register(self, call: Call) -> m.RegisterReply:
        """Make a spec a template, or change the one of that name."""
        params = call.params
        assert isinstance(params, m.Register)
        owner = owner_of(call.peer, shared=self.supervisor.settings.shared)
        sharing.check(params.spec, owner, self.supervisor.settings.base_domain)
        spec, demand = checked_spec(params.spec, self.supervisor.settings.limits), self.supervisor.demand
        if spec.on_demand is None or spec.name is None:
            raise UsageError("a template needs a name and on_demand", hint='[on_demand] key = "cookie"')
        other = self.supervisor.by_name(owner.uid, spec.name)
        if other is not None:
            raise NameTaken(
                f"the name {spec.name} is taken by env {other.record.id[:12]} ({other.record.state.value})",
                hint=f"`sandbox rm -f {spec.name}` first: its envs on demand are others",
                id=other.record.id,
            )
        environ = handed_on(params.environ)
        record = record_of(spec, spec.name, environ, params.directory, owner)
        # What none of its envs could be made for is told to who registers it, not to each request.
        made = building.make_plan(self.supervisor, record, self.supervisor.rundir.env_dir(NO_ENV), [])
        accepted = check_reach(self.supervisor.journal, record, accept=params.accept) if params.accept is not None else []
        template = Template(
            name=spec.name,
            owner=record.owner,
            group=record.group,
            user=record.user,
            spec=spec,
            environ=environ,
            directory=params.directory,
            accepted=accepted,
            created=time.time(),
        )
        before = demand.templates.get(template.id)
        if before is not None and before.spec.workspace != spec.workspace:
            raise NameTaken(
                f"{spec.name} is a template of {before.spec.workspace.path or 'no directory'}",
                hint=f"choose another name, or `sandbox template rm {spec.name}` first",
            )
        if before is not None:
            template = replace(template, created=before.created)
        elif record.user and len([one for one in demand.templates.values() if one.owner == record.owner]) >= MOST:
            raise QuotaExceeded(f"{MOST} templates are there, which is all that one user may have", hint="sandbox template rm")
        self.supervisor.pooling.check(template)
        changed = template != before
        if changed:
            demand.register(template)
            self.supervisor.pooling.learn(template.id, shape_for(made))
            self.supervisor.pooling.tend()
            await self.supervisor.routes_told()
        return m.RegisterReply(template=self.info(template), changed=changed)

    async def templates(self, call: Call) -> m.TemplatesReply:
        """All, or one."""
        params = call.params
        assert isinstance(params, m.Templates)
        demand, uid = self.supervisor.demand, call.peer.sees
        if params.name is not None:
            return m.TemplatesReply(templates=[self.info(demand.find(uid, params.name), whole=True)])
        return m.TemplatesReply(templates=[self.info(template) for template in demand.of(uid)])

    async def unregister(self, call: Call) -> m.UnregisterReply:
        """Forget it, with all that was made of it."""
        params = call.params
        assert isinstance(params, m.Unregister)
        demand = self.supervisor.demand
        template = demand.find(call.peer.sees, params.name)
        keyed = [record.id for record in demand.made_of(template.id) if record.key]
        if keyed and not params.force:
            raise InvalidState(
                f"template {template.name} has {len(keyed)} envs",
                hint=f"`sandbox template rm -f {template.name}` removes them, too",
                state="used",
            )
        made = [record.id for record in demand.made_of(template.id)]
        await asyncio.shield(self.supervisor.own(demand.end(template, made), name=f"end-{template.id}"))  # who asked may leave
        await self.supervisor.routes_told()
        return m.UnregisterReply(removed=made)

    async def ensure(self, call: Call) -> m.EnsureReply:
        """The env of a key, made or woken if need be."""
        params = call.params
        assert isinstance(params, m.Ensure)
        demand = self.supervisor.demand
        template = demand.find(call.peer.sees, params.template)
        door = demand.door(template.id)
        key = named_key(door, params.key)
        if key is None:
            kinds = ", ".join(template.rule.keys)
            raise UsageError(f"{params.key[:80]!r} can be no key of {template.name}", hint=f"its keys are by {kinds}")
        actor, created = demand.obtain(template, key, None)
        if actor.record.state is State.SUSPENDED:
            actor.post(ev.ResumeAsked(by="request"))
            await actor.wait_until(lambda record: record.state is not State.SUSPENDED)
        elif actor.record.state in ENDED and (is_asleep(actor.record) or actor.record.error is None):
            actor.post(ev.StartAsked())
            await actor.wait_until(lambda record: record.state not in ENDED)
        record = await self.envs.progress(call, actor, params.wait, params.timeout)
        cookie = None
        if key.startswith("cookie:"):
            name, value = cookie_name(door, secure=False), cookie_value(door.secret, key.partition(":")[2])
            cookie = f"{name.decode()}={value.decode()}"
        return m.EnsureReply(env=replace(self.envs.info(record), key=key), created=created, cookie=cookie)
