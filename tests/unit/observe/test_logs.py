"""Reading and following logs: merged, cut to what was asked, told of by the kernel, bounded, and leaving nothing behind."""

import asyncio
import contextlib
import os
import shutil
from pathlib import Path

import pytest
import uvloop

from sandboxd.observe import logs as module
from sandboxd.observe.logs import follow, read_logs
from sandboxd.observe.watches import watches
from tests.unit.observe.writer import Writer

START = 1_700_000_000
uvloop.new_event_loop().close()  # libuv keeps one pipe per process, from its first loop on: no leak of a test's


@pytest.fixture
def writers(tmp_path):
    found = [Writer(tmp_path, name, start=START * 10**9) for name in ("web", "db")]
    yield found
    for writer in found:
        writer.close()


def words(lines) -> list[str]:
    return [line.text for line in lines]


def test_services_are_merged_by_time(tmp_path, writers):
    web, db = writers
    for number in range(10):
        (web if number % 3 else db).write(f"{number}", at=START * 10**9 + number)
    lines = read_logs(tmp_path, ["web", "db"])
    assert words(lines) == [str(number) for number in range(10)]
    assert [line.service for line in lines][:4] == ["db", "web", "web", "db"]
    assert lines[0].time == "2023-11-14T22:13:20.000000000Z"
    assert words(read_logs(tmp_path, ["db"])) == ["0", "3", "6", "9"]


def test_streams_and_parts_are_told(tmp_path, writers):
    writers[0].write("half", tag="P", stream="stderr")
    [line] = read_logs(tmp_path, ["web"])
    assert (line.stream, line.partial) == ("stderr", True)


@pytest.mark.parametrize(
    ("tail", "kept"), [(0, []), (1, ["9"]), (3, ["7", "8", "9"]), (99, [str(number) for number in range(10)])]
)
def test_the_tail_is_of_all_services_together(tmp_path, writers, tail, kept):
    for number in range(10):
        writers[number % 2].write(f"{number}", at=START * 10**9 + number)
    assert words(read_logs(tmp_path, ["web", "db"], tail=tail)) == kept


def test_since_is_seconds_since_the_epoch(tmp_path, writers):
    for number in range(10):
        writers[number % 2].write(f"{number}", at=(START + number) * 10**9)
    assert words(read_logs(tmp_path, ["web", "db"], since=START + 7)) == ["7", "8", "9"]
    assert words(read_logs(tmp_path, ["web", "db"], since=START + 7, tail=1)) == ["9"]
    assert words(read_logs(tmp_path, ["web", "db"], since=START + 99)) == []
    assert words(read_logs(tmp_path, ["web", "db"], since=0)) == [str(number) for number in range(10)]


def test_no_logs_are_no_lines(tmp_path):
    assert read_logs(tmp_path / "no", ["web"]) == []
    assert read_logs(tmp_path, []) == []


def test_a_reading_is_bounded_and_keeps_the_newest(tmp_path, writers, monkeypatch):
    monkeypatch.setattr(module, "MAX_HISTORY", 200_000)
    for number in range(20_000):
        writers[0].write(f"{number}")
    lines = read_logs(tmp_path, ["web"])
    assert lines[-1].text == "19999"
    assert 200_000 < sum(len(line.text) + 41 for line in lines) < 400_000


def test_batches_fit_a_frame(writers, tmp_path):
    for _ in range(100):
        writers[0].write("\x01" * 16_000)

    async def scenario() -> list[int]:
        ended = asyncio.Event()
        ended.set()
        return [sum(len(line.text) for line in batch) async for batch in follow(tmp_path, ["web"], ended=ended)]

    sizes = uvloop.run(scenario())
    assert sum(sizes) > 500_000
    assert max(sizes) * 6 < 1 << 20


# -- following -----------------------------------------------------------------------------------------------------------


class Follower:
    """A follower in a task, for tests."""

    def __init__(self, directory: Path, services: list[str], **more) -> None:
        self.ended = asyncio.Event()
        self.lines: list[str] = []
        self.came = asyncio.Event()
        self.task = asyncio.ensure_future(self.run(directory, services, **more))

    async def run(self, directory: Path, services: list[str], **more) -> None:
        async with contextlib.aclosing(follow(directory, services, ended=self.ended, **more)) as batches:
            async for batch in batches:
                self.lines += words(batch)
                self.came.set()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(20):
            while len(self.lines) < count:
                self.came.clear()
                await self.came.wait()

    async def stop(self) -> None:
        self.ended.set()
        async with asyncio.timeout(20):
            await self.task


RUNNERS = [asyncio.run, uvloop.run]


@pytest.mark.parametrize("run", RUNNERS, ids=["asyncio", "uvloop"])
def test_what_comes_is_told(tmp_path, writers, run):
    async def scenario() -> list[str]:
        writers[0].write("before")
        follower = Follower(tmp_path, ["web", "db"])
        await follower.until(1)
        for number in range(5):
            writers[number % 2].write(f"{number}")
            await follower.until(number + 2)
        await follower.stop()
        return follower.lines

    assert run(scenario()) == ["before", "0", "1", "2", "3", "4"]


@pytest.mark.parametrize("run", RUNNERS, ids=["asyncio", "uvloop"])
def test_what_is_written_just_before_the_end_is_told(tmp_path, writers, run):
    async def scenario() -> list[str]:
        follower = Follower(tmp_path, ["web"])
        await asyncio.sleep(0)
        writers[0].write("last words")
        await follower.stop()
        return follower.lines

    assert run(scenario()) == ["last words"]


def test_a_follower_of_an_ended_env_tells_all_and_ends(tmp_path, writers):
    async def scenario() -> list[str]:
        for number in range(2000):
            writers[0].write(f"{number}")
        follower = Follower(tmp_path, ["web"])
        await follower.stop()
        return follower.lines

    assert uvloop.run(scenario()) == [str(number) for number in range(2000)]


def test_tail_and_since_hold_for_the_past_only(tmp_path, writers):
    async def scenario() -> list[str]:
        for number in range(10):
            writers[0].write(f"{number}")
        follower = Follower(tmp_path, ["web"], tail=2)
        await follower.until(2)
        writers[0].write("new")
        await follower.until(3)
        await follower.stop()
        nothing = Follower(tmp_path, ["web"], tail=0)
        await nothing.stop()
        return follower.lines + nothing.lines

    assert uvloop.run(scenario()) == ["8", "9", "new"]


def test_a_service_that_starts_later_is_followed_too(tmp_path):
    async def scenario() -> list[str]:
        follower = Follower(tmp_path, ["late"])
        await asyncio.sleep(0)
        writer = Writer(tmp_path, "late")
        writer.write("hello")
        await follower.until(1)
        writer.close()
        await follower.stop()
        return follower.lines

    assert uvloop.run(scenario()) == ["hello"]


@pytest.mark.parametrize("run", RUNNERS, ids=["asyncio", "uvloop"])
def test_a_busy_writer_that_swaps_is_followed_in_order(tmp_path, run):
    """A writer in a thread of its own, files far smaller than what it writes: what is lost is lost in whole stretches."""
    writer = Writer(tmp_path, "web", limit=20_000)

    def write() -> None:
        for number in range(20_000):
            writer.write(f"{number}")

    async def scenario() -> list[int]:
        follower = Follower(tmp_path, ["web"])
        await asyncio.sleep(0)
        await asyncio.to_thread(write)
        await follower.stop()
        return [int(text) for text in follower.lines]

    found = run(scenario())
    writer.close()
    assert found == sorted(set(found))
    assert found[-1] == 19_999


def test_a_removed_env_ends_its_followers(tmp_path):
    directory = tmp_path / "logs"
    directory.mkdir()

    async def scenario() -> None:
        follower = Follower(directory, ["web"])
        await asyncio.sleep(0)
        shutil.rmtree(directory)
        async with asyncio.timeout(20):
            await follower.task
        gone = Follower(directory, ["web"])
        async with asyncio.timeout(20):
            await gone.task

    uvloop.run(scenario())


def test_followers_share_one_inotify_instance_and_leave_none(tmp_path, writers):
    async def scenario() -> tuple[int, int]:
        followers = [Follower(tmp_path, ["web"]) for _ in range(200)]
        await asyncio.sleep(0)
        writers[0].write("to all")
        for follower in followers:
            await follower.until(1)
        during = sum("inotify" in link for link in links())
        for follower in followers[:100]:
            await follower.stop()
        writers[0].write("to the rest")
        for follower in followers[100:]:
            await follower.until(2)
        for follower in followers[100:150]:
            follower.task.cancel()
        await asyncio.gather(*(follower.task for follower in followers[100:150]), return_exceptions=True)
        for follower in followers[150:]:
            await follower.stop()
        assert watches()._fd == -1
        return during, sum("inotify" in link for link in links())

    assert uvloop.run(scenario()) == (1, 0)


def links() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    return found
