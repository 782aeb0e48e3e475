"""Places made ahead: taken once, named for good when claimed, gone when given up."""

import asyncio
import os

import pytest

from sandboxd.daemon.berths import Berths
from sandboxd.launch.doorway import connect_to
from sandboxd.settings import Settings
from sandboxd.store.rundir import prepare


@pytest.fixture
def rundir(tmp_path):
    rundir = prepare(Settings.from_environ({"SANDBOXD_DIR": str(tmp_path / "s")}, os.getuid()))
    yield rundir
    rundir.close(unlink=True)


def names(rundir):
    return sorted(os.listdir(rundir.envs_dir))


async def filled(berths, rundir, count):
    berths.fill_soon()
    async with asyncio.timeout(20):
        while len(names(rundir)) < count:  # noqa: ASYNC110 - the loop's own timer fills them
            await asyncio.sleep(0.01)


def test_a_place_is_claimed_under_its_id_and_the_rest_given_up(rundir):
    async def main():
        berths = Berths(rundir, 2)
        await filled(berths, rundir, 2)
        assert all(name.startswith(".ready-") for name in names(rundir))
        env_id = berths.take_id()
        berth = berths.claim(env_id)
        assert berth is not None
        assert berths.claim(env_id) is None
        directory = rundir.env_dir(env_id)
        assert sorted(os.listdir(directory)) == ["dial.sock", "exits", "home", "init.sock", "logs"]
        with connect_to(directory, "init.sock"):
            pass
        berth.close()
        berths.close()
        assert names(rundir) == [env_id]

    asyncio.run(main())


def test_none_is_made_ahead_while_many_wait_for_theirs(rundir):
    async def main():
        asked = []

        def is_crowded():
            asked.append(names(rundir))
            return len(asked) < 3

        berths = Berths(rundir, 1, is_crowded)
        await filled(berths, rundir, 1)
        assert asked == [[], [], []]
        berths.close()

    asyncio.run(main())


def test_without_a_place_there_is_still_an_id(rundir):
    async def main():
        berths = Berths(rundir, 0)
        env_id = berths.take_id()
        assert len(bytes.fromhex(env_id)) == 16
        assert berths.claim(env_id) is None
        berths.close()

    asyncio.run(main())


def test_places_of_a_killed_daemon_are_swept(tmp_path):
    settings = Settings.from_environ({"SANDBOXD_DIR": str(tmp_path / "s")}, os.getuid())
    first = prepare(settings)
    first.prepare_env_dir("a" * 32)
    first.close()
    second = prepare(settings)
    assert names(second) == []
    second.close(unlink=True)


def test_what_is_too_many_is_given_up(rundir):
    async def main():
        berths = Berths(rundir, 3)
        await filled(berths, rundir, 3)
        berths.resize(1)
        assert len(names(rundir)) == 1
        berths.resize(2)
        await filled(berths, rundir, 2)
        berths.close()

    asyncio.run(main())
    assert names(rundir) == []


def test_the_place_of_an_env_that_is_never_launched_goes_with_it(rundir):
    async def main():
        berths = Berths(rundir, 1)
        await filled(berths, rundir, 1)
        before = len(os.listdir("/proc/self/fd"))
        env_id = berths.take_id()
        berths.resize(0)  # or another would be made meanwhile
        assert names(rundir) == [f".ready-{env_id}"]
        berths.give_up(env_id)
        berths.give_up(env_id)
        assert names(rundir) == []
        assert berths.ids() == set()
        assert len(os.listdir("/proc/self/fd")) == before - 5  # its two sockets, its exits and its two logs
        berths.close()

    asyncio.run(main())
