"""A Node front end: its page, its modules, and its hot reload over the router's WebSocket."""

import json
import re
import socket
from typing import Any

from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from tests.daemons import PATIENCE, Daemon
from tests.require import require


def heard(talk: ClientConnection, kind: str) -> dict[str, Any]:
    """The next message of that type; pings and the like are passed over."""
    while True:
        message: dict[str, Any] = json.loads(talk.recv(timeout=PATIENCE))
        if message["type"] == kind:
            return message


def test_an_edit_reaches_the_browser(shared_daemon: Daemon, project) -> None:
    require("node", "npm")
    directory = project("vite")
    shared_daemon.sandbox("up", directory, timeout=120)
    status, page = shared_daemon.request("vite")
    assert status == 200
    assert b'src="/src/main.js"' in page
    # A browser loads these before it hears of changes to them.
    status, client = shared_daemon.request("vite", "/@vite/client")
    assert status == 200
    assert shared_daemon.request("vite", "/src/main.js")[0] == 200
    assert b"watch this line change" in shared_daemon.request("vite", "/src/greeting.js")[1]

    (token,) = re.findall(rb'wsToken = "([^"]+)"', client)
    host = f"vite.localhost:{shared_daemon.port}"
    wire = socket.create_connection(("127.0.0.1", shared_daemon.port))
    url = f"ws://{host}/?token={token.decode()}"
    with connect(url, sock=wire, subprotocols=[Subprotocol("vite-hmr")], origin=Origin(f"http://{host}")) as talk:
        heard(talk, "connected")
        (directory / "src/greeting.js").write_text('export const greeting = "changed outside, seen inside";\n')
        update = heard(talk, "update")["updates"][0]
        assert update["acceptedPath"] == "/src/greeting.js"
        status, module = shared_daemon.request("vite", f"/src/greeting.js?t={update['timestamp']}")
        assert status == 200
        assert b"changed outside, seen inside" in module
    shared_daemon.sandbox("down", directory)
