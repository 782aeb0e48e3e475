"""The SDK against the real daemon, both colours; and the start of a real daemon by its first client."""

import asyncio
import os
from pathlib import Path

import pytest

from sandboxd.client import AsyncClient, Client, CommandFailed, Limits
from sandboxd.errors import CommandNotFound, DaemonUnreachable, NameTaken, NotFound, SpecInvalid, TimedOut
from sandboxd.protocol.messages import Status
from tests.daemons import Daemon

SERVER = "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8000, bind='127.0.0.1')"


def test_an_env_from_a_script(shared_daemon: Daemon) -> None:
    with Client(shared_daemon.dir / "control.sock", autostart=False) as client:
        with client.run(["python3", "-c", SERVER], name="served", port=8000, wait="ready", timeout=60) as env:
            assert env.state == "ready"
            assert env.url
            assert shared_daemon.request("served")[0] == 200
            assert [found.id for found in client.list(filters=["name=served"])] == [env.id]
            assert client.get("served").id == env.id
            with pytest.raises(NameTaken):
                client.run("true", name="served")
        with pytest.raises(NotFound):
            env.refresh()


def test_commands_in_an_env(shared_daemon: Daemon) -> None:
    with (
        Client(shared_daemon.dir / "control.sock", autostart=False) as client,
        client.run(["sleep", "1000"], name="cmds", env={"GREETING": "hi"}, limits=Limits(pids=64)) as env,
    ):
        done = env.exec(["sh", "-c", "echo $GREETING; echo no >&2; exit 3"])
        assert (done.exit_code, done.stdout, done.stderr) == (3, b"hi\n", b"no\n")
        assert env.exec(["wc", "-c"], input=b"x" * 1_000_000).text.strip() == "1000000"
        assert len(env.exec(["head", "-c", "3000000", "/dev/zero"]).stdout) == 3_000_000
        assert env.exec(["true"], input=b"x" * 1_000_000).exit_code == 0
        assert env.exec(["pwd"], workdir="/tmp", env={"A": "b"}).text == "/tmp\n"
        with pytest.raises(CommandFailed, match="no"):
            env.exec(["sh", "-c", "echo no >&2; exit 1"], check=True)
        with pytest.raises(CommandNotFound):
            env.exec(["no-such-command-at-all"])
        with pytest.raises(TimedOut):
            env.exec(["sleep", "1000"], timeout=0.2)
        # A child in the background keeps the pipes; the command's end is the end all the same.
        assert env.exec(["sh", "-c", "sleep 1000 & echo started"]).text == "started\n"


def test_life_and_logs(shared_daemon: Daemon) -> None:
    with (
        Client(shared_daemon.dir / "control.sock", autostart=False) as client,
        client.run("echo one; echo two >&2; exit 5", name="life") as env,
    ):
        assert env.wait("stopped", timeout=60).exit_code == 5
        lines = sorted((line.text, line.stream) for line in env.logs())
        assert lines == [("one", "stdout"), ("two", "stderr")]
        assert next(line.text for line in env.logs(follow=True, tail=1)) in ("one", "two")
        assert env.start().id == env.id
        env.wait("stopped", timeout=60)
        assert len(list(env.logs())) == 4


def test_what_is_wrong_is_named(shared_daemon: Daemon) -> None:
    with Client(shared_daemon.dir / "control.sock", autostart=False) as client:
        with pytest.raises(SpecInvalid, match="name"):
            client.run("true", name="No Label")
        with pytest.raises(NotFound, match="nobody"):
            client.get("nobody")


def test_the_awaitable_colour(shared_daemon: Daemon) -> None:
    async def main() -> None:
        async with AsyncClient(shared_daemon.dir / "control.sock", autostart=False) as client:
            envs = await asyncio.gather(*(client.run(["sleep", "1000"], name=f"a{number}") for number in range(3)))
            done = await asyncio.gather(*(env.exec(["sh", "-c", f"echo {number}"]) for number, env in enumerate(envs)))
            assert [one.text for one in done] == ["0\n", "1\n", "2\n"]
            assert (await envs[0].exec(["wc", "-c"], input=b"x" * 1_000_000)).text.strip() == "1000000"
            with pytest.raises(TimedOut):
                await envs[0].exec(["sleep", "1000"], timeout=0.2)
            assert {env.name for env in await client.list()} >= {"a0", "a1", "a2"}
            assert (await envs[0].stop(timeout=1)).state == "stopped"
            assert [line.text async for line in envs[1].logs()] == []
            for env in envs:
                assert not (await env.remove()).receipt.leaked

    asyncio.run(main())


# -- the start of a daemon -----------------------------------------------------------------------------------------------------


def test_the_first_client_starts_a_real_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the keeper, so that whatever it leaves is seen."""
    daemon = Daemon()
    code = (
        "from sandboxd.client import Client; from sandboxd.protocol.messages import Status; print(Client().call(Status()).pid)"
    )
    try:
        import sys

        pids = [daemon.keeper.run([sys.executable, "-c", code], daemon.environ).stdout.strip() for _ in range(2)]
        assert pids[0] == pids[1] != ""
        with daemon.client() as client:
            assert client.call(Status()).pid == int(pids[0])
    finally:
        daemon.close()


def test_a_real_daemons_refusal_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another daemon's router has the port."""
    first = Daemon()
    try:
        first.start()
        monkeypatch.setenv("SANDBOXD_DIR", str(tmp_path / "second"))
        monkeypatch.setenv("SANDBOXD_LISTEN", f"127.0.0.1:{first.port}")
        monkeypatch.delenv("SANDBOXD_SOCKET", raising=False)
        from sandboxd.errors import PortTaken

        with Client() as client, pytest.raises(PortTaken, match=str(first.port)):
            client.call(Status())
        assert not (tmp_path / "second" / "control.sock").exists()
    finally:
        first.close()


def test_a_daemon_that_was_killed_is_unreachable(daemon: Daemon) -> None:
    with daemon.client() as client:
        client.call(Status())
        daemon.kill()
        with pytest.raises(DaemonUnreachable):
            client.call(Status())
    assert os.path.exists(daemon.dir / "control.sock")
