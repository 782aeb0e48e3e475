"""The first thing that a newcomer runs: one command, and it answers at its name."""

import json
from pathlib import Path

from tests.daemons import Daemon


def test_up_url_down(shared_daemon: Daemon, project) -> None:
    directory = project("hello")
    up = shared_daemon.sandbox("up", directory)
    url = f"http://hello.localhost:{shared_daemon.port}"
    assert url in up.stdout + up.stderr
    status, body = shared_daemon.request("hello")
    assert (status, body.splitlines()[0]) == (200, b"Hello from hello.")
    seen = dict(line.split(maxsplit=2)[0::2] if line.startswith("host") else line.split(maxsplit=1) for line in lines(body))
    assert seen["host"] == "hello"
    assert seen["workspace"] == str(directory)
    assert seen["reached"] == f"at   {url}"
    assert int(seen["processes"].partition(",")[0].split()[0]) <= 3, "processes of others can be seen"
    shown = shared_daemon.sandbox("exec", "hello", "--", "ls", "-A", Path.home()).stdout.split()
    tools = [Path(entry) for entry in shared_daemon.environ["PATH"].split(":") if Path(entry).is_relative_to(Path.home())]
    assert set(shown) <= {tool.relative_to(Path.home()).parts[0] for tool in tools}, "more of the real home than toolchains"

    assert shared_daemon.sandbox("url", "hello").stdout.strip() == url
    (listed,) = shared_daemon.json("ps")
    assert (listed["name"], listed["state"], listed["url"]) == ("hello", "ready", url)
    shared_daemon.sandbox("down", directory)
    assert json.loads(shared_daemon.sandbox("ps", "-a", "--format", "json").stdout or "[]") == []
    assert shared_daemon.request("hello")[0] == 404


def lines(body: bytes) -> list[str]:
    """The page's lines of one fact each."""
    return [line for line in body.decode().splitlines()[1:] if line]
