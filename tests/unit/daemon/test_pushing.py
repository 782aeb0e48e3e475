"""When the router is told: at once, but of an env that is being launched a moment later."""

import asyncio
from types import SimpleNamespace

from sandboxd.daemon.pushing import LAUNCHING, Pushing
from sandboxd.lifecycle.records import EnvRecord, ServiceRecord
from sandboxd.spec import EnvSpec, Service


class Router:
    """Writes down what it is told."""

    listen = ("127.0.0.1:7070",)

    def __init__(self):
        self.told = []
        self.ways = SimpleNamespace(push=lambda *_, **__: None, is_told=True)

    def change(self, change):
        self.told.append(change)
        return True

    def push(self, table):
        self.told.append(table)


def made(tmp_path):
    spec = EnvSpec(services={"web": Service(command="x")})
    record = EnvRecord(id="e", name="n", owner=1, group=1, spec=spec, services={"web": ServiceRecord(name="web")}, created=0.0)
    supervisor = SimpleNamespace(
        started=1.0,
        rundir=SimpleNamespace(envs_dir=tmp_path),
        adopted=True,
        coming={},
        web=None,
        actors={"e": SimpleNamespace(record=record)},
        demand=SimpleNamespace(doors=dict),
        settings=SimpleNamespace(base_domain="localhost", hold=1.0, resolvers=[]),
        router=Router(),
    )
    pushing = Pushing(supervisor)
    pushing.note(None, is_coming=False)
    pushing.push()
    supervisor.router.told.clear()
    supervisor.actors["f"] = SimpleNamespace(record=EnvRecord(id="f", name="m", **{**fields(record)}))
    return pushing, supervisor.router.told


def fields(record):
    return {name: getattr(record, name) for name in ("owner", "group", "spec", "services", "created")}


def test_of_a_launch_the_router_hears_later_or_with_the_next_change(tmp_path):
    async def main():
        pushing, told = made(tmp_path)
        pushing.note("f", is_coming=True)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not told
        pushing.note("e", is_coming=False)
        for _ in range(5):
            await asyncio.sleep(0)
        assert [change.routes.keys() for change in told] == [{"m.localhost", "web.m.localhost", "f.localhost"}]

    asyncio.run(main())


def test_it_hears_at_once_where_somebody_is_to_be_answered(tmp_path):
    async def main():
        pushing, told = made(tmp_path)
        pushing.note("f", is_coming=True)
        pushing.push()
        assert len(told) == 1
        await asyncio.sleep(2 * LAUNCHING)
        assert len(told) == 1, "once"

    asyncio.run(main())


def test_it_hears_of_a_launch_that_takes_long(tmp_path):
    async def main():
        pushing, told = made(tmp_path)
        pushing.note("f", is_coming=True)
        async with asyncio.timeout(20):
            while not told:  # noqa: ASYNC110 - the loop's own timer tells
                await asyncio.sleep(LAUNCHING)

    asyncio.run(main())
