"""A child made for whoever waits: who gets it, and what becomes of one that comes too late."""

import asyncio

import pytest

from sandboxd.errors import LaunchFailed
from sandboxd.launch.making import made_for

LOAD = (b"plan", [])


class Child:
    """Of a parked child, what is asked of it here."""

    killed = False

    def kill(self):
        self.killed = True


def test_what_it_will_be_sent_is_made_while_it_is_cloned():
    child, seen = Child(), []

    async def main():
        def ask(take):
            seen.append("asked")
            asyncio.get_running_loop().call_soon(take, child)

        def meanwhile():
            seen.append("made")
            return LOAD

        return await made_for(ask, meanwhile)

    assert asyncio.run(main()) == (child, LOAD)
    assert seen == ["asked", "made"]
    assert not child.killed


def test_what_kept_the_launcher_from_making_one_is_raised():
    async def main():
        await made_for(lambda take: take(LaunchFailed("no", step="launcher", errno=0)), lambda: LOAD)

    with pytest.raises(LaunchFailed, match="no"):
        asyncio.run(main())


@pytest.mark.parametrize("early", [True, False])
def test_a_child_is_killed_where_its_plan_cannot_be_made(early):
    child, takes = Child(), []

    async def main():
        def ask(take):
            takes.append(take)
            if early:
                take(child)

        with pytest.raises(ZeroDivisionError):
            await made_for(ask, lambda: 1 / 0)
        if not early:
            takes[0](child)

    asyncio.run(main())
    assert child.killed


@pytest.mark.parametrize("answer", ["child", "error"])
def test_what_comes_when_nobody_waits_any_more_stays_nowhere(answer):
    child, takes = Child(), []

    async def main():
        waiting = asyncio.ensure_future(made_for(takes.append, lambda: LOAD))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        takes[0](child if answer == "child" else LaunchFailed("late", step="launcher", errno=0))

    asyncio.run(main())
    assert child.killed == (answer == "child")
