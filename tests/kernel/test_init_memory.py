"""What an init costs: the private memory it adds to a forked Python, and that it does not grow."""

import asyncio
import contextlib

from sandboxd.kernel.fds import close_all
from sandboxd.kernel.heap import trim
from sandboxd.launch import warm
from sandboxd.launch.initlink import ServiceExited, SessionExited
from tests.kernel.inits import Env, connected, program, run, shell, start, until

LINES = "i=0; while [ $i -lt 1000 ]; do echo line $i of the output of this service; i=$((i+1)); done; sleep 1000"
AIM = 1300  # KiB: 1.2 MiB, and what the layout of the heap makes of it from run to run


def test_private_memory_after_a_thousand_lines(init_env) -> None:
    env: Env = init_env({"web": shell(LINES)})

    async def main() -> None:
        async with connected(env) as (link, _):
            await until(lambda: env.text("web").count(b"\n") == 1000)
            await link.status()
            with contextlib.suppress(TimeoutError):  # a second after its start it gives back what that took
                async with asyncio.timeout(10):
                    await until(lambda: env.private_kib() - env.private_before <= AIM)
            added = env.private_kib() - env.private_before
            assert added <= AIM, f"init added {added} KiB to the {env.private_before} KiB of the process it was forked as"

    run(main())


def test_memory_does_not_grow_with_use(init_env) -> None:
    env: Env = init_env(log_limit=1 << 20)

    async def use(rounds: int) -> None:
        async with connected(env) as (link, heard):
            for number in range(rounds):
                opened = await link.exec(program("true"))
                close_all(list(opened.fds.values()))
                await heard.wait(SessionExited, lambda event, opened=opened: event.session == opened.session)
                if number % 50 == 0:
                    await start(env, link, "web", shell("seq 1 20000", tty=number % 100 == 0))
                    await heard.wait(ServiceExited)
                heard.events.clear()

    run(use(400))
    grown = []
    for _ in range(4):  # on a busy machine a backlog takes room once, in one phase or another; a leak does in each
        before = env.private_kib()
        run(use(400))
        grown.append(env.private_kib() - before)
        if grown[-1] <= 300:  # a leak of one object a round is more
            return
    raise AssertionError(f"init grew by {grown} KiB in so many phases of 400 rounds")


def test_trim_can_be_called() -> None:
    trim()


def test_the_rehearsal_runs_and_leaves_nothing() -> None:
    """Leaves nothing: that is the leak fixture's to see."""
    warm.live()
    warm.warm()
