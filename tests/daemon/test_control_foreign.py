"""Varlink clients that are not ours against the control server: introspection, calls, streams, typed errors, descriptors."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.toy import Toy, serving, threaded, under_uvloop
from tests.foreign import asyncvarlink, varlink

INTERFACE = "io.sandboxd.Control"


# -- varlink (blocking) ------------------------------------------------------------------------------------------------------


@pytest.fixture
def connection(tmp_path: Path) -> Any:
    path = tmp_path / "control.sock"
    with threaded(path), varlink.Client(address=f"unix:{path}") as client, client.open(INTERFACE) as connection:
        yield connection


def test_varlink_reads_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with threaded(path), varlink.Client(address=f"unix:{path}") as client:
        with client.open("org.varlink.service") as service:
            info = service.GetInfo()
            assert info["product"] == "sandboxd"
            assert info["interfaces"] == [INTERFACE, "org.varlink.service"]
            with pytest.raises(varlink.InterfaceNotFound):
                service.GetInterfaceDescription(interface="org.example.other")
        # It asks for each interface's description and parses it.
        assert set(client.get_interfaces()) == {INTERFACE, "org.varlink.service"}


def test_varlink_calls(connection: Any) -> None:
    assert [env["name"] for env in connection.List(filters=["a", "b"])["envs"]] == [f"a{os.getuid()}", f"b{os.getuid()}"]
    service = {"command": ["python3", "-m", "http.server"], "port": 8000, "expose": "http", "depends_on": []}
    spec = {"services": {"web": service}, "name": "shop", "limits": {"memory": 1 << 20}, "labels": {"k": "v"}}
    made = connection.Run(spec=spec, wait="ready", timeout=30)["env"]
    assert (made["name"], made["labels"]) == ("shop", {"k": "v"})
    assert made["spec"]["services"]["web"]["port"] == 8000
    assert made["spec"]["limits"]["memory"] == 1 << 20
    assert "exit_code" not in made or made["exit_code"] is None


def test_varlink_streams(connection: Any) -> None:
    replies = list(connection.Events(_more=True))
    assert [event["name"] for reply in replies for event in reply["events"]] == ["env-0", "env-1", "env-2"]
    assert connection.List()["envs"]


def test_varlink_oneway(connection: Any) -> None:
    assert connection.List(_oneway=True) is None
    assert connection.Inspect(target="after")["env"]["name"] == "after"


def test_varlink_errors(connection: Any) -> None:
    with pytest.raises(varlink.VarlinkError) as caught:
        connection.Inspect(target="missing")
    assert caught.value.error() == f"{INTERFACE}.NotFound"
    assert caught.value.parameters() == {
        "message": "no env `missing`",
        "hint": "`sandbox ps` lists them",
        "details": {"matches": []},
    }
    with pytest.raises(varlink.InvalidParameter) as wrong:
        connection.Run(spec={"services": {"web": {"command": 5}}})
    assert wrong.value.parameters() == {"parameter": "spec.services[...].command"}
    with pytest.raises(varlink.MethodNotImplemented):
        connection.Status()
    with pytest.raises(varlink.VarlinkError, match="ExpectedMore"):
        connection.Events()
    assert connection.List()["envs"]


# -- asyncvarlink --------------------------------------------------------------------------------------------------------------


class Missing(asyncvarlink.TypedVarlinkErrorReply, name=f"{INTERFACE}.NotFound"):
    class Parameters:
        message: str
        hint: str
        details: object


class InvalidParameter(asyncvarlink.TypedVarlinkErrorReply, interface="org.varlink.service"):
    class Parameters:
        parameter: str


def answers(name: str) -> Any:
    """Marks a stub, whose types asyncvarlink holds strictly to what goes and comes; only its signature is looked at."""
    return asyncvarlink.varlinkmethod(allow_foreign=True, return_parameter=name)


class Control(asyncvarlink.VarlinkInterface, name=INTERFACE):
    errors = (Missing, InvalidParameter)

    @answers("envs")  # type: ignore[untyped-decorator]
    async def List(self, *, all: bool = False, filters: list[str] | None = None) -> list[Any]:  # noqa: N802
        return []

    @answers("env")  # type: ignore[untyped-decorator]
    async def Inspect(self, *, target: str | None, directory: str | None) -> Any:  # noqa: N802
        return None

    @answers("env")  # type: ignore[untyped-decorator]
    async def Stop(self, *, target: int) -> Any:  # noqa: N802
        return None


def test_asyncvarlink_calls_and_typed_errors(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path / "s", Toy()):
            transport, protocol = await asyncvarlink.connect_unix_varlink(asyncvarlink.VarlinkClientProtocol, tmp_path / "s")
            try:
                control = protocol.make_proxy(Control)
                assert [env["name"] for env in (await control.List(filters=["a"]))["envs"]] == [f"a{os.getuid()}"]
                # It writes null for what is not given.
                assert (await control.Inspect(target="x", directory=None))["env"]["name"] == "x"
                assert (await control.List(all=None))["envs"]
                with pytest.raises(Missing) as caught:
                    await control.Inspect(target="missing", directory=None)
                assert caught.value.parameters["message"] == "no env `missing`"
                assert caught.value.parameters["details"] == {"matches": []}
                with pytest.raises(InvalidParameter) as wrong:
                    await control.Stop(target=5)
                assert wrong.value.parameters == {"parameter": "target"}
            finally:
                transport.close()
                await transport.closed_future

    under_uvloop(main())


def test_asyncvarlink_reads_what_there_is(tmp_path: Path) -> None:
    from asyncvarlink.serviceinterface import InterfaceNotFound, VarlinkServiceInterface

    async def main() -> None:
        async with serving(tmp_path / "s", Toy()):
            transport, protocol = await asyncvarlink.connect_unix_varlink(asyncvarlink.VarlinkClientProtocol, tmp_path / "s")
            try:
                service = protocol.make_proxy(VarlinkServiceInterface)
                assert (await service.GetInfo())["vendor"] == "sandboxd"
                assert "method Run(" in await _description(service, INTERFACE)
                with pytest.raises(InterfaceNotFound):
                    await _description(service, "a.b")
            finally:
                transport.close()
                await transport.closed_future

    under_uvloop(main())


async def _description(service: Any, interface: str) -> str:
    return str((await service.GetInterfaceDescription(interface=interface))["description"])


def test_asyncvarlink_streams(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path / "s", Toy()):
            transport, protocol = await asyncvarlink.connect_unix_varlink(asyncvarlink.VarlinkClientProtocol, tmp_path / "s")
            try:
                call = asyncvarlink.VarlinkMethodCall(f"{INTERFACE}.Events", {"follow": None}, more=True)
                names = []
                async for reply, _ in protocol.call_more(call):
                    events: Any = reply.parameters["events"]
                    names += [event["name"] for event in events]
                    if not reply.continues:
                        break
                assert names == ["env-0", "env-1", "env-2"]
            finally:
                transport.close()
                await transport.closed_future

    under_uvloop(main())


def test_asyncvarlink_takes_descriptors(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path / "s", Toy()):
            transport, protocol = await asyncvarlink.connect_unix_varlink(asyncvarlink.VarlinkClientProtocol, tmp_path / "s")
            try:
                call = asyncvarlink.VarlinkMethodCall(f"{INTERFACE}.Exec", {"target": "a", "argv": ["hi"]}, more=True)
                seen = []
                async for reply, fds in protocol.call_more(call):
                    seen.append(reply.parameters["exit_code"])
                    if fds:
                        (fd,) = fds
                        assert os.read(fd.fileno(), 10) == b"hi"
                    if not reply.continues:
                        break
                assert seen == [None, 7]
            finally:
                transport.close()
                await transport.closed_future

    under_uvloop(main())
