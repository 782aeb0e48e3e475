"""The real daemon through varlink clients that are not ours: list, create, stream events, meet errors, clean up."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from sandboxd.protocol.messages import INTERFACE
from tests.daemons import Daemon
from tests.foreign import asyncvarlink, varlink

PATIENCE = 60.0


def spec(name: str) -> dict[str, Any]:
    return {"name": name, "services": {"main": {"command": ["sleep", "1000"]}}}


# -- varlink (blocking) ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(daemon: Daemon) -> Iterator[Any]:
    with varlink.Client(address=f"unix:{daemon.dir}/control.sock") as client, client.open(INTERFACE) as connection:
        yield connection


def test_varlink_makes_lists_and_removes_an_env(shared_daemon: Daemon) -> None:
    with opened(shared_daemon) as control:
        status = control.Status()
        assert status["dir"] == str(shared_daemon.dir)
        made = control.Run(spec=spec("one"), wait="started")["env"]
        assert made["name"] == "one"
        assert [env["id"] for env in control.List(filters=["name=one"])["envs"]] == [made["id"]]
        seen = control.Inspect(target="one")["env"]
        assert seen["spec"]["services"]["main"]["command"] == ["sleep", "1000"]
        assert seen["services"][0]["name"] == "main"
        removed = control.Remove(target="one", force=True)
        assert removed["id"] == made["id"]
        assert not removed["receipt"].get("leaked")
        assert control.List(all=True, filters=["name=one"])["envs"] == []


def test_varlink_streams_events(shared_daemon: Daemon) -> None:
    with opened(shared_daemon) as events, opened(shared_daemon) as control:
        stream = events.Events(follow=True, _more=True)
        next(stream)  # what was before: from here on nothing is missed
        env = control.Run(spec=spec("two"), wait="started")["env"]
        control.Remove(target="two", force=True)
        happened: list[str] = []
        for reply in stream:
            happened += [event["event"] for event in reply["events"] if event["id"] == env["id"]]
            if "removed" in happened:
                break
        stream.close()
        assert happened[0] == "created"
        assert "started" in happened or "ready" in happened


def test_varlink_meets_typed_errors(shared_daemon: Daemon) -> None:
    with opened(shared_daemon) as control:
        with pytest.raises(varlink.VarlinkError) as caught:
            control.Inspect(target="nobody")
        assert caught.value.error() == f"{INTERFACE}.NotFound"
        assert "nobody" in caught.value.parameters()["message"]
        assert caught.value.parameters()["hint"]
        with pytest.raises(varlink.VarlinkError) as unlaunchable:
            control.Run(spec={"name": "none", "services": {"main": {"command": ["no-such-command-at-all"]}}}, wait="started")
        assert unlaunchable.value.error() == f"{INTERFACE}.CommandNotFound"
        with pytest.raises(varlink.InvalidParameter) as wrong:
            control.Run(spec={"services": {"main": {"command": "x", "port": 70000}}})
        assert wrong.value.parameters()["parameter"] == "spec.services[...].port"


def test_varlink_runs_a_command_in_band(shared_daemon: Daemon) -> None:
    """It cannot take descriptors: output comes in the replies."""
    import base64

    with opened(shared_daemon) as control:
        control.Run(spec=spec("inband"), wait="started")
        try:
            replies = list(control.Exec(target="inband", argv=["sh", "-c", "echo out; echo err >&2; exit 3"], _more=True))
            said = {"stdout": b"", "stderr": b""}
            for reply in replies[1:-1]:
                said[reply["stream"]] += base64.b64decode(reply["data"])
            assert said == {"stdout": b"out\n", "stderr": b"err\n"}
            assert replies[-1]["exit_code"] == 3
        finally:
            control.Remove(target="inband", force=True)


# -- asyncvarlink --------------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def connected(daemon: Daemon) -> AsyncIterator[Any]:
    transport, protocol = await asyncvarlink.connect_unix_varlink(
        asyncvarlink.VarlinkClientProtocol, daemon.dir / "control.sock"
    )
    try:
        yield protocol
    finally:
        transport.close()
        await transport.closed_future


async def ask(protocol: Any, method: str, **parameters: Any) -> Any:
    """One call; raises what came instead."""
    reply, _ = await protocol.call(asyncvarlink.VarlinkMethodCall(f"{INTERFACE}.{method}", parameters))
    if reply.error:
        raise asyncvarlink.GenericVarlinkErrorReply(reply.error, reply.parameters)
    return reply.parameters


def test_asyncvarlink_does_all_of_it(shared_daemon: Daemon) -> None:
    async def main() -> None:
        async with connected(shared_daemon) as protocol, connected(shared_daemon) as watching:
            happened: list[str] = []
            listening = asyncio.Event()

            async def watch() -> None:
                call = asyncvarlink.VarlinkMethodCall(f"{INTERFACE}.Events", {"follow": True}, more=True)
                async for reply, _ in watching.call_more(call):
                    happened.extend(event["event"] for event in reply.parameters["events"] if event["name"] == "three")
                    listening.set()
                    if "removed" in happened:
                        return

            watcher = asyncio.create_task(watch())
            await listening.wait()
            made = (await ask(protocol, "Run", spec=spec("three"), wait="started"))["env"]
            assert made["name"] == "three"
            assert [env["name"] for env in (await ask(protocol, "List", filters=["name=three"]))["envs"]] == ["three"]
            with pytest.raises(asyncvarlink.GenericVarlinkErrorReply, match="NameTaken"):
                await ask(protocol, "Run", spec=spec("three"))
            assert not (await ask(protocol, "Remove", target="three", force=True))["receipt"]["leaked"]
            await watcher
            assert happened[0] == "created"

    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE):
            await main()

    asyncio.run(bounded())


def test_asyncvarlink_takes_a_commands_pipes(shared_daemon: Daemon) -> None:
    import os

    async def main() -> None:
        async with connected(shared_daemon) as protocol:
            await ask(protocol, "Run", spec=spec("piped"), wait="started")
            try:
                call = asyncvarlink.VarlinkMethodCall(
                    f"{INTERFACE}.Exec", {"target": "piped", "argv": ["echo", "hello"], "fds": True}, more=True
                )
                said, codes = b"", []
                async for reply, fds in protocol.call_more(call):
                    if fds:
                        by_name = dict(zip(reply.parameters["fds"], fds, strict=True))
                        while data := await asyncio.to_thread(os.read, by_name["stdout"].fileno(), 100):
                            said += data
                    codes.append(reply.parameters["exit_code"])
                    if not reply.continues:
                        break
                assert said == b"hello\n"
                assert codes == [None, 0]
            finally:
                await ask(protocol, "Remove", target="piped", force=True)

    asyncio.run(main())
