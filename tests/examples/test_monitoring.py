"""The monitoring example: a real Prometheus scrapes a real daemon; every panel of the dashboard has something to draw."""

import json
import os
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

from tests.daemons import PATIENCE, ROOT, Daemon
from tests.require import require

EXAMPLE = ROOT / "examples" / "monitoring"


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def test_promtool_accepts_configuration_and_alerts() -> None:
    require("promtool")
    done = subprocess.run(
        ["promtool", "check", "config", EXAMPLE / "prometheus.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 rules found" in done.stdout


def query(port: int, expression: str) -> list[object]:
    """What Prometheus answers now."""
    url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(url, timeout=5) as answer:
        result: list[object] = json.load(answer)["data"]["result"]
        return result


def test_every_panel_shows_a_running_daemon(daemon: Daemon, tmp_path: Path) -> None:
    require("prometheus")
    text = (EXAMPLE / "prometheus.yml").read_text()
    config = tmp_path / "prometheus.yml"
    config.write_text(
        text.replace("127.0.0.1:7070", f"127.0.0.1:{daemon.port}").replace("scrape_interval: 5s", "scrape_interval: 500ms")
    )
    (tmp_path / "alerts.yml").write_text((EXAMPLE / "alerts.yml").read_text())
    serve = ["python3", "-m", "http.server", "3000", "--bind", "127.0.0.1"]
    daemon.sandbox("run", "-d", "--name", "shop", "-p", "3000", "--", *serve, cwd=tmp_path)
    daemon.sandbox("wait", "--for", "ready", "shop")
    port = free_port()
    argv = [
        "prometheus",
        f"--config.file={config}",
        f"--web.listen-address=127.0.0.1:{port}",
        f"--storage.tsdb.path={tmp_path}/data",
    ]
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, env={"PATH": os.environ["PATH"], "no_proxy": ""})
    try:
        panels = json.loads((EXAMPLE / "dashboard.json").read_text())["panels"]
        missing = {target["expr"]: panel["title"] for panel in panels for target in panel["targets"]}
        assert len(missing) >= 12
        deadline = time.monotonic() + 3 * PATIENCE
        while missing and time.monotonic() < deadline:
            daemon.request("shop")
            daemon.request("nobody")
            time.sleep(0.5)
            try:
                missing = {expression: title for expression, title in missing.items() if not query(port, expression)}
            except OSError:
                continue  # it does not listen yet
        assert not missing, (tmp_path / "log").read_text()
        assert query(port, "up == 1")
        assert query(port, 'sandboxd_envs{state="ready"} == 1')
    finally:
        process.kill()
        process.wait()
