"""A router and stand-in envs for each test that asks; both are gone afterwards."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import uvloop

from sandboxd.routing.framing import Bounds
from tests.router.standin import Bench, Standin


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[Callable[..., Standin]]:
    """Make stand-in envs by name."""
    made: list[Standin] = []

    def make(name: str, **options: Any) -> Standin:
        made.append(Standin(name, tmp_path / "envs" / name, **options))
        return made[-1]

    yield make
    for env in made:
        env.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Start a router with bounds of one's own."""
    made: list[Bench] = []

    def make(*, workers: int = 1, listen: Sequence[str] = ("127.0.0.1:0",), **bounds: Any) -> Bench:
        directory = tmp_path / f"state{len(made)}"
        directory.mkdir()
        made.append(Bench(directory, bounds=Bounds(**bounds), listen=listen, workers=workers))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
def bench(start: Callable[..., Bench]) -> Bench:
    """A router."""
    return start()


@pytest.fixture
def shop(bench: Bench, standin: Callable[..., Standin]) -> Standin:
    """An env named shop, routed."""
    env = standin("shop")
    bench.push([env.endpoint()])
    return env


@pytest.fixture(scope="session", autouse=True)
def _libuv_warm() -> None:
    """Libuv makes one pipe for signals per process, at its first loop, and keeps it: no leak of a test's."""

    async def nothing() -> None:
        return

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(nothing())
