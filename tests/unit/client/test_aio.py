"""The awaitable client against a toy server in the same loop, under asyncio's own loop and under uvloop."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop

from sandboxd.client import AsyncClient
from sandboxd.client.aio import run_to_end
from sandboxd.errors import DaemonUnreachable, KernelError, NotFound, TimedOut
from sandboxd.protocol import messages as m
from tests.daemon.toy import PATIENCE, Toy, serving, settle

Runner = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Runner:
    def runner(main: Coroutine[Any, Any, None]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(PATIENCE):
                await main

        (uvloop.run if request.param == "uvloop" else asyncio.run)(bounded())

    return runner


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


def test_calls_and_errors(run: Runner, path: Path) -> None:
    async def main() -> None:
        async with serving(path, Toy()), AsyncClient(path, autostart=False) as client:
            assert [env.name for env in (await client.call(m.List(filters=["a"]))).envs] == [f"a{os.getuid()}"]
            with pytest.raises(NotFound, match="no env `missing`"):
                await client.call(m.Inspect(target="missing"))
            assert len(client._idle) == 1
            assert len((await client.call(m.Inspect(target="big"))).env.name) == 8 << 20

    run(main())


def test_calls_at_the_same_time_do_not_wait_for_each_other(run: Runner, path: Path) -> None:
    async def main() -> None:
        toy = Toy()
        async with serving(path, toy), AsyncClient(path, autostart=False) as client:
            slow = asyncio.create_task(_name(client, "slow"))
            await toy.began.wait()
            names = await asyncio.gather(*(_name(client, f"n{number}") for number in range(20)))
            assert names == [f"n{number}" for number in range(20)]
            toy.go.set()
            assert await slow == "slow"

    run(main())


async def _name(client: AsyncClient, target: str) -> str:
    return (await client.call(m.Inspect(target=target))).env.name


def test_a_stream_and_leaving_one(run: Runner, path: Path) -> None:
    async def main() -> None:
        toy = Toy()
        async with serving(path, toy) as server, AsyncClient(path, autostart=False) as client:
            names = [event.name async for reply in client.stream(m.Events()) for event in reply.events]
            assert names == ["env-0", "env-1", "env-2"]
            async with contextlib.aclosing(client.stream(m.Events(follow=True))) as stream:  # type: ignore[type-var]
                async for reply in stream:
                    assert len(reply.events) == 500
                    break
            await toy.cancelled.wait()
            await settle(lambda: len(server) == 0)

    run(main())


def test_cancelling_a_call_cancels_it_in_the_daemon(run: Runner, path: Path) -> None:
    async def main() -> None:
        toy = Toy()
        async with serving(path, toy) as server, AsyncClient(path, autostart=False) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await client.call(m.Stop(target="a"))
            await toy.cancelled.wait()
            await settle(lambda: len(server) == 0)

    run(main())


def test_a_session(run: Runner, path: Path) -> None:
    async def main() -> None:
        toy = Toy()
        async with serving(path, toy), AsyncClient(path, autostart=False) as client:
            async with await client.open(m.Exec(target="a", argv=["hello"])) as session:
                assert (session.session, session.first.fds) == ("s", ["stdout"])
                assert os.read(session.fds["stdout"], 100) == b"hello"
                assert [reply.exit_code async for reply in session.replies()] == [7]
                assert (await session.wait()).exit_code == 7
            with pytest.raises(KernelError):
                await client.open(m.Exec(target="a", argv=["bad"]))
            session = await client.open(m.Exec(target="a", argv=["wait"]))
            session.close()
            await toy.cancelled.wait()

    run(main())


def test_a_session_to_its_end(run: Runner, path: Path) -> None:
    async def main() -> None:
        toy = Toy()
        async with serving(path, toy), AsyncClient(path, autostart=False) as client:
            async with await client.open(m.Exec(target="a", argv=["hello"])) as session:
                done = await run_to_end(session, b"ignored", None)
            assert (done.exit_code, done.text) == (7, "hello")
            with pytest.raises(TimedOut, match="still ran after"):
                async with await client.open(m.Exec(target="a", argv=["wait"])) as session:
                    await run_to_end(session, None, 0.05)
            await toy.cancelled.wait()

    run(main())


def test_a_connection_that_ended_meanwhile_is_not_used(run: Runner, path: Path) -> None:
    async def main() -> None:
        async with AsyncClient(path, autostart=False) as client:
            for _ in range(2):
                async with serving(path, Toy()):
                    await client.call(m.List())
                os.unlink(path)
            with pytest.raises(DaemonUnreachable, match="nothing listens"):
                await client.call(m.List())

    run(main())


def test_a_full_backlog_is_waited_for(run: Runner, path: Path) -> None:
    """A non-blocking connect gives EAGAIN then (connect(2)); a thread waits."""

    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
            listener.bind(str(path))
            listener.listen(0)
            with contextlib.suppress(BlockingIOError):
                while True:
                    filler = stack.enter_context(socket.socket(socket.AF_UNIX))
                    filler.setblocking(False)
                    filler.connect(str(path))
            async with AsyncClient(path, autostart=False) as client:
                asking = asyncio.create_task(_name(client, "x"))
                await asyncio.sleep(0.05)
                assert not asking.done()
                toy = Toy()
                from sandboxd.daemon.control import ControlServer

                server = ControlServer(listener, toy.handlers)
                await server.start()
                assert await asking == "x"
                await server.stop()

    run(main())
